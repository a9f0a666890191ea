"""Published tables beside ours, cell by cell, and how far they agree. Levels differ with the scale and
budgets, so what can be compared is the pattern: the correlation over cells, and how many lie on the same
side of their mean.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from cwr_mech.analysis.published import content, matrix
from cwr_mech.findings.claims import NoResults
from cwr_mech.findings.evidence import Saved, across
from cwr_mech.results import Row
from cwr_mech.tasks.registry import PAPER_TASKS

MEASURES = ("cka", "rsa", "svcca", "mutual_knn")
"""Measures of similarity of which the paper or its rebuttal published matrices."""


def value_rows(saved: Saved) -> list[Row]:
    """A row for each published cell that has a counterpart: table, cell, published, ours."""
    rows: list[Row] = []
    for part in (_similarities, _improvements, _pairs):
        try:
            rows += part(saved)
        except NoResults:
            continue
    return rows


def agreement_rows(values: Sequence[Row]) -> list[Row]:
    """For each published table: r over cells, the share of cells on the same side of their mean in both,
    and the share expected by chance if sides were dealt at random. Cells share tasks and models, so no p
    is given.
    """
    rows = []
    for name in dict.fromkeys(row["table"] for row in values):
        theirs, ours = (
            np.array([row[key] for row in values if row["table"] == name]) for key in ("published", "ours")
        )
        if len(theirs) < 4 or min(np.ptp(theirs), np.ptp(ours)) == 0:
            continue
        above, below = theirs > theirs.mean(), ours > ours.mean()
        p, q = above.mean(), below.mean()
        rows.append(
            {
                "table": name,
                "cells": len(theirs),
                "r": float(np.corrcoef(theirs, ours)[0, 1]),
                "same": float((above == below).mean()),
                "chance": float(p * q + (1 - p) * (1 - q)),
            }
        )
    return rows


def _similarities(saved: Saved) -> Iterator[Row]:
    """Single-task models that have learned their task; a task with itself is other seeds."""
    singles = saved.singles
    runs = [run for mine in singles.values() for run in mine]
    for measure in MEASURES:
        cells, ours = matrix(measure), across(saved.similarity(measure), singles, runs)
        for i, j in [*combinations(range(len(PAPER_TASKS)), 2), *((k, k) for k in range(len(PAPER_TASKS)))]:
            a, b = PAPER_TASKS[i], PAPER_TASKS[j]
            if (a, b) in ours:
                yield _cell(
                    f"similarity of single-task models, {measure}", f"{a}, {b}", cells[i, j], ours[a, b]
                )


def _improvements(saved: Saved) -> Iterator[Row]:
    cells = matrix("transfer")
    for i, trained in enumerate(PAPER_TASKS):
        ours = saved.by_task(trained)
        for j, task in enumerate(PAPER_TASKS):
            if task in ours:
                yield _cell("improvement, one task trained", f"{trained} > {task}", cells[i, j], ours[task])


def _pairs(saved: Saved) -> Iterator[Row]:
    """Two tasks trained: improvement, and improvement beyond the better of the two single teachers."""
    table = content()["ft2"]
    names = ["+".join(sorted(tasks, key=PAPER_TASKS.index)) for tasks in table["sets"]]
    rows = saved.table("transfer", "deviation")
    rows = rows[rows["learned"] & rows["base"].isin(saved.bases)]
    beyond = rows.groupby(["set", "task"])["deviation"].mean().dropna().to_dict()
    for name, improved, deviated in zip(names, table["ni"], table["deviation"], strict=True):
        ours = saved.by_task(name)
        for task, ni, deviation in zip(PAPER_TASKS, improved, deviated, strict=True):
            if task in ours:
                yield _cell("improvement, two tasks trained", f"{name} > {task}", ni, ours[task])
            if (name, task) in beyond:
                cell = (f"{name} > {task}", deviation, beyond[name, task])
                yield _cell("improvement beyond the better teacher, two tasks trained", *cell)


def _cell(table: str, name: str, published: float, ours: float) -> Row:
    return {"table": table, "cell": name, "published": float(published), "ours": float(ours)}
