"""Every published value that has a counterpart here, side by side.

Levels are not comparable between scales, directions are: a value and its counterpart have the same direction
when both lie above, or both below, what they are held against: a constant, or the mean of their own table.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cwr_mech.analysis.published import matrix
from cwr_mech.analysis.stats.intervals import Interval
from cwr_mech.analysis.stats.models import FAILED_BELOW
from cwr_mech.experiments.finetuning import PLAIN
from cwr_mech.findings.claims import (
    CKA,
    Saved,
    mean_of,
    of_models,
)
from cwr_mech.findings.finetuned import new_city_errors, to_others
from cwr_mech.findings.pretrained import published_matrices
from cwr_mech.results import Row
from cwr_mech.tasks.registry import PAPER_TASKS, ordered

OWN_MEAN = "mean of the table"
Cells = Sequence[tuple[str, float, Interval | None]]
"""Name of a value, published, ours."""


def counterparts(saved: Saved, paper: Mapping[str, Any]) -> Iterator[Row]:
    """A row for each published value: group, quantity, published, ours, its interval, direction.

    Values without a model to compare with have ours None.
    """
    yield from _scores(saved, paper)
    alone = {task: saved.pretrained((task,)) for task in PAPER_TASKS}
    r2 = paper["probe_r2"]["values"]
    cells = [
        (f"{task} alone", r2[task], of_models(saved.best_r2(alone[task]))) for task in PAPER_TASKS if r2[task]
    ]
    yield from against("R² of the map, best layer", cells, 0.5)
    for measure, theirs in published_matrices(paper).items():
        ours = saved.single_task_pairs(saved.alone(), measure)
        cells = [
            (
                " with ".join(pair) if pair[0] != pair[1] else f"{pair[0]}, other seeds",
                value,
                _one(ours.get(pair)),
            )
            for pair, value in theirs.items()
        ]
        yield from against(f"similarity of single-task models, {measure}", cells)
    yield from against("CKA by number of tasks", _trend(saved, paper))
    yield from _improvements(saved, paper)
    yield from against("error of new cities, tenths of a degree", _places(saved, paper))
    own = {(row["pairs"], row["transfer"]): row for row in saved.relation if row["similarity"] == "own"}
    names = {"r": "without crossing (as published)", "r_without_distance": "without crossing and distance"}
    cells = [
        (name, paper["similarity_predicts_transfer"][key], _one((own.get((name, "here")) or {}).get("r")))
        for key, name in names.items()
    ]
    yield from against("r of similarity and transfer", cells, 0.0)
    yield from against("cosine of parameter gradients", _cosines(saved), 0.0)


def against(group: str, cells: Cells, null: float | None = None) -> Iterator[Row]:
    """Rows of one group of values, held against `null`, or each side against its mean over known pairs."""
    known = [(theirs, ours.value) for _, theirs, ours in cells if ours is not None]
    middles = [mean_of(side) for side in zip(*known, strict=True)] if known else [math.nan, math.nan]
    theirs_middle, ours_middle = (null, null) if null is not None else middles
    for name, theirs, ours in cells:
        row: Row = {"group": group, "quantity": name, "published": theirs}
        row |= {"against": OWN_MEAN if null is None else f"{null:g}"}
        if ours is None:
            yield row | {"ours": None, "lo": None, "hi": None, "models": 0, "direction": "-"}
            continue
        same = (theirs > theirs_middle) == (ours.value > ours_middle)
        compared = null is not None or len(known) > 1
        yield row | {
            "ours": ours.value,
            "lo": ours.lo if math.isfinite(ours.lo) else None,
            "hi": ours.hi if math.isfinite(ours.hi) else None,
            "models": ours.n,
            "direction": ("same" if same else "opposite") if compared else "-",
        }


def _one(value: float | None) -> Interval | None:
    """A value whose spread over models is not known here."""
    return None if value is None else Interval(value, math.nan, math.nan, 1, "table", "none")


def _scores(saved: Saved, paper: Mapping[str, Any]) -> Iterator[Row]:
    """Seven-task models; the published ones beat any constant answer."""
    together = saved.pretrained(PAPER_TASKS)
    for task, theirs in paper["scores"]["values"].items():
        (row,) = against(
            "score, all seven tasks", [(task, theirs, of_models(saved.values(together, task)))], 0.0
        )
        learned = mean_of(saved.gains(together, task)) >= FAILED_BELOW
        yield row | {
            "against": f"{FAILED_BELOW:g} of the way from the best constant answer",
            "direction": row["direction"] if row["ours"] is None else "same" if learned else "opposite",
        }


def _trend(saved: Saved, paper: Mapping[str, Any]) -> Cells:
    groups = {r["group"]: r for r in saved.groups if r["measure"] == CKA and r["models"] == "all models"}
    cells = []
    for count, value in enumerate(paper["trend"]["disjoint"], start=1):
        row = groups.get(f"disjoint, {count} task(s) each")
        low, high = ((row[end] if row and row[end] is not None else math.nan) for end in ("lo", "hi"))
        ours = Interval(row["value"], low, high, row["n"], "model", "jackknife") if row else None
        cells.append((f"{count} task(s) each, none in common", value, ours))
    return cells


def _improvements(saved: Saved, paper: Mapping[str, Any]) -> Iterator[Row]:
    """Generalisation matrices of single tasks and of pairs; the pairs' deviations."""
    ours = saved.improvements()

    def cells(sets: Iterable[str], lines: Sequence[Sequence[float]]) -> Cells:
        return [
            (f"{name} -> {task}", value, of_models(ours.get((name, task), {}).values()))
            for name, line in zip(sets, lines, strict=True)
            for task, value in zip(PAPER_TASKS, line, strict=True)
        ]

    yield from against(
        "improvement, trained -> asked (published with elicitation)", cells(PAPER_TASKS, paper["ft1"]["ni"])
    )
    without = paper["ft1_no_elicitation"]
    own = [
        (f"{t} -> {t}", v, of_models(ours.get((t, t), {}).values())) for t, v in without["trained"].items()
    ]
    others = [to_others(ours, task) for task in PAPER_TASKS]
    by_base = [
        mean_of(m[base] for m in others if base in m) for base in dict.fromkeys(b for m in others for b in m)
    ]
    own.append(("other tasks, mean", without["transfer"], of_models(by_base)))
    yield from against("improvement without elicitation rows", own)
    pairs = ["+".join(ordered(tasks)) for tasks in paper["ft2"]["sets"]]
    yield from against(
        "improvement, two tasks -> asked (published with elicitation)", cells(pairs, paper["ft2"]["ni"])
    )
    beyond: dict[tuple[str, str], list[float]] = {}
    for row in saved.deviation:
        if row["arm"] == PLAIN and row["deviation"] is not None:
            beyond.setdefault((row["set"], row["task"]), []).append(row["deviation"])
    deviations = [
        (f"{name} -> {task}", value, of_models(beyond.get((name, task), [])))
        for name, line in zip(pairs, paper["ft2"]["deviation"], strict=True)
        for task, value in zip(PAPER_TASKS, line, strict=True)
    ]
    yield from against("beyond the better teacher, two tasks -> asked", deviations, 0.0)


def _places(saved: Saved, paper: Mapping[str, Any]) -> Cells:
    theirs, errors = paper["new_cities"], new_city_errors(saved).values()
    return [
        ("sets without distance", theirs["without_distance"], of_models(groups[False] for groups in errors)),
        ("sets with distance", theirs["with_distance"], of_models(groups[True] for groups in errors)),
    ]


def _cosines(saved: Saved) -> Cells:
    theirs = matrix("parameter_cosine")
    ours: dict[tuple[str, str], list[float]] = {}
    for row in saved.cosines:
        if row["cosine"] is not None:
            ours.setdefault((row["task_a"], row["task_b"]), []).append(row["cosine"])
    return [
        (f"{a} with {b}", float(theirs[i, j]), of_models(ours.get((a, b), [])))
        for i, a in enumerate(PAPER_TASKS)
        for j, b in enumerate(PAPER_TASKS)
        if i < j
    ]
