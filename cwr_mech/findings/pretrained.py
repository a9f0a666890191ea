"""Claims about models before any fine-tuning: what they learn, their maps, how alike they are."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from cwr_mech.analysis.stats.intervals import Interval
from cwr_mech.analysis.stats.models import FAILED_BELOW
from cwr_mech.findings.claims import (
    CKA,
    MEASURES,
    SHARED_NEIGHBOURS,
    Pairs,
    Saved,
    claim,
    jackknifed,
    mean_of,
    of_models,
)
from cwr_mech.results import Row
from cwr_mech.tasks.registry import PAPER_TASKS

LEARNED_ALONE = tuple(task for task in PAPER_TASKS if task != "crossing")
"""Tasks that the published models learn by themselves."""
GOOD_MAP = 0.95
"""Held-out R² that a map read from a seven-task model should reach."""


def answers_claims(saved: Saved, paper: Mapping[str, Any]) -> Iterator[Row]:
    """Which tasks are learned, together and alone."""
    together = saved.pretrained(PAPER_TASKS)
    for task in PAPER_TASKS:
        yield claim(
            "tasks",
            f"{task} is learned by a model of all seven tasks (share of the constant answer's gap closed)",
            f"score {paper['scores']['values'][task]:g}",
            of_models(saved.gains(together, task)),
            null=FAILED_BELOW,
            against=f"{FAILED_BELOW}",
        )
    for task in LEARNED_ALONE:
        found = of_models(saved.gains(saved.pretrained((task,)), task))
        text = f"{task} is learned alone (share of the gap closed)"
        yield claim("tasks", text, "learned", found, null=FAILED_BELOW, against=f"{FAILED_BELOW}")
    alone = [-value for value in saved.gains(saved.pretrained(("crossing",)), "crossing")]
    text = "crossing is not learned alone (minus the share closed)"
    yield claim("tasks", text, "fails", of_models(alone), null=-FAILED_BELOW, against=f"-{FAILED_BELOW}")


def map_claims(saved: Saved, paper: Mapping[str, Any]) -> Iterator[Row]:
    """Is there a map in the model?"""
    together = of_models(saved.best_r2(saved.pretrained(PAPER_TASKS)))
    text = "a model of all seven tasks holds a map (R² on held-out cities, best layer)"
    yield claim("maps", text, None, together, null=GOOD_MAP, against=f"{GOOD_MAP}")
    for task in LEARNED_ALONE:
        theirs = paper["probe_r2"]["values"][task]
        found = of_models(saved.best_r2(saved.pretrained((task,))))
        text = f"{task} alone makes a map (R², best layer)"
        yield claim(
            "maps", text, theirs if theirs is not None else "0.6 to 0.99", found, null=0.5, against="0.5"
        )


def outlier_gap(pairs: Pairs, task: str = "distance") -> float:
    """Mean similarity of the other tasks among themselves minus theirs with `task`; crossing is left out."""
    kept = {pair: value for pair, value in pairs.items() if "crossing" not in pair and pair[0] != pair[1]}
    others = mean_of(value for pair, value in kept.items() if task not in pair)
    return others - mean_of(value for pair, value in kept.items() if task in pair)


def level(pairs: Pairs) -> float:
    """Mean over pairs of different tasks, without crossing."""
    return mean_of(v for pair, v in pairs.items() if "crossing" not in pair and pair[0] != pair[1])


def ceiling(pairs: Pairs) -> float:
    """Mean over tasks, crossing left out, of the likeness of other seeds of the same task."""
    return mean_of(v for pair, v in pairs.items() if "crossing" not in pair and pair[0] == pair[1])


def published_pairs(matrix: Sequence[Sequence[float]]) -> Pairs:
    """A published matrix of single-task models as pairs; its diagonal is other seeds."""
    cells = [*combinations(range(len(matrix)), 2), *((i, i) for i in range(len(matrix)))]
    return {(PAPER_TASKS[i], PAPER_TASKS[j]): float(matrix[i][j]) for i, j in cells}


def published_matrices(paper: Mapping[str, Any]) -> dict[str, Pairs]:
    """Measure -> its published matrix of single-task models."""
    names = {CKA: "cka", "rsa": "rsa", "svcca": "svcca", SHARED_NEIGHBOURS: "snn"}
    found = {"cka": paper["cka"]["matrix"], **paper["local"]}
    return {measure: published_pairs(found[names[measure]]) for measure in MEASURES}


TREND = "disjoint, change per task"


def similarity_claims(saved: Saved, paper: Mapping[str, Any]) -> Iterator[Row]:
    """Do different tasks arrive at the same arrangement, and is distance the outlier, by which measure?"""
    theirs = published_matrices(paper)
    text = "models of different single tasks arrange the cities alike (mean CKA)"
    yield claim("similarity", text, level(theirs[CKA]), over_models(saved, CKA, level))
    text = "models of the same single task and other seeds do, the ceiling (mean CKA)"
    yield claim("similarity", text, ceiling(theirs[CKA]), over_models(saved, CKA, ceiling))
    for measure in MEASURES:
        text = f"distance is the outlier by {measure} (others among themselves minus others with distance)"
        found = over_models(saved, measure, outlier_gap)
        yield claim("similarity", text, outlier_gap(theirs[measure]), found)
    for count, value in enumerate(paper["trend"]["disjoint"], start=1):
        text = f"models of {count} task(s), none in common, arrange the cities alike (mean CKA)"
        yield claim("similarity", text, value, _group(saved, f"disjoint, {count} task(s) each"))
    yield _trend_claim(saved, paper["trend"]["disjoint"])
    together = saved.pretrained(PAPER_TASKS)
    alike = jackknifed(lambda runs: mean_of(_among(saved, runs)), together)
    text = "models of all seven tasks with other seeds arrange the cities alike (mean CKA over pairs)"
    yield claim("similarity", text, None, alike)


def over_models(saved: Saved, measure: str, statistic: Callable[[Pairs], float]) -> Interval | None:
    """A statistic of the similarities between single-task models, jackknifed over these models."""
    return jackknifed(lambda runs: statistic(saved.single_task_pairs(runs, measure)), saved.alone())


def _trend_claim(saved: Saved, published: Sequence[float]) -> Row:
    """Judged by the interval over models, like all claims; the permutation test stands beside it."""
    text = "models of more tasks, none in common, are more alike (change of CKA a task)"
    rows = _group_rows(saved, TREND)
    beside = f"; numbers of tasks relabelled, p = {rows[0]['p']:.3f}" if rows else ""
    theirs = float(np.polyfit(np.arange(len(published)), published, 1)[0])
    return claim("similarity", text, theirs, _group(saved, TREND), against=f"0{beside}")


def _group_rows(saved: Saved, name: str) -> list[Row]:
    return [r for r in saved.groups if (r["group"], r["measure"], r["models"]) == (name, CKA, "all models")]


def _group(saved: Saved, name: str) -> Interval | None:
    rows = _group_rows(saved, name)
    if not rows:
        return None
    low, high = (np.nan if rows[0][end] is None else rows[0][end] for end in ("lo", "hi"))
    return Interval(rows[0]["value"], low, high, rows[0]["n"], "model", "jackknife over models")


def _among(saved: Saved, runs: Sequence[str]) -> list[float]:
    wanted = set(runs)
    chosen = (r for r in saved.pairs if r["measure"] == CKA and {r["run_a"], r["run_b"]} <= wanted)
    return [row["value"] for row in chosen if row["value"] is not None]
