"""One rule for the best layer, and criteria that may disagree."""

import pytest

from cwr_mech.analysis.best import CAUSAL, DECODED, FULL, best, best_of_each, carrying

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


def test_what_carries_the_whole_effect_keeps_its_order_and_leaves_out_what_was_not_measured() -> None:
    shares = (0.97, 1.0, FULL, 0.89, float("nan"), None)
    rows = [{"layer": layer, CAUSAL: share} for layer, share in enumerate(shares)]
    assert [row["layer"] for row in carrying(rows)] == [0, 1, 2]
    assert best(rows, CAUSAL)["layer"] == 1, "the maximum is another question"
    assert carrying(rows[4:]) == []
