"""Exact patching: equal to one full forward a cell, and the invariants that any patching must keep."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from patching_cases import model_of, some_pairs

from cwr_mech.activations.site import HOOKS
from cwr_mech.analysis.patching.batch import Batch
from cwr_mech.analysis.patching.cells import (
    COMPONENTS,
    Cell,
    check_places,
    grid,
    span_positions,
)
from cwr_mech.analysis.patching.forward import Forward, Tree
from cwr_mech.analysis.patching.layout import CONDITIONS, layouts
from cwr_mech.analysis.patching.metrics import check_metrics
from cwr_mech.analysis.patching.sentences import weak_lines
from cwr_mech.analysis.patching.store import Sweeps, SweepStore, sweep_key
from cwr_mech.analysis.patching.sweep import rows_computed, sweep
from cwr_mech.errors import AnalysisError, ArtifactError, UnknownName
from cwr_mech.tasks.registry import TASKS
from cwr_mech.tasks.tokenizer import CHAR_ID, EOS, Tokenizer

METRICS = ("logit_diff", "logprob_diff", "kl", "digit1", "digit2")


def one_forward(model, cell, base, source, positions, basis=None):
    """Logits of prompt-and-answer tokens `base` [pos] with the cell's activation from `source`, by hooks."""
    name = HOOKS[cell.component].replace("L", str(cell.layer))
    _, cache = model.run_with_cache(source[None], names_filter=name)
    theirs = cache[name].clone()

    def patch(value, hook):
        value = value.clone()
        if cell.component == "pattern":
            value[:, cell.head, positions] = theirs[:, cell.head, positions]
        elif cell.head is not None:
            value[:, positions, cell.head] = theirs[:, positions, cell.head]
        elif basis is not None:
            value[:, positions] += (theirs - value)[:, positions] @ basis @ basis.T
        else:
            value[:, positions] = theirs[:, positions]
        return value

    return model.run_with_hooks(base[None], fwd_hooks=[(name, patch)])[0]


def slow_scores(model, pairs, row, condition, cell, basis=None):
    """All METRICS of one cell in one pair, each from full forwards over plain sequences."""
    task, tokenizer = TASKS[pairs.task], Tokenizer()
    prompt = {
        role: tokenizer.encode_prompt(task.prompt(getattr(pairs, role)[row : row + 1])[0])
        for role in ("clean", condition.base, condition.role)
    }
    sides = [pairs.clean_answer[row], pairs.corrupt_answer[row]]
    answers = [[*(CHAR_ID[c] for c in text), EOS] for text in sides]
    size = int((pairs.clean[row] >= 0).sum())
    logits, plain = [], []
    for answer in answers:
        tree = Tree(len(prompt["clean"]), (len(answer) - 1,))
        places = span_positions(pairs.task, size, int(pairs.slot[row]), 4, tree)[cell.span]
        runs = {role: torch.tensor(tokens + answer[:-1]) for role, tokens in prompt.items()}
        if places:
            logits.append(
                one_forward(model, cell, runs[condition.base], runs[condition.role], list(places), basis)
            )
        else:
            logits.append(model(runs[condition.base][None])[0])
        plain.append(model(runs["clean"][None])[0])
    start = len(prompt["clean"]) - 1
    first = next(i for i in range(9) if answers[0][i] != answers[1][i])
    parts = np.zeros(16)
    for sign, side, answer in zip((1, -1), logits, answers, strict=True):
        for k, token in enumerate(answer):
            parts[k] += sign * side[start + k].log_softmax(-1)[token].item()
    here = logits[0][start + first]
    p, q = plain[0][start + first].log_softmax(-1), here.log_softmax(-1)
    diff = (here[answers[0][first]] - here[answers[1][first]]).item()
    return np.array([diff, parts.sum(), (p.exp() * (p - q)).sum().item(), parts[0], parts[1]])


CASES = [("mha", "distance"), ("gqa", "perimeter"), ("tied", "compass"), ("gqa", "crossing")]


@pytest.mark.parametrize(("kind", "task"), CASES)
@torch.no_grad()
def test_every_component_equals_one_full_forward_a_cell(kind, task):
    # In float64: in float32 both are off by some 1e-5, how much is a matter of the processor.
    model, pairs = model_of(kind).double(), some_pairs(task, 4)
    rng = np.random.default_rng(0)
    places = check_places(["default", "swapped", "pos3"], task, 4)
    cells = grid(model.cfg, COMPONENTS, places)
    checked = [next(c for c in cells if c.component == name) for name in COMPONENTS]
    checked += [cells[i] for i in rng.choice(len(cells), 40, replace=False)]
    checked += [Cell("neurons", 1, None, "swapped_last")]
    checked += [Cell("resid_mid", 1, None, "swapped_delimiter", subspace="plane")]
    basis = torch.linalg.qr(torch.randn(32, 5, generator=torch.Generator().manual_seed(0)))[0].double()
    found = sweep(
        model, pairs, checked, metrics=METRICS, conditions=CONDITIONS, bases={"plane": basis}, budget=200_000
    )
    scores = found.patched[:, :, 0]
    for c, cell in enumerate(checked):
        a, row = rng.integers(len(CONDITIONS)), rng.integers(len(pairs))
        if np.isfinite(scores[a, c, row]):
            slow = slow_scores(model, pairs, row, CONDITIONS[a], cell, basis if cell.subspace else None)
            np.testing.assert_allclose(found.patched[a, c, :, row], slow, atol=1e-6, rtol=1e-6)
    assert np.isfinite(scores[0]).mean() > 0.5
    moved = np.nanmax(np.abs(scores[0] - found.corrupt[0]))
    assert moved > 0.01, "nothing moved: the comparison shows nothing"


@torch.no_grad()
def test_patching_a_run_with_itself_changes_nothing():
    model, pairs = model_of(), some_pairs(n=3)
    cells = grid(model.cfg, COMPONENTS, ["swapped_digits", "swapped_last", "equals", "answer1"])
    cells = [cell for cell in cells if cell.layer != 1]
    found = sweep(model, pairs, cells, metrics=METRICS, conditions=CONDITIONS)
    own = next(a for a, condition in enumerate(CONDITIONS) if condition.source == "self")
    assert np.nanmax(np.abs(found.patched[own] - found.corrupt)) < 1e-5
    assert np.nanmax(np.abs(found.patched[0] - found.corrupt)) > 0.01


@torch.no_grad()
def test_ends_of_the_residual_stream_recover_everything_and_places_after_the_answer_nothing():
    model, pairs = model_of(), some_pairs(n=12)
    last = model.cfg.n_layers - 1
    length = len(model.to_tokens(TASKS["distance"].prompt(pairs.clean[:1, :2]))[0])
    whole = [Cell("resid_pre", 0, None, "swapped"), Cell("resid_post", last, None, "equals")]
    unread = [Cell("resid_post", last, None, f"pos{p}") for p in range(length - 1)]
    found = sweep(model, pairs, [*whole, *unread])
    for condition, end in ((0, found.clean), (1, found.corrupt)):
        first_digit = pairs.clean_answer.astype("<U1") != pairs.corrupt_answer.astype("<U1")
        np.testing.assert_allclose(found.patched[condition, 0], end, atol=1e-5)
        np.testing.assert_allclose(
            found.patched[condition, 1, :, first_digit], end[:, first_digit].T, atol=1e-5
        )
    np.testing.assert_array_equal(found.patched[0, 2:, 0], np.broadcast_to(found.corrupt, (length - 1, 12)))


@torch.no_grad()
def test_batch_size_does_not_matter():
    model, pairs = model_of("gqa"), some_pairs("inside", 4)
    cells = grid(model.cfg, ("z", "k", "mlp_out"), ["swapped_last", "later_digits", "equals"])
    cells = [cell for cell in cells if cell.layer == 1]
    large = sweep(model, pairs, cells).patched
    small = sweep(model, pairs, cells, budget=1).patched
    np.testing.assert_allclose(large, small, atol=1e-5)


@torch.no_grad()
def test_complement_of_a_subspace_and_the_subspace_move_what_the_whole_moves():
    """Not the scores, which are not linear: the residual edits add up."""
    model, pairs = model_of(), some_pairs(n=3)
    whole = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(1)))[0]
    bases = {"part": whole[:, :7], "rest": whole[:, 7:], "all": whole}
    forward = Forward(model)
    layout = next(layouts(pairs, ("logit_diff",)))
    batch = Batch(forward, layout, bases=bases)
    base, source = (batch.runs(role) for role in ("corrupt", "clean"))
    span = layout.spans["swapped_last"]
    cells = {name: Cell("resid_post", 1, None, "swapped_last", subspace=name) for name in bases}
    edits = {name: batch.edit(cell, base, source).values for name, cell in cells.items()}
    full = batch.edit(Cell("resid_post", 1, None, "swapped_last"), base, source).values
    before = batch.record.at(4, base, span)
    # h + B B'(s - h): two sums of d_model products of float32, each with an error of up to d_model eps
    # times the largest value, in whichever order a processor adds.
    width, eps = model.cfg.d_model, torch.finfo(torch.float32).eps
    tolerance = 2 * width * eps * float(max(full.abs().max(), before.abs().max()))
    torch.testing.assert_close(edits["all"], full, atol=tolerance, rtol=0)
    torch.testing.assert_close(edits["part"] + edits["rest"] - before, full, atol=2 * tolerance, rtol=0)
    assert (edits["part"] - full).abs().max() > 1000 * tolerance, "control: a part alone moves less"


def test_a_patched_sweep_leaves_the_model_as_it_was(monkeypatch):
    model, pairs = model_of(), some_pairs(n=2)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    cells = grid(model.cfg, ("z",), ["equals"])
    monkeypatch.setattr(Forward, "logits", lambda *_: (_ for _ in ()).throw(RuntimeError("stopped")))
    with pytest.raises(RuntimeError, match="stopped"):
        sweep(model, pairs, cells)
    assert not any(hook.fwd_hooks or hook.bwd_hooks for hook in model.hook_dict.values())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not model.cfg.use_attn_result


@torch.no_grad()
def test_a_stopped_sweep_resumes_and_ends_the_same(tmp_path):
    model, pairs = model_of(), some_pairs(n=6)
    cells = grid(model.cfg, ("resid_post", "z"), ["swapped_last", "equals"])
    key = sweep_key("weights", pairs, cells, ("logit_diff",), [])
    whole = sweep(model, pairs, cells)

    class Stop(Exception):
        pass

    def stop_late(n, done=[0]):  # noqa: B006 - the count must outlive the calls
        done[0] += n
        if done[0] > 100:
            raise Stop

    store = SweepStore(tmp_path / "s", key, resume=False)
    with pytest.raises(Stop):
        sweep(model, pairs, cells, store=store, advance=stop_late)
    kept = store.parts
    assert kept > 0
    again = SweepStore(tmp_path / "s", key, resume=True)
    computed = []
    original = Forward.resume
    Forward.resume = lambda self, *args: computed.append(1) or original(self, *args)
    try:
        resumed = sweep(model, pairs, cells, store=again)
    finally:
        Forward.resume = original
    np.testing.assert_array_equal(resumed.patched, whole.patched)
    assert again.parts > kept
    with pytest.raises(ArtifactError, match="different"):
        Sweeps(tmp_path, resume=True).open("s", sweep_key("other", pairs, cells, (), []))


def test_what_a_sweep_left_that_was_killed_is_gone_on_with_or_made_anew(tmp_path):
    values = np.zeros((1, 2, 1, 3))
    first = SweepStore(tmp_path / "s", "key", resume=False)
    assert SweepStore(tmp_path / "s", "other", resume=True).parts == 0  # killed before its first part
    first.save("left", values)
    assert (
        SweepStore(tmp_path / "s", "other", resume=True).parts == 0
    )  # still its own, beside another's parts
    assert SweepStore(tmp_path / "s", "key", resume=True).parts == 1  # control: it is gone on with
    part = first.folder / "left.npy"
    part.write_bytes(bytes(part.stat().st_size))
    assert SweepStore(tmp_path / "s", "key", resume=True).load("left") is None
    assert SweepStore(tmp_path / "s", "key", resume=False).parts == 0


def test_sweeps_of_different_keys_leave_each_other_alone(tmp_path):
    """Two at once, of other pairs say: neither takes or deletes the other's parts; the last one tidies up."""
    first = SweepStore(tmp_path / "s", "a" * 64, resume=False)
    first.save("part", np.zeros((1, 1, 1, 1)))
    second = SweepStore(tmp_path / "s", "b" * 64, resume=False)
    assert second.load("part") is None
    second.save("part", np.ones((1, 1, 1, 1)))
    assert first.load("part") == 0
    assert second.load("part") == 1
    second.remove()
    assert SweepStore(tmp_path / "s", "a" * 64, resume=True).parts == 1
    first.remove()
    assert not (tmp_path / "s").exists()


def test_a_command_of_two_models_goes_on_with_both_and_forgets_them_together(tmp_path):
    """Killed in the second model's sweep, it does not compute the first one anew; old parts of another sweep
    of the second model are no reason to refuse what the first one left.
    """
    SweepStore(tmp_path / "two", "old", resume=False).save("part", np.zeros((1, 1, 1, 1)))
    killed = Sweeps(tmp_path)
    killed.open("one", "key").save("part", np.ones((1, 1, 1, 1)))
    killed.__exit__(KeyboardInterrupt)
    with pytest.raises(ArtifactError, match="different"):
        Sweeps(tmp_path, resume=True).open("two", "key")  # control: alone it is refused
    with Sweeps(tmp_path, resume=True) as kept:
        assert kept.open("one", "key").load("part") == 1
        assert kept.open("two", "key").parts == 0
    assert not (tmp_path / "one").exists()
    assert [folder.name for folder in (tmp_path / "two").iterdir()] == ["old"]


def test_the_key_of_a_sweep_is_all_that_its_scores_depend_on():
    pairs, cells = some_pairs(n=3), grid(model_of().cfg, ("z",), ["swapped_reading"])
    key = sweep_key("weights", pairs, cells, ("kl",), [])
    assert key == sweep_key("weights", some_pairs(n=3), cells, ("kl",), [])
    others = [
        sweep_key("other", pairs, cells, ("kl",), []),
        sweep_key("weights", some_pairs(n=3, seed=1), cells, ("kl",), []),
        sweep_key("weights", replace(pairs, reading="delimiter"), cells, ("kl",), []),
        sweep_key("weights", pairs, cells[1:], ("kl",), []),
        sweep_key("weights", pairs, cells, ("logit_diff",), []),
        sweep_key("weights", pairs, cells, ("kl",), ["noise"]),
    ]
    assert len({key, *others}) == 7


@torch.no_grad()
def test_the_rows_of_a_sweep_are_known_before_it():
    model, pairs = model_of(), some_pairs(n=5)
    cells = grid(model.cfg, ("resid_pre", "k"), check_places(["default", "bos"], "distance", 4))
    done = []
    sweep(model, pairs, cells, conditions=CONDITIONS, advance=done.append)
    rows = rows_computed(model.cfg, pairs, cells, ("logit_diff",))
    assert rows == sum(done)
    assert rows < len(cells) * len(pairs) * len(CONDITIONS)  # some are known without computing


BAD = [
    (lambda: grid(model_of().cfg, ["resid"], ["equals"]), "unknown component 'resid'"),
    (lambda: check_places(["city9"], "distance", 4), "unknown span 'city9'"),
    (lambda: check_metrics(["logits"], 5), "unknown metric 'logits'"),
]


@pytest.mark.parametrize(("ask", "message"), BAD)
def test_unknown_names_are_refused(ask, message):
    with pytest.raises(UnknownName, match=message):
        ask()


def test_unknown_and_skewed_subspaces_are_refused():
    model, pairs = model_of(), some_pairs(n=2)
    cell = Cell("resid_post", 0, None, "equals", subspace="plane")
    with pytest.raises(UnknownName, match="unknown subspace 'plane'"):
        sweep(model, pairs, [cell])
    with pytest.raises(AnalysisError, match="not orthonormal"):
        sweep(model, pairs, [cell], bases={"plane": torch.ones(32, 2)})


def test_lines_at_a_site_that_answers_do_not_read_are_marked_weak() -> None:
    lines = [{"whole": 0.9}, {"whole": 0.5}, {"whole": None}]
    assert weak_lines(lines) == ""
    told = weak_lines([*lines, {"whole": 0.49}])
    assert "Causally weak" in told
    assert "1 of 4 lines" in told
