"""Plans: how many models they hold, what these start from, and what they cost."""

from collections import Counter
from itertools import product

import pytest

from cwr_mech.config import PAPER, ModelConfig, TrainConfig
from cwr_mech.errors import ConfigError, UnknownName
from cwr_mech.experiments.costs import (
    papers_gpu_seconds,
    row_lengths,
    seconds_of,
    tokens_per_second,
)
from cwr_mech.experiments.finetuning import HALF_REHEARSED, PLAIN, REHEARSED, condition_of, total_rows
from cwr_mech.experiments.planned import Planned
from cwr_mech.experiments.plans import PLANS, PROJECTIONS, ROUTED, checked, find_plan
from cwr_mech.experiments.presets import preset
from cwr_mech.experiments.ripe import CUT_ROUTES, NOISY, SHAPES
from cwr_mech.findings.conditions import (
    CUT_MATCHED,
    CUT_OFF,
    CUT_ON,
    CUT_REST,
    CUT_WHOLE,
    MATCHED,
    OFF,
    ON,
)
from cwr_mech.findings.finetuned import ELICITED
from cwr_mech.tasks.registry import PAPER_TASKS

# plan, runs, of which start from fresh weights
SIZES = [("singles", 7, 7), ("pairs", 21, 21), ("seeds", 3, 3), ("tune", 29, 1), ("trial", 7, 4)]
SIZES += [("routing", 6 * (1 + 4 + 13), 6), ("zoo", 169, 3 + 21 + 14 + 3 + 3)]
CHANGED = (2 * (4 + 3) + 4 * 4, 2 * 4 + 4)  # with label noise, of other sizes
RIPE = (
    6 * (8 + 6 + 10) + 14 + 6 * 3 + 3 * 2 + 3 * (10 + 5) + 4 * 7 + 19 + 4 * (12 + 21) + 14 + 12 + 5,
    7 + 19 + 14 + 12 + 5,
)
SIZES += [("ripe", RIPE[0] + CHANGED[0], RIPE[1] + CHANGED[1])]


def made(name: str, seeds: tuple[int, ...] | None = None) -> tuple[Planned, ...]:
    plan = find_plan(name)
    return plan.runs(preset(plan.preset), seeds)


@pytest.mark.parametrize(("name", "runs", "fresh"), SIZES)
def test_sizes(name: str, runs: int, fresh: int) -> None:
    planned = made(name)
    assert len(planned) == runs
    assert sum(run.base is None for run in planned) == fresh


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_can_be_trained_in_its_order(name: str) -> None:
    planned = made(name)
    by_name = {run.name: run.config for run in planned}
    for run in planned:
        if run.base is not None:
            base = by_name[run.base]
            assert run.config.model == base.model
            assert run.config.train.seed == base.train.seed
            assert run.config.data.parts


def test_the_papers_models() -> None:
    planned = made("paper")
    kinds = Counter(
        (len(run.config.data.tasks), total_rows(run.config.data.parts), run.base is not None)
        for run in planned
    )
    assert kinds == {
        (7, 0, False): 4,
        (1, 0, False): 21,
        (2, 0, False): 21,
        (3, 0, False): 21,
        (1, 121_792, True): 28,
        (2, 241_792, True): 84,
    }
    assert kinds.total() == 179
    assert {run.config.data.protocol == PAPER for run in planned} == {True}
    assert {run.config.world.id_min for run in planned} == {0}


def test_the_zoo_has_its_conditions_for_every_seed() -> None:
    planned = made("zoo")
    routes = Counter((run.config.route.condition, run.config.train.seed) for run in planned if run.base)
    for condition, tasks in (*((name, 4) for name in PROJECTIONS), ("penalty", 2)):
        assert sorted(n for (found, _), n in routes.items() if found == condition) == [tasks] * 3
    by_name = {run.name: run.config for run in planned}
    for name, config in by_name.items():
        if config.route.condition != "unprojected":  # it differs from its fine-tuning in its route only
            plain = by_name[name.removesuffix(config.route.suffix)]
            same = {"name": plain.name, "route": plain.route}
            assert config.model_copy(update=same) == plain
    order = [run.config.route.condition != "unprojected" for run in planned]
    first = planned[order.index(True) :][: 3 * sum(map(len, ROUTED.values()))]
    assert {(*run.config.data.tasks, run.config.route.condition) for run in first} == {
        (task, name) for task, needed in ROUTED.items() for name in needed
    }
    tuned = {run.name for run in planned if run.base}
    assert {f"small-seed2-ft-{task}" for task in PAPER_TASKS} <= tuned
    everywhere = [run for run in planned if run.name.startswith("small-all-cities")]
    assert len({run.config.train.seed for run in everywhere}) == 3
    assert {part.group for part in everywhere[0].config.data.parts} == {"all"}


def test_ripe_explores_before_the_sealed_bases_and_varies_one_thing_at_a_time() -> None:
    planned = made("ripe")
    by_name = {run.name: run.config for run in planned}
    seeds = [run.config.train.seed for run in planned if run.base and len(run.config.data.tasks) == 1]
    assert set(seeds[: seeds.index(4)]) == {1, 2, 3}
    changed = [run for run in planned if run.config.route.changes]
    projected = [run for run in changed if run.config.route.elsewhere == "kept"]
    assert Counter(run.config.route.draw for run in projected if "matched" in run.name) == dict.fromkeys(
        range(3), 12
    )
    for run in changed:
        route = run.config.route
        assert (route.layers, route.positions, route.rescale) == ((1,), ("digit3", "last_digit"), False)
    for run in projected:
        plain = by_name[run.name.removesuffix(run.config.route.suffix)]
        assert run.config.model_copy(update={"name": plain.name, "route": plain.route}) == plain
    cut = [run.config for run in changed if run.config.route.elsewhere == "cut"]
    of = Counter((config.train.seed, *config.data.tasks) for config in cut)
    wanted = *product(range(1, 8), ("distance", "compass")), *product(range(1, 4), ("angle",))
    assert of == dict.fromkeys(wanted, len(CUT_ROUTES))
    for config in cut:
        assert config.train.train_only == ("E", "L0", "L1")
        plain = by_name[config.name.partition("-only-")[0]]
        free = config.with_settings(["train.train_only=none", f"name={plain.name}"])
        assert free.model_copy(update={"route": plain.route}) == plain
    assert {condition_of(config) for config in cut} == {CUT_WHOLE, CUT_ON, CUT_OFF, CUT_MATCHED, CUT_REST}
    elicited = [run.config for run in planned if run.name.endswith("elicit-new")]
    assert {condition_of(config) for config in elicited} == {ELICITED}
    noisy = [run.config for run in planned if run.base == "ripe-noise0.2"]
    assert {condition_of(config) for config in noisy} == {f"{HALF_REHEARSED}, 20 % of answers wrong"}
    kinds = {condition_of(run.config) for run in planned}
    assert {PLAIN, REHEARSED, HALF_REHEARSED, ON, OFF, *MATCHED} <= kinds
    frozen = [run.config for run in planned if run.config.train.train_only and not run.config.route.changes]
    sides = {config.train.train_only for config in frozen}
    assert sides == {("E", "L0", "L1"), ("L2", "L3", "U")}
    for config in frozen:
        plain = by_name[config.name.partition("-only-")[0]]
        assert config.with_settings(["train.train_only=none", f"name={plain.name}"]) == plain
    rehearsed = [run.config for run in planned if run.name.endswith("-replay-all")]
    assert len(rehearsed) == 6 * 3
    for config in rehearsed:
        plain = by_name[config.name.removesuffix("-replay-all")]
        data = config.data.model_copy(update={"parts": plain.data.parts})
        assert config.model_copy(update={"name": plain.name, "data": data}) == plain
        old = [sum(p.rows or 0 for p in c.data.parts if p.group == "old") for c in (config, plain)]
        assert 0 <= old[0] - old[1] < 7  # as many rows of replay, rounded up for each of seven tasks
    rehearsed = [run.config for run in planned if run.name.endswith("-replay-all-half")]
    for seed, n in ((3, 10), (4, 6), (7, 6)):
        pairs = {c.data.tasks for c in rehearsed if len(c.data.tasks) > 1 and c.train.seed == seed}
        assert len(pairs) == n == 2 * sum("distance" in tasks for tasks in pairs)
        for tasks in pairs:  # they are compared with fine-tunings on each of their tasks
            names = ("+".join(tasks), *tasks)
            steps = {by_name[f"ripe-seed{seed}-ft-{name}-replay-all-half"].train.steps for name in names}
            assert len(steps) == 1
    alone = {run.name: run.config.train.steps for run in planned if len(run.config.data.tasks) == 1}
    for seed in ("", "-seed2", "-seed3", "-seed4", "-seed5"):
        assert alone[f"ripe-distance{seed}"] * 2 == alone[f"ripe-distance{seed}-longer"]
    assert by_name["ripe-angle+compass"].train.steps == alone["ripe-angle"] + alone["ripe-compass"]


def test_ripe_varies_noise_and_size_and_nothing_else() -> None:
    by_name = {run.name: run.config for run in made("ripe")}
    for share in NOISY:
        noisy = [name for name in by_name if f"-noise{share:g}" in name]
        assert len(noisy) == 7
        for name in noisy:
            plain = by_name[name.replace(f"-noise{share:g}", "")]
            same = by_name[name].with_settings(["label_noise=0", f"name={plain.name}"])
            assert same == plain
            assert by_name[name].data.label_noise == share
    for end, settings in SHAPES.items():
        resized = [name for name in by_name if name.startswith(f"ripe-{end}")]
        assert len(resized) == 4
        for name in resized:
            plain = by_name[name.replace(f"-{end}", "", 1)]
            assert by_name[name] == plain.with_settings([*settings, f"name={name}"])


def test_seeds_are_named_unless_they_are_the_presets_own() -> None:
    own = preset("paper").train.seed
    plan = find_plan("seeds")
    assert [run.name for run in plan.runs(preset("paper"), [own, 7])] == ["paper", "paper-seed7"]
    assert [run.config.train.seed for run in plan.runs(preset("paper"))] == [42, 1, 2]
    second = preset("paper").with_settings(["train.seed=2"])
    assert [run.config.train.seed for run in plan.runs(second)] == [2, 1, 3]


def test_impossible_plans_are_refused() -> None:
    one = made("trial")[0]
    with pytest.raises(ConfigError, match="two runs"):
        checked([one, one])
    with pytest.raises(ConfigError, match="does not train before"):
        checked(made("trial")[4:])
    with pytest.raises(UnknownName, match="zoos"):
        find_plan("zoos")


def test_cost_grows_with_steps_rows_and_model() -> None:
    ticks = iter(range(1000))
    small = ModelConfig(n_layers=1, d_model=8, n_heads=2, d_mlp=8)
    speed = tokens_per_second(small, TrainConfig(batch_size=14), clock=lambda: float(next(ticks)))
    lengths = row_lengths(rows=100)
    assert set(lengths) == set(PAPER_TASKS)
    assert speed == pytest.approx(sum(lengths.values()), rel=0.2)  # two rows a task in two ticks
    base, tuned = made("trial")[0].config, made("trial")[-1].config
    mean = sum(lengths.values()) / 7
    assert seconds_of(base, speed, lengths) == pytest.approx(60 * 28 * mean / speed)
    assert seconds_of(tuned, speed, lengths) == pytest.approx(
        tuned.train.steps * 28 * lengths["angle"] / speed, rel=0.1
    )
    papers = preset("paper")
    assert papers_gpu_seconds(papers, lengths) == pytest.approx(9 * 3600)
    half = papers.with_settings([f"steps={papers.train.steps // 2}"])
    assert papers_gpu_seconds(half, lengths) == pytest.approx(4.5 * 3600)
    assert papers_gpu_seconds(base, lengths) is None  # another model: nobody has said how fast it is
