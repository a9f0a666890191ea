"""The benchmark's row-by-row way answers as the library does, so the two times are of the same work."""

import sys

import numpy as np
import pytest
from paths import ROOT

from cwr_mech.tasks.registry import PAPER_TASKS, TASKS
from cwr_mech.world.cities import load_world

sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))

import bench_dataset


@pytest.mark.parametrize("name", PAPER_TASKS)
def test_both_ways_give_the_same_answers(name):
    task, world = TASKS[name], load_world()
    rng = np.random.default_rng(0)
    for size in range(task.n_min, task.n_max + 1):
        xy = world.xy[rng.integers(world.n, size=(150, size))]
        row_by_row = [bench_dataset.REFERENCE[name](list(map(tuple, row))) for row in xy.tolist()]
        assert row_by_row == task.answer(xy)


def test_one_row_a_task():
    rows = bench_dataset.main(["--rows", "3000", "--reference-rows", "11"])
    assert [row["case"] for row in rows] == [f"{name}, 3,000 rows" for name in PAPER_TASKS]
    assert all(row["seconds"] > 0 and row["ratio"] > 1 for row in rows)
