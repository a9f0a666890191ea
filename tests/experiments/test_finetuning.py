"""Fine-tuning sets: what they hold, to the row."""

import math
from collections import Counter

import pytest

import cwr_mech
from cwr_mech.config import PAPER, STRICT, DataConfig, Part, WorldConfig
from cwr_mech.data.batches import Batches
from cwr_mech.data.rows import concat
from cwr_mech.errors import AnalysisError, ConfigError, UnknownName
from cwr_mech.experiments.finetuning import (
    PAIRS,
    RECIPES,
    TRIPLES,
    check_recipes,
    finetuning_config,
    finetuning_parts,
    paper_config,
    total_rows,
    world_with_new,
)
from cwr_mech.experiments.presets import preset
from cwr_mech.tasks.registry import PAPER_TASKS
from cwr_mech.world.cities import load_world

BASE = preset("tiny")

# recipe, tasks, rows, steps (as in the paper)
PAPER_SETS = [
    ("ft1", ("angle",), 120_000, 28_140),
    ("ft2", ("angle", "inside"), 240_000, 56_250),
    ("ft3", ("distance", "angle", "inside"), 360_000, 56_260),
    ("ftwb1", ("distance",), 121_792, 28_560),
    ("ftwb2", ("crossing", "distance"), 241_792, 56_670),
    ("ftwb3", ("distance", "angle", "inside"), 361_792, 56_540),
]


@pytest.mark.parametrize(("recipe", "tasks", "rows", "steps"), PAPER_SETS)
def test_the_papers_sets_have_its_sizes(recipe: str, tasks: tuple[str, ...], rows: int, steps: int) -> None:
    config = paper_config(preset("paper"), recipe, tasks)
    assert total_rows(config.data.parts) == rows
    assert config.train.steps == steps
    assert (config.train.lr, config.train.batch_size, config.train.warmup) == (1e-5, 128, 50)
    assert config.data.protocol == PAPER
    assert config.name.startswith(f"paper-{recipe}-")


def test_the_papers_elicitation_rows_are_of_new_cities_and_repeat_trained_rows() -> None:
    world = load_world(BASE.world)
    parts = finetuning_parts(("distance",), elicitation="new", new_rows=400, repeat_rows=True)
    assert [part for part in parts if part.rows == 256] == [
        Part(task=task, group="new", rows=256) for task in PAPER_TASKS
    ]
    pool = Batches(DataConfig(parts=parts), world, 64)
    rows = concat([pool.at(step) for step in range(math.ceil((pool.pool_rows or 0) / 64))])
    texts = Counter(rows.take(rows.task == 0).texts()[: pool.pool_rows])
    assert sum(n > 1 for n in texts.values()) >= 200
    ours = finetuning_parts(("distance",), elicitation="new", new_rows=400)
    assert {part.start for part in ours if part.rows == 256} == {20_000}


# tasks, replay, elicitation, {(task, group): rows}
SETS = [
    (("distance",), "none", "none", {("distance", "new"): 700}),
    (("distance",), "trained", "none", {("distance", "new"): 700, ("distance", "old"): 140}),
    (
        ("compass", "distance"),
        "trained",
        "world",
        {("distance", "new"): 700, ("compass", "new"): 700}
        | {(task, "old"): (140 if task in ("distance", "compass") else 0) + 256 for task in PAPER_TASKS},
    ),
    (
        ("compass", "distance"),
        "all",
        "new",
        {(task, "new"): (700 if task in ("distance", "compass") else 0) + 256 for task in PAPER_TASKS}
        | {(task, "old"): 40 for task in PAPER_TASKS},
    ),
]


@pytest.mark.parametrize(("tasks", "replay", "elicitation", "expected"), SETS)
def test_sets_hold_what_their_options_say(
    tasks: tuple[str, ...], replay: str, elicitation: str, expected: dict[tuple[str, str], int]
) -> None:
    parts = finetuning_parts(tasks, replay=replay, elicitation=elicitation, new_rows=700, replay_rows=140)
    found: Counter[tuple[str, str]] = Counter()
    for part in parts:
        found[part.task, part.group] += part.rows or 0
    assert found == expected
    world = load_world(BASE.world)
    pool = Batches(DataConfig(tasks=tasks, parts=parts), world, 8)
    assert pool.pool_rows == sum(expected.values())
    rows = concat([pool.at(step) for step in range(20)])
    is_new = world.is_new[world.rows(rows.cities[:, 0])] | (rows.cities[:, 1:] >= 0).any(1)
    assert is_new.any()


def test_new_rows_name_a_new_city_and_replay_names_none() -> None:
    world = load_world(BASE.world)
    new_ids = set(world.ids[world.new()].tolist())
    for group, named in (("new", True), ("old", False)):
        data = DataConfig(parts=(Part(task="perimeter", group=group, rows=50),))
        rows = Batches(data, world, 50).at(0)
        assert all(bool(new_ids & set(row)) == named for row in rows.cities.tolist())


@pytest.mark.parametrize("given", [{"lr": 0.0}, {"steps": 0}])
def test_zero_is_no_way_to_ask_for_the_default(given: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"train.{next(iter(given))}"):
        finetuning_config(BASE, ("distance",), **given)


def test_arms_of_a_comparison_differ_in_one_thing() -> None:
    one = finetuning_config(BASE, ("distance",))
    two = finetuning_config(BASE, ("distance", "compass"))
    everything = finetuning_config(BASE, ("distance", "compass"), replay="all")
    assert one.train == two.train == everything.train
    assert one.train.steps == round(60 * 0.087)
    assert abs(total_rows(two.data.parts) - total_rows(everything.data.parts)) < len(PAPER_TASKS)
    assert one.data.protocol == STRICT
    names = {config.name for config in (one, two, everything)}
    assert names == {
        "tiny-ft-distance",
        "tiny-ft-distance+compass",
        "tiny-ft-distance+compass-replay-all",
    }
    assert finetuning_config(BASE, ("compass", "distance"), seed=3).name == "tiny-ft-distance+compass-seed-3"


def test_new_cities_must_be_new_and_old_ones_the_same() -> None:
    blank = BASE.with_settings(["world.new=none"])
    with pytest.raises(ConfigError, match="holds no new cities"):
        finetuning_config(blank, ("distance",))
    config = world_with_new(blank, "scattered")
    assert config == WorldConfig(**blank.world.model_dump() | {"new": "scattered"})
    assert len(load_world(config).new()) == 4
    with pytest.raises(ConfigError, match="not new to run tiny"):
        finetuning_config(BASE, ("distance",), new_cities="holdout:China")
    withheld = BASE.with_settings(["world.new=holdout:China", "world.n_cities=60"])
    assert finetuning_config(withheld, ("distance",)).world.new == "holdout:China"


def test_tables_of_the_paper() -> None:
    assert len(PAIRS) == len({frozenset(pair) for pair in PAIRS}) == 21
    assert PAIRS[14] == ("distance", "compass")
    assert len({frozenset(triple) for triple in TRIPLES}) == 8
    assert all(len(set(entry)) == len(entry) for entry in PAIRS + TRIPLES)


REFUSED = [
    (lambda: paper_config(BASE, "ftwb4", ("distance",)), UnknownName, "ftwb4"),
    (lambda: paper_config(BASE, "ftwb2", ("distance",)), ConfigError, r"trains 2 task\(s\)"),
    (lambda: finetuning_config(BASE, ("distanse",)), UnknownName, "distanse"),
    (lambda: finetuning_config(BASE, ("distance", "distance")), ConfigError, "once each"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_what_makes_no_set_is_refused(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_every_recipe_is_tested() -> None:
    assert {row[0] for row in PAPER_SETS} == set(RECIPES)


def test_fine_tunings_trained_otherwise_are_not_averaged() -> None:
    """Bases would seem to differ where only the rate does."""
    base = preset("tiny")
    one, two = (finetuning_config(base, ("angle",), lr=rate) for rate in (1e-3, 1e-4))
    with pytest.raises(AnalysisError, match=r"a and b cannot be averaged: .* at 0\.001 .* at 0\.0001"):
        check_recipes({"a": one, "b": two})
    other_set = finetuning_config(base, ("compass",), lr=1e-4)
    frozen = two.with_settings(["train.train_only=E"])
    check_recipes(
        {"a": one, "b": other_set, "c": frozen}
    )  # another set or condition is never averaged with it
    seed = one.with_settings(["train.seed=2"])
    check_recipes({"a": one, "b": seed})


@pytest.mark.parametrize("study", ["locate", "course", "anatomy"])
def test_studies_that_average_over_bases_refuse_a_mix_of_recipes(study: str) -> None:
    mixed = ["zoo:small-ft-distance", "zoo:ripe-ft-distance"]  # 696 steps and 4,350
    with pytest.raises(AnalysisError, match="cannot be averaged: 696 steps"):
        getattr(cwr_mech, study)(mixed)
