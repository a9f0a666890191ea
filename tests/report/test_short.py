"""The short tables of a result: what stands in the terminal and in notebooks."""

from cwr_mech.report.short import short_tables
from cwr_mech.results import Result

ROW = {"condition": "all", "set": "angle", "level": 0.5, "models": 3, "reached": 3, "step": 100.0}
ROW |= {
    "others": 0.5,
    "others_lo": 0.25,
    "others_hi": 0.75,
    "index": 0.125,
    "index_lo": None,
    "index_hi": None,
}


def test_a_value_stands_with_its_interval() -> None:
    ((title, columns, (row,)),) = short_tables(Result("course", tables={"summary": [ROW]}))
    assert title.startswith("where the trained task reaches a level")
    assert columns[-2:] == ["others", "index"]
    assert row["others"] == "0.500 (0.250 to 0.750)"
    assert row["index"] == 0.125  # control: without an interval a number stays a number


def test_a_kind_without_a_row_shows_its_tables() -> None:
    ((title, columns, rows),) = short_tables(
        Result("other", tables={"some": [{"a": 1, "b": None}], "none": []})
    )
    assert (title, columns, rows) == ("some", ["a"], [{"a": 1, "b": None}])
