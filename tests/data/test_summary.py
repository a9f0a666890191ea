"""Statistics of rows: shares, quantiles and overlaps that can be counted by hand."""

import numpy as np

from cwr_mech.config import PAPER
from cwr_mech.data.rows import generate
from cwr_mech.data.summary import task_stats
from cwr_mech.world.cities import load_world

WORLD = load_world(n_cities=60)


def test_numbers():
    found, rows = task_stats(WORLD, "distance", 2000), generate(WORLD, "distance", 2000)
    assert found.rows == 2000
    assert found.distinct == len({frozenset(row) for row in rows.cities[:, :2].tolist()}) < 2000
    assert found.mean_tokens == rows.lengths.mean()
    assert found.answers["median"] == np.median(rows.values)
    assert found.answers["max"] == rows.values.max()
    assert list(found.by_size) == [2]


def test_labels_by_size():
    found = task_stats(WORLD, "inside", 600, split="val")
    assert found.answers == {"FALSE": 0.5, "TRUE": 0.5}
    assert found.by_size == dict.fromkeys((4, 5, 6), found.answers)
    assert found.baseline.score == 0.5


def test_overlap_is_nothing_under_strict_and_counted_under_paper():
    strict = task_stats(WORLD, "compass", 500)
    paper = task_stats(WORLD, "compass", 500, protocol=PAPER)
    assert set(strict.overlap.values()) == {0}
    asked = {
        split: [
            frozenset(row)
            for row in generate(WORLD, "compass", 500, split=split, protocol=PAPER).cities[:, :2].tolist()
        ]
        for split in ("train", "val", "test")
    }
    for (first, second), count in paper.overlap.items():
        assert count == sum(query in set(asked[first]) for query in asked[second]) > 0
