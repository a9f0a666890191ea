"""Means of cells, some of which are empty."""

import math

import numpy as np
import pytest

from cwr_mech.analysis.stats.intervals import mean_interval
from cwr_mech.analysis.stats.means import mean_columns, mean_of
from cwr_mech.results import groups


def test_empty_cells_are_left_out() -> None:
    assert mean_of([1.0, None, math.nan, 3]) == 2.0
    assert mean_of([None, math.inf]) is None
    assert mean_columns("ni", [None]) == {"ni": None, "ni_lo": None, "ni_hi": None}
    assert mean_columns("ni", [1.0, None]) == {"ni": 1.0, "ni_lo": None, "ni_hi": None}, "one has no spread"


def test_an_interval_is_students() -> None:
    found, known = mean_columns("ni", [0.5, 1.0, None, 2.0]), mean_interval(np.array([0.5, 1.0, 2.0]))
    assert found == {"ni": known.value, "ni_lo": pytest.approx(known.lo), "ni_hi": pytest.approx(known.hi)}
    assert known.lo < found["ni"] < known.hi


def test_rows_are_grouped_in_order_of_appearance() -> None:
    rows = [{"task": task, "k": k, "n": n} for n, (task, k) in enumerate([("b", 1), ("a", 1), ("b", 2)])]
    assert [(key, len(mine)) for key, mine in groups(rows, "task").items()] == [("b", 2), ("a", 1)]
    assert list(groups(rows, "task", "k")) == [("b", 1), ("a", 1), ("b", 2)]
    assert groups([], "task") == {}
