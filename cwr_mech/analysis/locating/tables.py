"""Tables of implied coordinates: errors, disagreement between tasks, divergence index, groups of models.

The divergence index of a fine-tuned model is ln(e_other / e_trained), e the mean distance of new cities from
where answers to a task put them: above 0 the trained task uses better coordinates than the others do. Tasks
differ in what their answers can tell, so the same number for training cities stands beside it (control), and
`excess` is the difference.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float

from cwr_mech.analysis.stats.intervals import mean_interval
from cwr_mech.results import Row, groups

NEW, TRAINING = "new", "training"
LOCATED = ("distance", "compass", "perimeter")
"""Tasks whose answers determine coordinates well enough to tell two places of a city apart."""
TRUE, DEALT = "true coordinates", "dealt at random"
"""Answers without a model: the right ones, and these dealt to other questions."""
DRAWS = 1000
ALL_OTHERS = "all others"


def kinds(is_new: Bool[np.ndarray, " city"]) -> list[tuple[str, Bool[np.ndarray, " city"]]]:
    """Name and mask of each kind of city that there is, new ones first."""
    return [(name, mask) for name, mask in ((NEW, is_new), (TRAINING, ~is_new)) if mask.any()]


def mean_columns(values: Float[np.ndarray, " n"], unit: str, name: str = "value") -> Row:
    """Mean of the finite `values` and its 95 % interval (Student's t over `unit`); None without any."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return {name: None, "lo": None, "hi": None}
    found = mean_interval(finite, unit=unit)
    return {name: found.value, **found.ends}


def error_rows(
    about: Row,
    errors: Float[np.ndarray, " city"],
    radius: Float[np.ndarray, " city"] | None,
    is_new: Bool[np.ndarray, " city"],
) -> list[Row]:
    """Mean distance from the true coordinates for each kind of city, 95 % over cities, and the mean radius
    that holds 95 % of the coordinates implied by resampled questions."""
    rows = []
    for kind, mask in kinds(is_new):
        row = about | {"cities": kind, "n": int(mask.sum())} | mean_columns(errors[mask], "city", "error")
        wide = None if radius is None else float(radius[mask].mean())
        rows.append(row | {"median": float(np.median(errors[mask])), "radius": wide})
    return rows


def curve_rows(
    about: Row, errors: Mapping[int, Float[np.ndarray, " city"]], is_new: Bool[np.ndarray, " city"]
) -> list[Row]:
    """Mean error for each number of questions (the keys of `errors`) and kind of city."""
    return [
        about | {"cities": kind, "questions": k, "error": float(error[mask].mean())}
        for k, error in errors.items()
        for kind, mask in kinds(is_new)
    ]


def pair_rows(
    about: Row, implied: Mapping[str, Float[np.ndarray, "city 2"]], is_new: Bool[np.ndarray, " city"]
) -> list[Row]:
    """Mean distance between the coordinates that two tasks imply for the same city, 95 % over cities."""
    rows = []
    for first, second in combinations(implied, 2):
        apart = np.linalg.norm(implied[first] - implied[second], axis=1)
        for kind, mask in kinds(is_new):
            row = about | {"cities": kind, "first": first, "second": second}
            rows.append(row | mean_columns(apart[mask], "city", "distance"))
    return rows


def divergence_rows(
    about: Row,
    errors: Mapping[str, Float[np.ndarray, " city"]],
    trained: Sequence[str],
    is_new: Bool[np.ndarray, " city"],
    rng: np.random.Generator,
) -> list[Row]:
    """The index against each task that was not trained, and against all of them (mean of logarithms).

    Intervals resample cities, of each kind by itself. Empty when no trained or no other task was located, or
    there are no new cities.
    """
    own = [task for task in errors if task in trained]
    others = [task for task in errors if task not in trained]
    if not own or not others or not is_new.any():
        return []
    table = np.stack([errors[task] for task in (*own, *others)])
    new, control = (_log_means(table[:, mask], rng) for mask in (is_new, ~is_new))
    rows = []
    for task in (ALL_OTHERS, *others):
        picked = [len(own) + others.index(one) for one in (others if task == ALL_OTHERS else [task])]
        index, beside = (
            means[:, picked].mean(axis=1) - means[:, : len(own)].mean(axis=1) for means in (new, control)
        )
        row: Row = {"trained": "+".join(own), "task": task}
        for name, draws in (("index", index), ("control", beside), ("excess", index - beside)):
            low, high = np.quantile(draws[1:], [0.025, 0.975])
            row |= {name: float(draws[0]), f"{name}_lo": float(low), f"{name}_hi": float(high)}
        rows.append(about | row)
    return rows


def _log_means(
    errors: Float[np.ndarray, "task city"], rng: np.random.Generator
) -> Float[np.ndarray, "draw task"]:
    """ln of the mean error: of all cities in row 0, of cities drawn with replacement in the others."""
    n = errors.shape[1]
    weights = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS) / n
    # An error of 0 has no logarithm; coordinates are whole tenths of a degree.
    return np.log(np.maximum(np.concatenate([np.full((1, n), 1 / n), weights]) @ errors.T, 0.5))


def group_rows(
    rows: Sequence[Row],
    labels: Mapping[str, str],
    by: Sequence[str],
    value: str,
    *,
    name: str | None = None,
    geometric: bool = False,
) -> list[Row]:
    """Mean of a column over the models of a label, for each combination of `by`, 95 % over models.

    labels: run -> label. Rows of runs without a label are left out. geometric: the mean and its interval are
    those of logarithms, for errors, which are positive and differ by factors.
    """
    labelled = [row | {"models": labels[row["run"]]} for row in rows if row["run"] in labels]
    means = []
    for key, found in groups(labelled, "models", *by).items():
        values = np.array([row[value] for row in found], dtype=np.float64)  # None is NaN
        about = dict(zip(("models", *by), key, strict=True)) | {"n": len(found)}
        mean = mean_columns(np.log(values) if geometric else values, "model", name or value)
        if geometric:
            mean = {column: None if log is None else math.exp(log) for column, log in mean.items()}
        means.append(about | mean)
    return means
