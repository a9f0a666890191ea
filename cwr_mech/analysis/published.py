"""The paper's published values, and what its correlation of similarity with transfer is made of.

Their models: 6 layers of width 128, 5,075 cities, 3 seeds, at layer 5 of the paper, which is
`blocks.4.hook_resid_post`. Ours are smaller, so these are neighbours, not targets. Source: arXiv 2602.00533
v1 and its public rebuttal; the values are kept in `published.json` and `gradients.json`.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
from jaxtyping import Float

from cwr_mech.errors import AnalysisError
from cwr_mech.results import Row
from cwr_mech.tasks.registry import PAPER_TASKS

_PLACES = {
    "cka": ("published.json", "cka", "matrix"),
    "rsa": ("published.json", "local", "rsa"),
    "mutual_knn": ("published.json", "local", "snn"),
    "svcca": ("published.json", "local", "svcca"),
    "transfer": ("published.json", "ft1", "ni"),
    "parameter_cosine": ("gradients.json", "parameter_cosine", "matrix"),
}
MEASURES = {"cka": "cka", "cka_biased": "cka", "rsa": "rsa", "mutual_knn": "mutual_knn", "svcca": "svcca"}
"""Our measure -> the published matrix of single-task models. Their CKA is biased; with 4,413 cities and 256
features that adds less than 0.01, so it stands beside the debiased one too."""


@lru_cache
def content(file: str = "published.json") -> dict[str, Any]:
    """One of the two files of published values: `published.json` or `gradients.json`."""
    found: dict[str, Any] = json.loads((files("cwr_mech.analysis") / file).read_text("utf-8"))
    return found


def published_correlation() -> dict[str, float]:
    """n, slope, intercept, r2 and p as published."""
    found = content("gradients.json")["correlation"]
    return {key: float(value) for key, value in found.items() if key != "what"}


def matrix(name: str) -> Float[np.ndarray, "task task"]:
    """A published matrix over the seven tasks: "cka", "rsa", "mutual_knn" and "svcca" of single-task models
    (diagonal: other seeds), "transfer" (row: trained) or "parameter_cosine".
    """
    file, key, field = _PLACES[name]
    return np.array(content(file)[key][field], dtype=np.float64)


def published_pair(measure: str, first: Sequence[str], second: Sequence[str]) -> float | None:
    """The published similarity of two models of one task each, None where there is none."""
    known = len(first) == len(second) == 1 and {*first, *second} <= set(PAPER_TASKS)
    if known and (measure, {*first, *second}) == ("procrustes_3", {"distance", "trianglearea"}):
        return 0.6197  # logs: one pair of one seed
    if measure not in MEASURES or not known:
        return None
    return float(matrix(MEASURES[measure])[PAPER_TASKS.index(first[0]), PAPER_TASKS.index(second[0])])


def published_group(measure: str, group: str) -> float | None:
    """The published mean over a group of pairs of models, None where there is none."""
    of_measure: dict[str, float] = content()["groups"].get(MEASURES.get(measure, measure), {})
    return of_measure.get(group)


def published_rank(tasks: Sequence[str]) -> float | None:
    """The published effective rank of a model of one task, None where there is none."""
    values: dict[str, float] = content()["ranks"]["values"]
    return values.get(tasks[0]) if len(tasks) == 1 else None


def correlate(
    similarity: Float[np.ndarray, "task task"],
    transfer: Float[np.ndarray, "trained asked"],
    *,
    leave_out: Sequence[str] = (),
    leave_out_trainers: Sequence[str] = (),
) -> Row:
    """A row of the regression of transfer on similarity over the `n` ordered pairs of different tasks of
    PAPER_TASKS: `n`, `r`, `r2`, `slope`, `intercept`, `p`, `r_adjusted`.

    `r_adjusted`: correlation after taking the mean of each asked task out of both, since some tasks are easy
    to reach from anywhere. `p` counts pairs as independent, which they are not: each similarity stands twice.
    leave_out: tasks that are in no pair; leave_out_trainers: tasks that are not the trained one of a pair.
    Raises AnalysisError for fewer than 4 pairs.
    """
    from scipy import stats  # takes a second to import

    kept = [i for i, task in enumerate(PAPER_TASKS) if task not in leave_out]
    pairs = [(i, j) for i in kept for j in kept if i != j and PAPER_TASKS[i] not in leave_out_trainers]
    if len(pairs) < 4:
        raise AnalysisError(f"{len(pairs)} pairs of tasks are too few to correlate")
    x = np.array([similarity[pair] for pair in pairs])
    y = np.array([transfer[pair] for pair in pairs])
    fit = stats.linregress(x, y)
    asked = np.array([j for _, j in pairs])
    within = [v - np.array([v[asked == j].mean() for j in asked]) for v in (x, y)]
    return {
        "n": len(pairs),
        "r": float(fit.rvalue),
        "r2": float(fit.rvalue**2),
        "slope": float(fit.slope),
        "intercept": float(fit.intercept),
        "p": float(fit.pvalue),
        "r_adjusted": float(np.corrcoef(*within)[0, 1]),
    }
