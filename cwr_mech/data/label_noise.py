"""Wrong answers on purpose: the questions stay, a share of the answers is replaced."""

import numpy as np
from jaxtyping import Int64

from cwr_mech.tasks.registry import Task

NOISE_KINDS = ("uniform", "local")
LOCAL_CHANGE = 0.05
"""Largest relative change of a number under local noise."""


def with_noise(
    task: Task, values: Int64[np.ndarray, " row"], share: float, kind: str, rng: np.random.Generator
) -> Int64[np.ndarray, " row"]:
    """Answer values of which each was hit with probability `share`; both kinds hit the same rows.

    uniform: a number becomes the answer to another of the given queries, a label any other label.
    local: a number changes by up to 5 % (at least by 1), a label becomes one of its two neighbours in the
    circle of the task's labels: compass the next sector on either side, TRUE and FALSE each other.
    """
    hit = rng.random(len(values)) < share
    sign = rng.choice([-1, 1], size=len(values))
    if task.labels:
        n = len(task.labels)
        step = rng.integers(1, n, size=len(values)) if kind == "uniform" else sign
        wrong = (values + step) % n
    elif kind == "uniform":
        wrong = np.roll(values, int(rng.integers(1, len(values))))
    else:
        change = np.rint(rng.random(len(values)) * LOCAL_CHANGE * values).astype(np.int64)
        wrong = np.abs(values + sign * np.maximum(change, 1))
    return np.where(hit, wrong, values)
