"""A query's split: the same however it is written, whoever asks, on every machine."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwr_mech.config import PAPER, STRICT
from cwr_mech.data.rows import generate
from cwr_mech.data.sampling import BLOCK_ROWS, Source, draw_block
from cwr_mech.data.splits import (
    PERCENT,
    SPLITS,
    query_hash,
    split_of,
)
from cwr_mech.tasks.registry import PAPER_TASKS, TASKS
from cwr_mech.world.cities import load_world

# The first query of each task must keep its number for ever: published test sets depend on it.
PINNED = {
    "distance": 0xEF4CD379F797F730,
    "trianglearea": 0x15DE982DE6649CF8,
    "angle": 0xDB4A136DBCB47527,
    "compass": 0xB83E4C48A08EB764,
    "inside": 0xD0115CD6CB00BFBC,
    "perimeter": 0xF79FE75F20224012,
    "crossing": 0x834F89EAF6F289B9,
}


@pytest.mark.parametrize("name", PAPER_TASKS)
def test_pinned(name):
    task = TASKS[name]
    assert int(query_hash(task, np.arange(1000, 1000 + task.n_max)[None])[0]) == PINNED[name]


@pytest.mark.parametrize("name", PAPER_TASKS)
def test_shares_and_independence(name):
    task = TASKS[name]
    rng = np.random.default_rng(0)
    ids = rng.integers(1000, 10_000, size=(100_000, task.n_max))
    ids = ids[(np.diff(np.sort(ids, axis=1), axis=1) > 0).all(axis=1)]
    split = split_of(task, ids)
    share = np.bincount(split, minlength=3) / len(ids)
    expected = np.array([PERCENT[name] for name in SPLITS]) / 100
    assert np.allclose(share, expected, atol=0.003)
    # The split of a query says nothing about the split of its neighbour.
    beside = split_of(task, ids + np.eye(task.n_max, dtype=np.int64)[0])
    both = np.mean((split == 2) & (beside == 2))
    assert abs(both - 0.03**2) < 0.0005
    # And it depends on the order of the cities only where the question does.
    assert (split_of(task, ids[:, ::-1]) == split).all() == (name not in ("inside",))


def test_tasks_are_hashed_apart():
    ids = np.random.default_rng(0).integers(1000, 10_000, size=(50_000, 2))
    distance, compass = (split_of(TASKS[name], ids) for name in ("distance", "compass"))
    assert abs(np.mean((distance == 2) & (compass == 2)) - 0.03**2) < 0.0005


@given(st.lists(st.integers(0, 9999), min_size=4, max_size=6), st.sampled_from(["int32", "int64"]))
def test_padding_and_width_of_the_integers_do_not_matter(ids, dtype):
    task = TASKS["inside"]
    plain = np.array([ids], dtype=dtype)
    padded = np.pad(plain, ((0, 0), (0, 6 - len(ids))), constant_values=-1)
    assert query_hash(task, plain) == query_hash(task, padded)


@pytest.mark.parametrize("name", PAPER_TASKS)
def test_splits_are_disjoint_over_a_million_rows(name):
    """No test or validation query is among a million training rows, whatever the seeds; sizes are exact."""
    task, w = TASKS[name], load_world()

    def drawn(n, **kind):
        source = Source(w, task, **({"seed": 42, "group": "old", "protocol": STRICT} | kind))
        blocks = range(-(-n // BLOCK_ROWS))
        return np.concatenate([query_hash(task, draw_block(source, block)[0]) for block in blocks])[:n]

    train = drawn(1_000_000, split="train")
    held = [drawn(10_000, split=split, seed=7) for split in ("val", "test")]
    assert [len(train), *map(len, held)] == [1_000_000, 10_000, 10_000]
    assert not np.isin(np.concatenate(held), train).any()
    assert not np.isin(*held).any()
    # What generate gives are these blocks.
    rows = generate(w, name, 50, start=BLOCK_ROWS)
    found = query_hash(task, rows.cities[:, : task.n_max].astype(np.int64))
    assert (found == train[BLOCK_ROWS:][:50]).all()
    # Control: the reference's separate draws of pairs do meet; it slices distance from one shuffled deck.
    if name == "compass":
        assert np.isin(drawn(10_000, split="test", protocol=PAPER), train).mean() > 0.05
