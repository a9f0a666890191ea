"""The paper's claims as numbers: each exceeds a given value if the paper is right.

Functions from the saved results of a report (`Saved`) and the published values to rows. Intervals are over
models, or over bases for what fine-tuning does.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from cwr_mech.analysis.models import FAILED_BELOW
from cwr_mech.analysis.similarity import jackknife_error
from cwr_mech.analysis.statistics import Interval, mean_interval
from cwr_mech.config import TASK_NAMES
from cwr_mech.results import Result, Row

VERDICTS = ("supported", "not supported", "undecided", "no models yet")
GOOD_MAP = 0.95
"""Held-out R² that a map read from a seven-task model should reach."""


def verdict(found: Interval, null: float) -> str:
    """Whether an interval over models lies above `null` ("supported"), below, or says neither."""
    if not math.isfinite(found.low):
        return "undecided"
    return "supported" if found.low > null else "not supported" if found.high < null else "undecided"


def claim(
    section: str,
    text: str,
    theirs: float | str | None,
    found: Interval | None,
    *,
    null: float = 0.0,
    against: str = "0",
) -> Row:
    """One row: the claim, the published value, ours with its interval, what it is held against, verdict."""
    row: Row = {
        "section": section,
        "claim": text,
        "published": theirs if theirs is None or isinstance(theirs, str) else f"{theirs:.3g}",
        "against": against,
    }
    if found is None:
        empty = dict.fromkeys(("ours", "ci_lo", "ci_hi"))
        return row | empty | {"models": 0, "direction": "-", "verdict": "no models yet"}
    return row | {
        "ours": found.value,
        "ci_lo": found.low if math.isfinite(found.low) else None,
        "ci_hi": found.high if math.isfinite(found.high) else None,
        "models": found.n,
        "direction": "same" if found.value > null else "opposite",
        "verdict": verdict(found, null),
    }


class Saved:
    """The saved results of a report, as the claims read them."""

    def __init__(self, results: Mapping[str, Result]) -> None:
        def rows(kind: str, table: str) -> list[Row]:
            chosen = (result for result in results.values() if result.kind == kind)
            return [row for result in chosen for row in result.tables.get(table, [])]

        self.tasks_of = {row["run"]: tuple(row["tasks"].split("+")) for row in rows("zoo", "models")}
        self.bases = {row["run"]: row["base"] for row in rows("zoo", "models")}
        self.scores, self.maps = rows("zoo", "scores"), rows("maps", "layers")
        self.new, self.cells = rows("maps", "new"), rows("cka", "cells")
        learned = {
            (row["run"], row["task"])
            for row in self.scores
            if row["group"] == "old" and row["gain"] >= FAILED_BELOW
        }
        # Where the base had not learned a task, old cities are hardly better than new ones, and improvement
        # divides by that difference.
        self.transfer, self.deviation = (
            [row for row in rows("transfer", table) if row["arm"] == PLAIN]
            for table in ("scores", "deviation")
        )
        self.transfer = [row for row in self.transfer if (row["base"], row["task"]) in learned]
        self.deviation = [row for row in self.deviation if (row["base"], row["task"]) in learned]

    def pretrained(self, tasks: Sequence[str]) -> list[str]:
        """Models trained from scratch on exactly these tasks."""
        return [
            run for run, own in self.tasks_of.items() if own == tuple(tasks) and self.bases.get(run) is None
        ]

    def gains(self, runs: Iterable[str], task: str) -> list[float]:
        """Share of the gap between the best constant answer and a perfect one that each model closes."""
        wanted = set(runs)
        return [
            row["gain"]
            for row in self.scores
            if row["run"] in wanted and row["task"] == task and row["group"] == "old"
        ]

    def best_r2(self, runs: Iterable[str]) -> list[float]:
        """R² of the best layer and prompt of each model that was probed."""
        found = ([row["r2"] for row in self.maps if row["run"] == run] for run in runs)
        return [max(values) for values in found if values]


PLAIN = "replay trained, elicitation none"
"""The arm of fine-tuning that the claims are about: no rows of the tasks that are not trained."""


def of_models(values: Sequence[float | None]) -> Interval | None:
    """Mean over models with Student's t interval; None without any."""
    given = np.array([value for value in values if value is not None], dtype=np.float64)
    return mean_interval(given) if given.size else None


def answers_claims(saved: Saved, paper: Mapping[str, Any]) -> Iterator[Row]:
    """Which tasks are learned, together and alone."""
    together = saved.pretrained(TASK_NAMES)
    for task in TASK_NAMES:
        yield claim(
            "tasks",
            f"{task} is learned by a model of all seven tasks (share of the constant answer's gap closed)",
            f"score {paper['scores']['values'][task]:g}",
            of_models(saved.gains(together, task)),
            null=FAILED_BELOW,
            against=f"{FAILED_BELOW}",
        )
    for task in TASK_NAMES[:-1]:
        found = of_models(saved.gains(saved.pretrained((task,)), task))
        text = f"{task} is learned alone (share of the gap closed)"
        yield claim("tasks", text, "learned", found, null=FAILED_BELOW, against=f"{FAILED_BELOW}")
    alone = [-value for value in saved.gains(saved.pretrained(("crossing",)), "crossing")]
    text = "crossing is not learned alone (minus the share closed)"
    yield claim("tasks", text, "fails", of_models(alone), null=-FAILED_BELOW, against=f"-{FAILED_BELOW}")


def map_claims(saved: Saved, paper: Mapping[str, Any]) -> Iterator[Row]:
    """Is there a map in the model?"""
    together = of_models(saved.best_r2(saved.pretrained(TASK_NAMES)))
    text = "a model of all seven tasks holds a map (R² on held-out cities, best layer)"
    yield claim("maps", text, None, together, null=GOOD_MAP, against=f"{GOOD_MAP}")
    for task in TASK_NAMES[:-1]:
        theirs = paper["probe_r2"]["values"][task]
        found = of_models(saved.best_r2(saved.pretrained((task,))))
        text = f"{task} alone makes a map (R², best layer)"
        yield claim(
            "maps", text, theirs if theirs is not None else "0.6 to 0.99", found, null=0.5, against="0.5"
        )


def jackknifed(statistic: Callable[[Sequence[str]], float], runs: Sequence[str]) -> Interval | None:
    """A statistic of a set of models with the delete-one-model jackknife; None where it is undefined."""
    value = statistic(runs)
    if not math.isfinite(value):
        return None
    without = np.array([statistic([run for run in runs if run != left]) for left in runs])
    if len(runs) < 3 or not np.isfinite(without).all():
        return Interval(value, np.nan, np.nan, len(runs), "model", "t", reason="too few models")
    reach = float(stats.t.ppf(0.975, len(runs) - 1)) * jackknife_error(without)
    return Interval(value, value - reach, value + reach, len(runs), "model", "jackknife over models")


def single_task_pairs(saved: Saved, runs: Sequence[str]) -> dict[tuple[str, str], float]:
    """Mean CKA for each pair of different tasks, over the models of one task each, at the layer compared."""
    found: dict[tuple[str, str], list[float]] = {}
    for cell in saved.cells:
        a, b = (saved.tasks_of.get(cell[side], ()) for side in ("run_a", "run_b"))
        known = {cell["run_a"], cell["run_b"]} <= set(runs) and cell["cka"] is not None
        if known and len(a) == len(b) == 1 and a != b:
            first, second = sorted((a[0], b[0]), key=TASK_NAMES.index)
            found.setdefault((first, second), []).append(cell["cka"])
    return {pair: float(np.mean(values)) for pair, values in found.items()}


def _mean(values: Iterable[float]) -> float:
    given = list(values)
    return float(np.mean(given)) if given else math.nan


def outlier_gap(pairs: Mapping[tuple[str, str], float], task: str = "distance") -> float:
    """Mean similarity of the other tasks among themselves minus theirs with `task`; crossing is left out."""
    kept = {pair: value for pair, value in pairs.items() if "crossing" not in pair}
    return _mean(v for pair, v in kept.items() if task not in pair) - _mean(
        v for pair, v in kept.items() if task in pair
    )


def similarity_claims(saved: Saved, paper: Mapping[str, Any]) -> Iterator[Row]:
    """Do different tasks arrive at the same arrangement, and is distance the outlier?"""
    runs = [run for run, tasks in saved.tasks_of.items() if len(tasks) == 1 and saved.bases.get(run) is None]
    matrix = np.array(paper["cka"]["matrix"])
    theirs = {
        (TASK_NAMES[i], TASK_NAMES[j]): float(matrix[i, j]) for i, j in combinations(range(len(matrix)), 2)
    }

    def level(chosen: Sequence[str]) -> float:
        pairs = single_task_pairs(saved, chosen)
        return _mean(value for pair, value in pairs.items() if "crossing" not in pair)

    yield claim(
        "similarity",
        "models of different single tasks arrange the cities alike (mean CKA without crossing)",
        level_of(theirs),
        jackknifed(level, runs),
        null=0.0,
        against="0",
    )
    yield claim(
        "similarity",
        "distance is the outlier: CKA of the other tasks among themselves minus theirs with distance",
        outlier_gap(theirs),
        jackknifed(lambda chosen: outlier_gap(single_task_pairs(saved, chosen)), runs),
    )
    same = [
        cell["cka"]
        for cell in saved.cells
        if saved.tasks_of.get(cell["run_a"]) == saved.tasks_of.get(cell["run_b"]) == TASK_NAMES
        if cell["cka"] is not None
    ]
    n = len(saved.pretrained(TASK_NAMES))
    found = Interval(_mean(same), math.nan, math.nan, n, "model", "mean over pairs") if same else None
    text = "models of all seven tasks with other seeds arrange the cities alike (mean CKA over pairs)"
    yield claim("similarity", text, None, found, null=0.0)


def level_of(pairs: Mapping[tuple[str, str], float]) -> float:
    """Mean over pairs without crossing."""
    return _mean(value for pair, value in pairs.items() if "crossing" not in pair)


def transfer_claims(saved: Saved, paper: Mapping[str, Any]) -> Iterator[Row]:
    """What fine-tuning on one task teaches about new cities in the others; units are bases."""
    single = [row for row in saved.transfer if "+" not in row["set"] and row["ni"] is not None]
    bases = list(dict.fromkeys(row["base"] for row in single))
    theirs = np.array(paper["ft1"]["ni"])
    for index, task in enumerate(TASK_NAMES):
        values = [_per_base(single, base, task, trained=True) for base in bases]
        text = f"fine-tuning on {task} teaches {task} about new cities (improvement)"
        yield claim("fine-tuning", text, float(theirs[index, index]), of_models(_given(values)))
    for index, task in enumerate(TASK_NAMES):
        values = [_per_base(single, base, task, trained=False) for base in bases]
        off = float(np.delete(theirs[index], index).mean())
        text = f"fine-tuning on {task} teaches the other tasks (mean improvement)"
        yield claim("fine-tuning", text, off, of_models(_given(values)))
    gaps = []
    for base in bases:
        others = [_per_base(single, base, task, trained=False) for task in TASK_NAMES[1:]]
        gaps.append(_mean(_given(others)) - _per_base(single, base, "distance", trained=False))
    means = [float(np.delete(line, index).mean()) for index, line in enumerate(theirs)]
    text = "distance teaches the other tasks less than they teach (difference of mean improvement)"
    yield claim("fine-tuning", text, _mean(means[1:]) - means[0], of_models(_given(gaps)))
    harmed = [row for row in saved.deviation if _harmed(row)]
    missed = [
        -_mean(row["deviation"] for row in harmed if row["base"] == base)
        for base in dict.fromkeys(row["base"] for row in harmed)
    ]
    dev = [
        -value
        for tasks, line in zip(paper["ft2"]["sets"], paper["ft2"]["deviation"], strict=True)
        for task, value in zip(TASK_NAMES, line, strict=True)
        if "distance" in tasks and task != "distance"
    ]
    text = "distance beside another task makes the other tasks worse than the better teacher alone"
    yield claim("fine-tuning", text, _mean(dev), of_models(missed))


def _harmed(row: Row) -> bool:
    return "distance" in row["set"].split("+") and row["task"] != "distance" and row["deviation"] is not None


def _given(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _per_base(rows: Sequence[Row], base: str, task: str, *, trained: bool) -> float:
    return _mean(
        row["ni"] for row in rows if (row["base"], row["set"], row["trained"]) == (base, task, trained)
    )


def place_claims(saved: Saved, paper: Mapping[str, Any]) -> Iterator[Row]:
    """Where new cities lie after fine-tuning, by a probe fitted on old ones."""
    best = {row["run"]: row for row in sorted(saved.maps, key=lambda row: row["r2"])}
    errors = {
        row["run"]: row["error_mean"]
        for row in saved.new
        if all(row[key] == best[row["run"]][key] for key in ("task", "hook"))
    }
    by_base: dict[str, dict[bool, list[float]]] = {}
    for run, error in errors.items():
        base = saved.bases.get(run)
        if base is not None:
            with_distance = "distance" in saved.tasks_of[run]
            by_base.setdefault(base, {True: [], False: []})[with_distance].append(error)
    ratios = [
        math.log(_mean(groups[True]) / _mean(groups[False]))
        for groups in by_base.values()
        if groups[True] and groups[False]
    ]
    theirs = paper["new_cities"]
    text = "new cities are put further from their places when distance is trained (log ratio of errors)"
    yield claim(
        "new cities", text, math.log(theirs["with_distance"] / theirs["without_distance"]), of_models(ratios)
    )


GROUPS = (answers_claims, map_claims, similarity_claims, transfer_claims, place_claims)
"""The claims, in the order of the report. A new group is one row here."""
