"""What a step sees follows from settings, world and step alone."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cwr_mech.config import PAPER, STRICT, DataConfig, Part, WorldConfig
from cwr_mech.data.batches import Batches, parts_of
from cwr_mech.data.rows import Rows, concat, generate
from cwr_mech.errors import ConfigError
from cwr_mech.tasks.registry import TASKS
from cwr_mech.world.cities import World, load_world

WORLD = load_world(WorldConfig(n_cities=40, new="atlantis", n_new=5))
NAMES = tuple(TASKS)


def same(a: Rows, b: Rows) -> bool:
    """Equal rows in equal order (padding may be wider in one)."""
    return a.texts() == b.texts()


def tasks_of(rows: Rows) -> dict[str, int]:
    """Number of rows of each task."""
    return {NAMES[index]: n for index, n in sorted(Counter(rows.task.tolist()).items())}


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=6),
    st.sampled_from([None, 50]),
    st.integers(0, 3),
)
def test_a_step_does_not_depend_on_those_before(steps: list[int], rows: int | None, seed: int) -> None:
    data = DataConfig(tasks=("distance", "compass"), rows_per_task=rows)
    wandering = Batches(data, WORLD, 16, seed)
    for step in steps:
        assert same(wandering.at(step), Batches(data, WORLD, 16, seed).at(step))


def test_endless_parts_are_read_in_order_without_gaps() -> None:
    data = DataConfig(tasks=("distance", "angle"))
    batches = Batches(data, WORLD, 15, 0)
    seen = concat([batches.at(step) for step in range(6)])
    for index, task in enumerate(data.tasks):
        mine = seen.take(seen.task == NAMES.index(task))
        assert len(mine) == 45, index
        assert same(mine, generate(WORLD, task, 45, seed=42))


def test_order_seeds_see_other_rows_and_their_common_data_seed_keeps_pools_alike() -> None:
    endless = DataConfig(tasks=("distance",))
    assert not same(Batches(endless, WORLD, 16, 1).at(0), Batches(endless, WORLD, 16, 2).at(0))
    pooled = DataConfig(tasks=("distance",), rows_per_task=64)
    one, two = (concat([Batches(pooled, WORLD, 16, seed).at(s) for s in range(4)]) for seed in (1, 2))
    assert not same(one, two)
    assert sorted(one.texts()) == sorted(two.texts())


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 0.3, 0.2), (10.0, 1.0, 1.0)])
def test_shares_are_kept_exactly_in_the_long_run_and_sizes_in_every_step(weights: tuple[float, ...]) -> None:
    batches = Batches(DataConfig(tasks=NAMES[:3], weights=weights), WORLD, 32)
    counts = np.array([batches.counts(step) for step in range(200)])
    assert (counts.sum(1) == 32).all()
    expected = np.cumsum(np.tile(np.array(weights) / sum(weights) * 32, (200, 1)), axis=0)
    assert np.abs(np.cumsum(counts, axis=0) - expected).max() <= 1
    assert len(batches.at(7)) == 32
    assert tasks_of(batches.at(7)) == dict(zip(NAMES[:3], counts[7].tolist(), strict=True))


def test_an_epoch_holds_every_row_once_and_the_next_another_order() -> None:
    data = DataConfig(tasks=("distance", "inside"), rows_per_task=30)
    batches = Batches(data, WORLD, 25)
    assert batches.pool_rows == 60
    texts = [text for step in range(12) for text in batches.at(step).texts()]
    epochs = [texts[start : start + 60] for start in range(0, 300, 60)]
    pool = sorted(concat([generate(WORLD, task, 30) for task in data.tasks]).texts())
    assert all(sorted(epoch) == pool for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_a_batch_may_be_larger_than_the_pool() -> None:
    batches = Batches(DataConfig(tasks=("distance",), rows_per_task=5), WORLD, 12)
    assert len(batches.at(0)) == 12


PARTS = (
    Part(task="distance", group="new", rows=20),
    Part(task="distance", group="old", rows=7, start=100),
    Part(task="crossing", group="all", rows=9),
)


def test_parts_say_in_full_what_the_rows_are() -> None:
    batches = Batches(DataConfig(tasks=("distance",), parts=PARTS), WORLD, 36)
    rows = batches.at(0)
    expected = concat(
        [
            generate(WORLD, "distance", 20, group="new"),
            generate(WORLD, "distance", 7, start=100),
            generate(WORLD, "crossing", 9, group="all"),
        ]
    )
    assert sorted(rows.texts()) == sorted(expected.texts())


def test_tasks_without_parts_are_parts_of_old_cities() -> None:
    data = DataConfig(tasks=("distance", "angle"), rows_per_task=3, weights=(1, 2))
    assert parts_of(data) == (
        Part(task="distance", group="old", rows=3, weight=1),
        Part(task="angle", group="old", rows=3, weight=2),
    )


@pytest.mark.parametrize("protocol", [STRICT, PAPER])
def test_fixed_sets_have_exactly_the_rows_asked_for(protocol: object) -> None:
    small = load_world(WorldConfig(n_cities=20))  # every seventh triple names a city twice
    drawn = generate(small, "trianglearea", 500, protocol=protocol)
    assert (len(drawn) < 500) == (protocol == PAPER)
    data = DataConfig(tasks=("trianglearea", "angle"), rows_per_task=500, protocol=protocol)
    assert Batches(data, small, 8).pool_rows == 1000


def test_label_noise_reaches_the_rows() -> None:
    clean, noisy = (
        concat(
            [Batches(DataConfig(tasks=("compass",), label_noise=share), WORLD, 50).at(s) for s in range(20)]
        )
        for share in (0.0, 0.3)
    )
    assert np.array_equal(clean.cities, noisy.cities)
    assert 0.22 < (clean.values != noisy.values).mean() < 0.38


BAD: list[tuple[DataConfig, World, int, str]] = [
    (DataConfig(parts=(Part(task="angle", rows=3), Part(task="angle"))), WORLD, 8, "none has"),
    (DataConfig(), WORLD, 6, "too small for these 7 parts"),
]


@pytest.mark.parametrize(("data", "world", "size", "message"), BAD)
def test_impossible_mixtures_are_refused(data: DataConfig, world: World, size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Batches(data, world, size)
