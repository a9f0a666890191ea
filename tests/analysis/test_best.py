"""One rule for the best layer, and criteria that may disagree."""

import pytest

from cwr_mech.analysis.best import CAUSAL, DECODED, best, best_of_each

ROWS = [
    {"layer": 0, "task": "angle", DECODED: 0.5, CAUSAL: 0.9},
    {"layer": 1, "task": "angle", DECODED: 0.8, CAUSAL: 0.9},
    {"layer": 2, "task": "angle", DECODED: float("nan"), CAUSAL: None},
    {"layer": 0, "task": "compass", DECODED: None, CAUSAL: 0.1},
]


def test_the_highest_is_best_by_each_criterion() -> None:
    assert best(ROWS, DECODED)["layer"] == 1
    assert best(ROWS, CAUSAL)["layer"] == 0, "the first of equal ones; control: another than the best decoded"
    assert best(ROWS[2:], CAUSAL)["task"] == "compass", "what was not measured is last"
    assert best(ROWS[2:3], CAUSAL)["layer"] == 2
    with pytest.raises(ValueError, match="empty"):
        best([], CAUSAL)


def test_each_group_has_its_best_where_something_was_measured() -> None:
    assert [row["layer"] for row in best_of_each(ROWS, "task", CAUSAL)] == [0, 0]
    assert [row["task"] for row in best_of_each(ROWS, "task", DECODED)] == ["angle"]
