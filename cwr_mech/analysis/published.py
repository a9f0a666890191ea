"""The paper's published tables, and what its correlation of similarity with transfer is made of."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
from jaxtyping import Float

from cwr_mech.errors import AnalysisError
from cwr_mech.tasks.registry import PAPER_TASKS

_PLACES = {
    "cka": ("published.json", "cka", "matrix"),
    "rsa": ("published.json", "local", "rsa"),
    "mutual_knn": ("published.json", "local", "snn"),
    "svcca": ("published.json", "local", "svcca"),
    "transfer": ("published.json", "ft1", "ni"),
    "parameter_cosine": ("gradients.json", "parameter_cosine", "matrix"),
}


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


@dataclass(frozen=True)
class Correlation:
    """Regression of transfer on similarity over ordered pairs of tasks, `n` points.

    `r_adjusted`: correlation after taking the mean of each asked task out of both, since some tasks are easy
    to reach from anywhere. `p` counts pairs as independent, which they are not: each similarity stands twice.
    """

    n: int
    r: float
    r2: float
    slope: float
    intercept: float
    p: float
    r_adjusted: float


def correlate(
    similarity: Float[np.ndarray, "task task"],
    transfer: Float[np.ndarray, "trained asked"],
    *,
    leave_out: Sequence[str] = (),
    leave_out_trainers: Sequence[str] = (),
) -> Correlation:
    """Correlate over the ordered pairs of different tasks of PAPER_TASKS.

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
    adjusted = float(np.corrcoef(*within)[0, 1])
    return Correlation(
        n=len(pairs),
        r=float(fit.rvalue),
        r2=float(fit.rvalue**2),
        slope=float(fit.slope),
        intercept=float(fit.intercept),
        p=float(fit.pvalue),
        r_adjusted=adjusted,
    )
