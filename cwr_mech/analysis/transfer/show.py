"""How results are shown: sections of a report."""

from cwr_mech.render.markdown import markdown_table
from cwr_mech.render.numbers import number
from cwr_mech.results import Result, Row

MOST_CELLS = 70
"""Longer matrices of sets by tasks are, too."""


def transfer(result: Result) -> str:
    """Averages over tasks for every set, with intervals over models; then the matrix with its raw scores."""
    averages = {
        "ni_trained": "improvement, trained tasks",
        "ni_transfer": "improvement, other tasks",
        "ni_transfer_learned": "other tasks that the base had learned",
        "deviation_transfer": "other tasks, beyond the best teacher",
        "deviation_transfer_learned": "the same, learned tasks",
    }
    rows = [row | {name: _mean_interval(row, name) for name in averages} for row in result.tables["sets"]]
    beside = {"arm": "rows beside the new ones", "set": "trained on", "models": "models"}
    text = markdown_table(rows, beside | averages)
    cells = [row for row in result.tables["matrix"] if row["arm"] == result.values["arm"]]
    if len(cells) > MOST_CELLS:
        return f"{text}\n\nTable `matrix` of the result file has {len(cells):,} rows of raw scores."
    columns = {
        "set": "trained on",
        "task": "asked",
        "models_learned": "bases that had learned it",
        "ni": "improvement",
        "ni_paper": "cut as in the paper",
        "base_new": "new cities before",
        "new": "after",
        "new_read": "read",
        "retention": "retention",
        "base_old": "old cities before",
        "old": "after",
        "old_read": "read",
        "deviation": "beyond the best teacher",
    }
    return f"{text}\n\nScores, {result.values['arm']}:\n\n{markdown_table(cells, columns)}"


def _mean_interval(row: Row, name: str) -> str:
    """A mean with its 95 % interval where there is one."""
    if row.get(name) is None:
        return "-"
    if row[f"{name}_lo"] is None:
        return number(row[name])
    return f"{number(row[name])} ({number(row[f'{name}_lo'])} to {number(row[f'{name}_hi'])})"
