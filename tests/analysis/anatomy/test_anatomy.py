"""What an update consists of, against updates that are known."""

from functools import partial
from pathlib import Path

import pytest
import torch

from cwr_mech.activations.site import Site
from cwr_mech.analysis.anatomy.grafts import Graft, graft, state_answers
from cwr_mech.analysis.anatomy.modules import named_modules, reading_layer, sides
from cwr_mech.analysis.anatomy.show import anatomy, anatomy_figure
from cwr_mech.analysis.anatomy.tables import anatomy_result, place_rows
from cwr_mech.analysis.anatomy.update import as_matrix, module_rows, update_rows
from cwr_mech.analysis.locating.survey import Survey
from cwr_mech.config import ModelConfig
from cwr_mech.data.rows import generate
from cwr_mech.errors import AnalysisError, UnknownName
from cwr_mech.model.evaluation import answer_rows
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.results import load_result
from cwr_mech.training.parameters import module_of
from cwr_mech.training.runs import load_run

CFG = ModelConfig(n_layers=4, d_model=16, n_heads=2, d_mlp=24)


def never() -> int:
    raise AssertionError("the reading layer is not needed")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("embed", ("E",)),
        ("U,L0,embed", ("E", "L0", "U")),
        ("L3", ("L3",)),
        ("city", ("E", "L0", "L1")),
        ("answer", ("L2", "L3", "U")),
    ],
)
def test_modules_are_named_alone_or_by_side(text: str, expected: tuple[str, ...]) -> None:
    assert named_modules(text, CFG, (lambda: 1) if text in ("city", "answer") else never) == expected
    with pytest.raises(UnknownName, match="unknown module 'L4'"):
        named_modules("E,L4", CFG, never)


def test_sides_are_all_modules_once() -> None:
    for layer in range(-1, 4):
        both = sides(CFG.modules, layer)
        assert (*both["city"], *both["answer"]) == CFG.modules
    assert sides(CFG.modules, -1)["city"] == ("E",)


def test_the_zoos_cities_are_read_after_block_1() -> None:
    run = load_run("zoo:small")
    assert reading_layer(run.model(), run.world(), ["distance"]) == 1
    untaught = load_run("zoo:small-angle")
    with pytest.raises(AnalysisError):
        reading_layer(untaught.model(), untaught.world(), ["angle"])


# Planted updates: what is in one module only must be found there, and carried by a graft of it alone.


def small_model(seed: int = 1) -> HookedQwen2:
    return HookedQwen2(CFG, seed=seed).eval()


def planted(module: str, size: float = 0.5, rank: int | None = None) -> tuple[HookedQwen2, HookedQwen2]:
    """A base, and a copy with a random change in one module only, of some rank in every matrix."""
    base, tuned = small_model(), small_model()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in tuned.named_parameters():
            if module_of(name) == module:
                change = torch.randn(value.shape, generator=generator)
                if rank and (matrix := as_matrix(name, value.double())) is not None:
                    left = torch.randn(matrix.shape[0], rank, generator=generator)
                    flat = left @ torch.randn(rank, matrix.shape[1], generator=generator)
                    change = flat.view(value.shape) if value.ndim == 2 else unflattened(name, flat, value)
                value += size * change
    return base, tuned


def unflattened(name: str, flat: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    if name.endswith("W_O"):
        return flat.view(value.shape)
    heads, d_model, d_head = value.shape
    return flat.view(d_model, heads, d_head).permute(1, 0, 2)


@pytest.mark.parametrize("module", CFG.modules)
def test_an_update_in_one_module_is_found_and_carried_there(module: str) -> None:
    base, tuned = planted(module)
    rows = module_rows(update_rows(base, tuned), CFG.modules, ("E", "L0", "L1"))
    shares = {row["module"]: row["share"] for row in rows}
    assert shares[module] == pytest.approx(1, abs=1e-12)
    assert all(share == 0 for name, share in shares.items() if name != module)
    tokens = torch.arange(8)[None] + 5
    with torch.no_grad():
        whole, before = tuned(tokens), base(tokens)
        for other in CFG.modules:
            found = graft(base, tuned, [other])(tokens)
            assert torch.equal(found, whole if other == module else before)
    assert not torch.equal(whole, before)


def test_norm_shares_sum_to_one_and_follow_the_size_of_the_change() -> None:
    base, tuned = small_model(), small_model(2)
    rows = update_rows(base, tuned)
    assert sum(row["share"] for row in rows) == pytest.approx(1, abs=1e-12)
    doubled = graft(base, tuned, CFG.modules, 2.0)
    again = update_rows(base, doubled)
    for row, other in zip(rows, again, strict=True):  # float32 weights: relative errors of 1e-7
        assert other["norm2"] == pytest.approx(4 * row["norm2"], rel=1e-5)
        assert other["share"] == pytest.approx(row["share"], rel=1e-5)
    with pytest.raises(AnalysisError, match="same weights"):
        update_rows(base, base)
    with pytest.raises(AnalysisError, match="different shapes"):
        update_rows(base, HookedQwen2(CFG.model_copy(update={"n_layers": 2}), seed=1))


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("half", [False, True])
def test_the_rank_of_a_planted_update_is_recovered(rank: int, half: bool) -> None:
    """Also where the weights were rounded to float16, which gives every matrix full rank."""
    base, tuned = planted("L1", rank=rank)
    if half:
        for model in (base, tuned):
            model.load_state_dict({name: value.half().float() for name, value in model.state_dict().items()})
    rows = [row for row in update_rows(base, tuned) if row["module"] == "L1"]
    matrices = [row for row in rows if row["full_rank"] is not None]
    assert len(matrices) == 7
    for row in matrices:
        assert row["numerical_rank"] == rank
        assert row["effective_rank"] <= rank + 1e-3
        assert (row["effective_rank"] == pytest.approx(1, abs=1e-3)) == (rank == 1)
    full = [row for row in update_rows(*planted("L1")) if row["module"] == "L1" and row["full_rank"]]
    assert all(row["numerical_rank"] == row["full_rank"] for row in full)  # control: nothing is cut off


def test_the_answer_is_linear_in_the_scale_where_the_model_is_linear_in_the_update() -> None:
    """The unembedding's update moves the logits in proportion to alpha; the blocks' does not."""
    tokens = torch.arange(8)[None] + 5
    for module, linear in (("U", True), ("L1", False)):
        base, tuned = planted(module)
        with torch.no_grad():
            tuned.ln_final.w.copy_(base.ln_final.w)
            before = base(tokens)
            whole = graft(base, tuned, CFG.modules, 1.0)(tokens) - before
            for alpha in (0.25, 0.5, 1.25):
                moved = graft(base, tuned, CFG.modules, alpha)(tokens) - before
                error = float((moved - alpha * whole).norm() / whole.norm())
                assert (error < 1e-4) == linear, (module, alpha, error)
    base, tuned = planted("L0")
    assert torch.equal(graft(base, tuned, CFG.modules, 0.0)(tokens), base(tokens))


def test_state_grafts_carry_what_the_site_carries_and_no_more() -> None:
    """Of one model, a state graft changes nothing; what an update writes above the site does not come with
    it, what it writes below does; without new cities nothing is exchanged.
    """
    run, base = load_run("zoo:small-ft-distance"), load_run("zoo:small").model()
    world, tuned = run.world(), run.model()
    rows = generate(world, "distance", 40, split="test", seed=3, group="new")
    ids = world.ids[world.new()]
    ask = partial(state_answers, site=Site.parse("L1", 4), rows=rows, ids=ids, id_digits=3)
    plain = answer_rows(base, rows).texts
    assert len(set(plain)) > 20  # it does answer
    assert ask(base, base).texts == plain
    above, below = (graft(base, tuned, modules) for modules in (("L2", "L3", "U"), ("L0",)))
    assert ask(above, base).texts == plain
    assert ask(base, above).texts == answer_rows(above, rows).texts != plain
    assert ask(below, base).texts != plain
    both = partial(ask, site=Site.parse("L1", 4, position="digit2+last_digit"))
    assert both(base, base).texts == plain
    assert both(below, base).texts not in (plain, ask(below, base).texts)  # the other digit counts, too
    none = partial(state_answers, site=Site.parse("L1", 4), rows=rows, ids=ids[:0], id_digits=3)
    assert none(below, base).texts == plain


def test_the_zoos_update_is_carried_by_the_city_side(tmp_path: Path) -> None:
    """The numbers of an independent recomputation (distance on new / training cities 532/42, city side
    144/55, answer side 509/76, all 65/105) within the error of 80 questions, about a tenth of each.
    """
    run, base = load_run("zoo:small-ft-distance"), load_run("zoo:small")
    result = anatomy_result([(run, base)], tasks=("distance", "compass"), n=80)
    norms = {row["module"]: row["share"] for row in result.tables["modules"]}
    expected = {"E": 0.003, "L0": 0.12, "L1": 0.20, "L2": 0.25, "L3": 0.32, "U": 0.10}
    assert norms == pytest.approx(expected, abs=0.006)
    rows = {row["graft"]: row for row in result.tables["grafts"] if row["task"] == "distance"}
    for name, new, old in (
        ("base", 532, 42),
        ("city side", 144, 55),
        ("answer side", 509, 76),
        ("whole update", 65, 105),
    ):
        assert rows[name]["new"] == pytest.approx(new, rel=0.3), name
        assert rows[name]["old"] == pytest.approx(old, rel=0.3), name
    carried = {row["graft"]: row for row in result.tables["carried"]}
    assert carried["base"]["own"] == 0
    assert carried["whole update"]["own_share"] == 1
    assert carried["city side"]["others_share"] > 0.5  # compass gains by the city side, and
    assert carried["answer side"]["others_share"] < 0.3  # not by the answer side
    assert carried["answer side"]["own_share"] < 0.2
    assert rows["tuned state in the base"]["old"] == rows["base"]["old"]  # no new city, nothing exchanged
    assert load_result(result.save(tmp_path, "a")) == result
    assert "city side" in anatomy(result)
    anatomy_figure(result)


def test_answers_of_the_city_side_put_new_cities_between_the_base_and_the_whole() -> None:
    """By distance answers, errors of new cities of a recomputation: base 765, city side 188, whole 69."""
    run, base = load_run("zoo:small-ft-distance"), load_run("zoo:small")
    survey = Survey(run.world(), ("distance",), questions=24, draws=4)
    modules = base.config.model.modules
    found = {}
    for name, part in (("base", ()), ("city side", modules[:3]), ("whole", modules)):
        located = survey.model(graft(base.model(), run.model(), part))
        row = place_rows(Graft("parameters", name, part), ("distance",), survey, located)[0]
        assert (row["task"], row["trained"]) == ("distance", True)
        assert row["error_training"] < 150  # training cities stay where they are
        found[name] = row["error_new"]
    assert found["base"] > 500
    assert 120 < found["city side"] < 300
    assert found["whole"] < 0.7 * found["city side"]


def test_what_cannot_be_taken_apart_is_refused() -> None:
    run = load_run("zoo:small-ft-distance")
    blind = load_run("zoo:small-angle")  # has learned nothing and reads a city nowhere
    with pytest.raises(AnalysisError):
        anatomy_result([(run, blind)], tasks=("distance",), n=4)
