"""Averages of transfer tables: over models for each set and task, and over tasks for each set."""

import math
from collections.abc import Sequence

import numpy as np

from cwr_mech.analysis.stats.means import mean_columns, mean_of
from cwr_mech.results import Row, groups, where

RAW = ("base_new", "base_new_read", "new", "new_read", "base_old", "old", "old_read")
"""Raw scores and shares of answers that can be read, averaged over models beside the derived figures."""


def cell(condition: str, label: str, task: str, mine: Sequence[Row], beside: Sequence[Row]) -> Row:
    """One cell of the generalisation matrix: averages over the models of a condition and a set, from their
    rows of `scores` and `deviation` about a task.
    """
    return {
        "condition": condition,
        "set": label,
        "task": task,
        "trained": mine[0]["trained"],
        "models": len(mine),
        "models_learned": sum(row["learned"] for row in mine),
        "metric": mine[0]["metric"],
        "unit": mine[0]["unit"],
        **{column: mean_of(row[column] for row in mine) for column in RAW},
        **mean_columns("ni", [row["ni"] for row in mine]),
        "ni_learned": mean_of(row["ni"] for row in mine if row["learned"]),
        "ni_paper": mean_of(row["ni_paper"] for row in mine),
        **mean_columns("retention", [row["retention"] for row in mine]),
        **mean_columns("deviation", [row["deviation"] for row in beside]),
    }


def set_row(condition: str, label: str, scores: Sequence[Row], deviation: Sequence[Row]) -> Row:
    """Averages over tasks within each model first, then over models; over all tasks and over learned ones."""
    averages: Row = {}
    for column, rows in (("ni", scores), ("deviation", deviation)):
        for kind, trained in (("trained", True), ("transfer", False)):
            mine = where(rows, trained=trained)
            learned = where(mine, learned=True)
            averages |= mean_columns(f"{column}_{kind}", _by_model(mine, column))
            averages |= mean_columns(f"{column}_{kind}_learned", _by_model(learned, column))
    return {"condition": condition, "set": label, "models": len({row["run"] for row in scores})} | averages


def share_learned(scores: Sequence[Row], task: str) -> float:
    """Share of the bases that had learned a task; NaN where it was not asked."""
    bases = {row["base"]: row["learned"] for row in scores if row["task"] == task}
    return float(np.mean(list(bases.values()))) if bases else math.nan


def _by_model(rows: Sequence[Row], column: str) -> list[float | None]:
    return [mean_of(row[column] for row in mine) for mine in groups(rows, "run").values()]
