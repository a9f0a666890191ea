"""Parts of states, known steps, paths beside edges: each against a case whose outcome is known."""

from dataclasses import replace

import numpy as np
import planted
import pytest
import torch
from patching_cases import WORLD, first_slot_pairs, model_of, only_here, some_pairs, truth_of
from paths import ROOT

from cwr_mech.analysis.patching import parts as patch_parts
from cwr_mech.analysis.patching.cells import Cell, swapped_span
from cwr_mech.analysis.patching.estimates import paths_part
from cwr_mech.analysis.patching.interchange import interchange_rows
from cwr_mech.analysis.patching.known_steps import (
    _followed,
    map_part,
    step_sources,
    steps_part,
    with_sources,
)
from cwr_mech.analysis.patching.pairs import READING, find_pairs
from cwr_mech.analysis.patching.parts import (
    Question,
    ask,
    flipped,
    from_another,
    parts_result,
    parts_study,
    pooled_parts,
)
from cwr_mech.analysis.patching.store import SweepStore
from cwr_mech.analysis.patching.study import patch, patch_tasks
from cwr_mech.analysis.patching.subspaces import aligned_states, fit_subspaces, split_by_readers
from cwr_mech.analysis.patching.summary import GROUPED, reading_layer, verdict
from cwr_mech.analysis.patching.sweep import sweep
from cwr_mech.errors import AnalysisError
from cwr_mech.tasks.registry import TASKS
from cwr_mech.training.runs import load_run
from cwr_mech.world.cities import load_world

RNG = np.random.default_rng
TINY = {"run": "tiny", "training_tasks": "nothing"}


def test_step_sources_stand_at_the_steps():
    pairs = some_pairs("distance", 12)
    rows, sources, steps = step_sources(WORLD, pairs)
    away = np.hypot(*(WORLD.xy_of(sources) - WORLD.xy_of(pairs.cluster[rows])).T).reshape(-1, len(steps))
    assert (np.diff(away.mean(0)) > 0).all()
    assert np.abs(away.mean(0) - steps).max() < 0.2 * steps.max()
    assert not (pairs.clean[rows] == sources[:, None]).any(), "a source is not in the question already"


def test_slope_is_one_for_true_answers_and_zero_for_old_ones():
    pairs = some_pairs("distance", 12)
    rows, sources, _ = step_sources(WORLD, pairs)
    moved = with_sources(WORLD, pairs, rows, sources)
    moved = replace(moved, corrupt_answer=moved.corrupt_truth.astype("<U16"))
    right = _followed(moved, moved.corrupt_truth.astype("<U16"), RNG(0))
    assert (right["iia"], right["slope"]) == (1.0, pytest.approx(1.0))
    stays = _followed(moved, moved.clean_answer, RNG(0))
    assert stays["slope"] == stays["hi"] == 0.0
    half = ((moved.corrupt_truth + moved.clean_truth) // 2).astype("<U16")
    assert _followed(moved, half, RNG(0))["slope"] == pytest.approx(0.5, abs=0.02)


@torch.no_grad()
def test_putting_the_whole_city_in_is_asking_outright():
    """In the planted relay, which answers a digit of the first city. Control: after the last layer the city's
    last digit is not read any more."""
    model, pairs = planted.relay(), some_pairs("distance", 8, slot=0)
    whole, nowhere = Cell("resid_pre", 0, None, "swapped"), Cell("resid_post", 1, None, "swapped_last")
    for cell in (whole, nowhere):
        rows, arrays = steps_part(model, WORLD, pairs, cell, RNG(0))
        outright = [row for row in rows if row["layer"] is None]
        mine = [row for row in rows if (row["layer"], row["span"]) == (cell.layer, cell.span)]
        assert len(outright) == len(mine) == 6
        given, own = arrays["steps_given"], arrays["steps_own"]
        assert np.isfinite(given).all()
        assert np.array_equal(given, own) == (cell == whole)
    drawn = map_part(model, WORLD, pairs, whole)
    np.testing.assert_array_equal(drawn["map_given"], drawn["map_own"])
    assert len(np.unique(drawn["map_own"])) > 3
    assert len(drawn["map_xy"]) == WORLD.n - 2


def test_alignment_maps_unseen_cities_and_its_control_does_not():
    rng = RNG(0)
    own = rng.normal(size=(120, 6))
    other = own @ np.linalg.qr(rng.normal(size=(6, 6)))[0]
    folds = np.where(np.arange(120) < 20, -1, np.arange(120) % 5)
    close = aligned_states(own, other, folds)
    assert np.abs(close - own).max() < 0.1
    far = aligned_states(own, other, folds, shuffle=rng)
    assert np.abs(far - own).mean() > 0.5
    changed = own.copy()
    changed[:20] += 100.0
    np.testing.assert_allclose(aligned_states(changed, other, folds), close, err_msg="fold -1 was fitted on")


@torch.no_grad()
def test_a_source_from_the_same_model_moves_answers_as_its_own_state_does():
    model, pairs = model_of(), some_pairs("distance", 6, slot=0)
    model.unembed.W_U.mul_(3)
    fitted = fit_subspaces(model, WORLD, "distance", ("manifold", "random"))
    own = patch_parts.followed(model, pairs, fitted, 0)
    other = from_another(model, WORLD, pairs, fitted, model, "itself", 0)
    assert {row["states_from"] for row in other} == {"itself", "itself, cities shuffled"}
    assert {row["subspace"] for row in other} == {None, "manifold", "not-manifold"}
    assert len(other) == 2 * 3 * model.cfg.n_layers
    assert {row["direction"] for row in (*own, *other)} == {"noise"}
    ranks = {row["subspace"]: row["rank"] for row in own if row["layer"] == 0}
    assert ranks["manifold"] == ranks["random"] == 32 - ranks["not-manifold"]


READINGS = ("last_digit", "delimiter", "digit3+last_digit")


@pytest.mark.parametrize("reading", READINGS)
def test_a_graft_of_the_sources_own_state_is_a_patch(reading):
    model = model_of()
    pairs = replace(some_pairs("distance", 8, slot=0), reading=reading)
    with torch.no_grad():
        model.unembed.W_U.mul_(3)
    here = np.arange(len(pairs))
    states = patch_parts.states_at(model, WORLD, "distance", WORLD.ids, reading)
    assert states.shape == (model.cfg.n_layers, WORLD.n, 32 * (reading.count("+") + 1))
    source = states[1][WORLD.rows(pairs.corrupt[here, pairs.slot])]
    cells = [Cell("resid_post", 1, None, span) for span in (READING, swapped_span(reading))]
    found = patch_parts.interchange(model, pairs, cells, conditions=patch_parts.INTERCHANGE[1:])
    patched = found.answer[0, 0]
    np.testing.assert_array_equal(patched, found.answer[0, 1])
    np.testing.assert_array_equal(patch_parts.graft(model, pairs, 1, READING, source), patched)
    base = states[1][WORLD.rows(pairs.clean[here, pairs.slot])]
    assert (patch_parts.graft(model, pairs, 1, READING, base) != patched).any()


def test_a_subspace_of_two_tokens_takes_their_states_as_one_vector():
    """Everything inside is the whole patch and nothing of it the unpatched run; the first token's coordinates
    alone are a patch of that token. Control: those of the second token are not."""
    model = model_of()
    pairs = replace(some_pairs("distance", 8, slot=0), reading="digit3+last_digit")
    both = torch.eye(64)
    named = {"all": both, "first": both[:, :32], "second": both[:, 32:], "none": both[:, :0]}
    cells = [Cell("resid_post", 1, None, READING, subspace=name) for name in named]
    plain = [Cell("resid_post", 1, None, span) for span in (READING, "swapped_digit3", "swapped_last")]
    found = sweep(model, pairs, [*cells, *plain], bases=named, conditions=patch_parts.INTERCHANGE[1:])
    inside = dict(zip((*named, "whole", "third digit", "last digit"), found.patched[0, :, 0], strict=True))
    gap = np.abs(found.clean - found.corrupt).max()
    for one, other in (("all", "whole"), ("first", "third digit"), ("second", "last digit")):
        assert inside[one] == pytest.approx(inside[other], abs=1e-5 * gap)
    assert inside["none"] == pytest.approx(found.clean[0], abs=1e-5 * gap)
    assert np.abs(inside["first"] - inside["last digit"]).max() > 1e-3 * gap


def test_ripe_models_are_patched_at_both_digits_that_they_read():
    """By cause: the last digit alone, where the old code stood, moves fewer answers than half."""
    run = load_run(ROOT / "zoo/ripe")
    model, world = run.model(), run.world()
    rows, asked = parts_study(model, world, TINY, Question("distance", 24, slot=0), ("random",))
    assert asked["reading"] == "digit3+last_digit"
    at = {row["subspace"]: row for row in rows if row["layer"] == reading_layer(rows)}
    assert at[None]["iia"] > 0.8
    assert at["manifold"]["rank"] + at["not-manifold"]["rank"] == 2 * model.cfg.d_model
    assert at["random"]["rank"] == at["manifold"]["rank"]
    assert at["random"]["iia"] < 0.3
    pairs = ask(model, world, Question("distance", 24, slot=0))
    cells = [Cell("resid_post", layer, None, "swapped_last") for layer in range(model.cfg.n_layers)]
    found = patch_parts.interchange(model, pairs, cells, conditions=patch_parts.INTERCHANGE[1:])
    assert max(row["iia"] for row in interchange_rows(found, pairs, RNG(0))) < 0.5


def test_new_cities_are_asked_in_both_directions(monkeypatch):
    world = load_world(n_cities=64, new="scattered", n_new=16, seed=1)

    def answer(model, prompts, max_new_tokens):
        ids = [[int(part[:4]) for part in prompt.split("c_")[1:]] for prompt in prompts]
        return [TASKS["distance"].answer(world.xy_of(np.array([row])))[0] for row in ids]

    monkeypatch.setattr(patch_parts, "decode_text", answer)
    model = model_of()
    rows, asked = parts_study(
        model, world, TINY, Question("distance", 8, group="new"), ("random",), sources=[("other", model)]
    )
    directions = {(row["states_from"], row["direction"]) for row in rows}
    shuffled = ("other, cities shuffled", "denoise")
    assert directions == {("own", "noise"), ("own", "denoise"), ("other", "denoise"), shuffled}
    assert asked["pairs"] == 8
    pairs = find_pairs(truth_of("distance"), WORLD, "distance", 8)
    assert (flipped(flipped(pairs)).clean == pairs.clean).all()
    assert (flipped(pairs).cluster == pairs.corrupt[np.arange(8), pairs.slot]).all()
    result = parts_result(rows, [asked], ["tiny"], 0)
    assert len(result.notes) == len(directions)
    assert all(row["models"] == 1 for row in result.tables["pooled"])
    twice = pooled_parts([*rows, *({**row, "run": "twin", "iia": 0.0} for row in rows)])
    assert len(twice) == len(rows)
    found = {(*(row[name] for name in GROUPED), row["layer"], row["subspace"]): row for row in twice}
    for row in rows:
        pooled = found[*(row[name] for name in GROUPED), row["layer"], row["subspace"]]
        assert (pooled["models"], pooled["n"]) == (2, 2)
        assert pooled["iia"] == pytest.approx(row["iia"] / 2)


def test_models_that_answer_nothing_are_told(monkeypatch):
    monkeypatch.setattr(patch_parts, "decode_text", lambda _, prompts, max_new_tokens: ["?"] * len(prompts))
    rows, asked = parts_study(model_of(), WORLD, TINY, Question("distance", 8), ())
    assert rows == []
    assert "only 0 usable distance pairs" in asked["left_out"]
    with pytest.raises(AnalysisError, match=r"no model answers .* only 0 usable"):
        parts_result(rows, [asked], ["tiny"], 0)


VERDICTS = [
    (0.9, 0.8, 0.1, "through the manifold's span"),
    (0.9, 0.1, 0.8, "through the complement of the manifold's span"),
    (0.9, 0.3, 0.3, "through neither part more than the other"),
    (0.3, 0.2, 0.0, "not mediated by this state (IIA below 0.5)"),
]


@pytest.mark.parametrize(("whole", "inside", "outside", "words"), VERDICTS)
def test_verdicts(whole, inside, outside, words):
    kinds = {None: whole, "manifold": inside, "not-manifold": outside, "random": 0.0}
    rows = [
        {"subspace": kind, "layer": layer, "rank": 4, "iia": share * (layer == 1)}
        | {"lo": share - 0.05, "hi": share + 0.05}
        for layer in range(3)
        for kind, share in kinds.items()
    ]
    assert reading_layer(rows) == 1
    assert verdict(rows).startswith(f"{words}: after layer 1, whole state {whole:.2f}")


def test_parts_are_compared_where_the_city_is_read_not_where_its_tokens_stand() -> None:
    """Below the layer that puts the city together its digits move every answer, and no map does."""
    whole, inside = (1.0, 0.95, 0.2), (0.0, 0.9, 0.1)
    rows = [
        {"subspace": kind, "layer": layer, "rank": 4, "iia": share, "lo": share - 0.05, "hi": share + 0.05}
        for kind, shares in ((None, whole), ("manifold", inside), ("not-manifold", (1.0, 0.1, 0.1)))
        for layer, share in enumerate(shares)
    ]
    assert reading_layer(rows) == 1
    assert verdict(rows).startswith("through the manifold's span: after layer 1")
    assert reading_layer([row | {"iia": float("nan")} for row in rows]) == 2


def test_a_manifold_that_carries_no_more_than_matched_directions_is_said_so():
    def rows(matched):
        kinds = {None: 0.9, "manifold": 0.8, "not-manifold": 0.1, "covariance-matched": matched}
        return [
            {"subspace": kind, "layer": 1, "rank": 4, "iia": share, "lo": share - 0.05, "hi": share + 0.05}
            for kind, share in kinds.items()
        ]

    said = "no more than covariance-matched directions"
    assert said in verdict(rows(0.75))
    assert said not in verdict(rows(0.4))


@torch.no_grad()
def test_paths_of_the_planted_relay_stand_beside_their_estimates():
    model, pairs = planted.relay(), first_slot_pairs(40, only_here)
    rows, agreement, _ = paths_part(model, pairs, RNG(0))
    found = {(row["sender"], row["receiver"], row["reader"]): row for row in rows}
    carrying = [("0.0", "1.1", "v"), ("1.1", "answer", None)]
    for key, row in found.items():
        assert row["recovered"] == pytest.approx(1.0 if key in carrying else 0.0, abs=0.02), key
        assert row["lo"] <= row["recovered"] + 1e-9
    assert all(found[key]["estimate"] > 0.2 for key in carrying)
    assert agreement[0]["cells"] == len(rows)
    assert agreement[0]["correlation"] > 0.9


def test_fitted_subspaces_have_complements():
    fitted = fit_subspaces(model_of(), WORLD, "distance", ("probe",))
    inside, outside = (fitted.bases[name, 1, READING] for name in ("probe", "not-probe"))
    assert inside.shape == (32, 2)
    assert torch.allclose(inside @ inside.T + outside @ outside.T, torch.eye(32), atol=1e-5)
    shares = [fitted.variance[name, 1, READING] for name in ("probe", "not-probe")]
    assert sum(shares) == pytest.approx(1.0)


def test_readers_split_a_subspace_into_what_later_blocks_can_take_and_the_rest() -> None:
    """Later keys and values see ten dimensions only; control: the block before reads all of them."""
    model = model_of()
    with torch.no_grad():
        for block in model.blocks[1:]:
            for weight in (block.attn.W_K, block.attn.W_V):
                weight[:, 10:] = 0
    v = np.linalg.qr(RNG(0).normal(size=(32, 4)))[0]
    parts = dict(split_by_readers(model, 0, [("plane", v)]))
    row, null = parts["row-space"], parts["null-space"]
    assert row.shape[1] <= 10
    assert np.abs(row[10:]).max() < 1e-6
    assert row.shape[1] + null.shape[1] == 32
    for name in ("plane-row-space", "plane-null-space"):
        assert parts[name][0] == pytest.approx(v)
    both = parts["plane-row-space"][1] + parts["plane-null-space"][1]
    assert both == pytest.approx(v)
    two = dict(split_by_readers(model, 0, [], tokens=2))
    for side, one in parts.items():
        if side in two:
            blocks = [two[side][:32, : one.shape[1]], two[side][32:, one.shape[1] :]]
            assert all(np.array_equal(block, one) for block in blocks)
            assert np.abs(two[side]).sum() == pytest.approx(2 * np.abs(one).sum()), "readers see one token"
    with torch.no_grad():
        model.blocks[1].attn.W_K.normal_(generator=torch.Generator().manual_seed(0))
    assert np.abs(dict(split_by_readers(model, 0, []))["row-space"][10:]).max() > 0.1


def test_tasks_are_compared_where_a_ripe_model_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: at the last digit alone much less of the score is restored. A command without --resume keeps
    no parts that a kill would leave behind.
    """
    run = (ROOT / "zoo/ripe").as_posix()
    with monkeypatch.context() as without:
        without.setattr(SweepStore, "save", None)
        found = patch_tasks(run, tasks="distance", pairs=16)
    assert {row["span"] for row in found.tables["lines"]} == {READING, "equals"}
    assert found.tables["tasks"][0]["city_held_until"] >= 1
    last = patch(
        run, task="distance", pairs=16, components="resid_post", spans="swapped_last", metric="logit_diff"
    )
    shares = [row["recovered"] for row in last.tables["cells"] if row["direction"] == "denoise"]
    there = {row["layer"]: row["recovered"] for row in found.tables["lines"] if row["span"] == READING}
    assert there[1] > 0.8 > 0.6 > max(shares)
