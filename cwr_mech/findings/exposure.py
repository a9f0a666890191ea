"""Claims about what models have seen: two tasks and one, the usual rows and twice as many."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations, product
from statistics import mean

import numpy as np
import pandas as pd

from cwr_mech.analysis.published import published_group
from cwr_mech.analysis.stats.intervals import jackknife_error, t_interval
from cwr_mech.findings.claims import Claim, Evidence, NoResults, of_statistic, withheld
from cwr_mech.findings.evidence import Saved, across
from cwr_mech.findings.pretrained import CKA, LEAST_TASKS, NOISE, NOISE_WHY, outlier_gap, published_pairs
from cwr_mech.tasks.registry import PAPER_TASKS

APART = "distance"
"""The task that stands apart in the paper."""


def exposure_claims() -> Iterator[Claim]:
    """Do models of two tasks differ from models of one by their tasks, or by how much they have seen?"""
    claim = partial(Claim, question="similarity", smallest=NOISE, why=NOISE_WHY)
    words = "CKA of models of two tasks, no task in common, minus that of models of these tasks alone"
    one, two = (published_group(CKA, f"disjoint, {count} task(s) each") or math.nan for count in (1, 2))
    yield claim(
        id="together-exposure",
        statement="Models of two tasks are more similar than models of one that saw their task as often",
        contrast=f"{words} that saw as many rows of their task, on average",
        evidence=partial(_together, longer=False),
        published=two - one,
    )
    yield claim(
        id="together-rows",
        statement="Models of two tasks are more similar than models of one that saw as many rows in all",
        contrast=f"{words} that saw as many rows in all, on average",
        evidence=partial(_together, longer=True),
    )
    yield claim(
        id=f"longer-{APART}-nearer",
        statement=f"Trained twice as long, models of {APART} are more like models of other tasks",
        contrast=f"CKA with models of other tasks, above shuffled cities: {APART} trained longer, minus as "
        "usual, same seed",
        evidence=_nearer,
    )
    yield claim(
        id=f"longer-{APART}-outlier",
        statement=f"Trained twice as long, too, {APART} is the task whose models differ from all others",
        contrast=f"CKA of other tasks among themselves, minus theirs with {APART} trained longer",
        evidence=_longer_outlier,
        published=outlier_gap(published_pairs(CKA)),
    )


def _together(saved: Saved, *, longer: bool) -> Evidence:
    """Similarity of models of two tasks, no task in common, minus the mean of the four pairs of their tasks
    alone; `longer`: by models that saw more rows than another of their task and seed. Every model is left out
    once; as many degrees of freedom as the models of two tasks, the fewer, leave.
    """
    models = _learned(saved)
    tasks = {run: tuple(names.split("+")) for run, names in zip(models["run"], models["tasks"], strict=True)}
    two = {run: tasks[run] for run in models["run"][~models["more"]] if len(tasks[run]) == 2}
    if longer:
        mine = [run for run in models["run"][models["more"]] if len(tasks[run]) == 1]
    else:
        mine = [run for runs in saved.singles.values() for run in runs if run in tasks]
    above = saved.above_shuffled(CKA)

    def gain(left: str = "") -> float:
        single = {
            task: [run for run in mine if tasks[run] == (task,) and run != left] for task in PAPER_TASKS
        }
        apart = across(above, single, mine)
        apart |= {(b, a): value for (a, b), value in apart.items()}
        gains = []
        for first, second in combinations([run for run in two if run != left], 2):
            four = list(product(two[first], two[second]))
            if (first, second) in above and all(a != b and (a, b) in apart for a, b in four):
                gains.append(above[first, second] - mean(apart[pair] for pair in four))
        return mean(gains) if gains else math.nan

    if not math.isfinite(value := gain()):
        return withheld("no two models of two tasks each, none in common, beside models of each task alone")
    without = np.array([gain(run) for run in (*two, *mine)])
    if not np.isfinite(without).all():
        return withheld("too few models: without one of them no pair is left")
    return Evidence(t_interval(value, jackknife_error(without), len(two)))


def _nearer(saved: Saved) -> Evidence:
    """Mean over seeds; every seed and every model of another task is left out once, and as many degrees of
    freedom as seeds leave.
    """
    usual, longer = _by_seed(saved)
    others, above = _others(saved), saved.above_shuffled(CKA)
    pairs = {
        seed: {
            other: above[longer[seed], other] - above[usual[seed], other]
            for other in others
            if (longer[seed], other) in above and (usual[seed], other) in above
        }
        for seed in sorted({*usual} & {*longer})
    }
    if len(pairs) < 2 or not all(pairs.values()):
        return withheld(f"fewer than two seeds of {APART} with usual and with twice the rows")

    def gain(left: object = None) -> float:
        return mean(
            mean(value for other, value in by.items() if other != left)
            for seed, by in pairs.items()
            if seed != left
        )

    without = np.array([gain(left) for left in (*pairs, *others)])
    return Evidence(t_interval(gain(), jackknife_error(without), len(pairs)))


def _longer_outlier(saved: Saved) -> Evidence:
    """As the outlier among usual models: a jackknife over models."""
    models = [run for _, run in sorted(_by_seed(saved)[1].items())]
    singles = {**saved.singles, APART: models}
    values, runs = saved.similarity(CKA), [run for mine in singles.values() for run in mine]
    if not models or len(singles) < LEAST_TASKS:
        return withheld(f"no model of {APART} with twice the rows beside {LEAST_TASKS - 1} other tasks")
    return of_statistic(lambda kept: outlier_gap(across(values, singles, kept)), runs)


def _learned(saved: Saved) -> pd.DataFrame:
    """Models in results about similarity that have learned all their tasks, without label noise; `more`: it
    saw more rows than another of its tasks and seed."""
    models = saved.table("similarity", "models")
    if not {"seed", "rows", "failed", "label_noise"} <= set(models):
        raise NoResults("results of kind similarity do not say what models saw; make them anew")
    models = models[models["label_noise"] == 0].drop_duplicates("run")
    more = models["rows"] > models.groupby(["tasks", "seed"])["rows"].transform("min")
    return models.assign(more=more)[models["failed"].eq(False)]


def _by_seed(saved: Saved) -> tuple[dict[int, str], dict[int, str]]:
    """Seed -> the model of APART alone that saw the usual rows, and the one that saw more."""
    models = _learned(saved)
    mine = models[models["tasks"] == APART]
    return tuple(  # type: ignore[return-value]
        dict(zip(part["seed"], part["run"], strict=True))
        for part in (mine[~mine["more"]], mine[mine["more"]])
    )


def _others(saved: Saved) -> Sequence[str]:
    """Models of other tasks alone that have learned theirs."""
    return [run for task, runs in saved.singles.items() if task != APART for run in runs]


CLAIMS = tuple(exposure_claims())
