"""Trained models as units: what each was trained on, which have failed, and the most that two can share."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

FAILED_BELOW = 0.5
"""A model has failed when, on a task it was trained on, it closes less than this share of the gap between the
best constant answer and a perfect one."""


@dataclass(frozen=True)
class Member:
    """One trained model: its name, its tasks, its seed (None: unknown), and how it was trained.

    `rows` seen in all, `exposure`: rows seen of each task. `gain`: for each trained task the share of the gap
    between the best constant answer (0) and a perfect one (1) that it closes; None when it was not evaluated.
    `noise`: share of wrong answers in training.
    """

    run: str
    tasks: tuple[str, ...]
    seed: int | None
    rows: int
    exposure: int
    gain: Mapping[str, float] | None = None
    noise: float = 0.0

    @property
    def failed(self) -> bool | None:
        """Whether any trained task was not learnt, by FAILED_BELOW; None when it was not evaluated."""
        return None if self.gain is None else min(self.gain.values(), default=0.0) < FAILED_BELOW


def other_seed(one: int | None, other: int | None) -> bool:
    """Whether two models count as seeds of each other's training: unknown seeds do."""
    return one is None or other is None or one != other


def ceilings(
    matrix: Float[np.ndarray, "item item"], labels: Sequence[Hashable], seeds: Sequence[int | None]
) -> Float[np.ndarray, "item item"]:
    """The most that two items can be expected to share: the geometric mean of their self-consistencies.

    The self-consistency of a label (the same tasks, the same layer) is the mean similarity of items that bear
    it and are of `other_seed`s. NaN on cells between items of one label, whose similarity is itself the
    ceiling, and where a label has no second seed or its self-consistency is not above 0. Trap: two models of
    one seed began with the same weights (one trained on for longer, say), and agree more than other seeds do.
    """
    own: dict[Hashable, float] = {}
    others = np.array([[other_seed(a, b) for b in seeds] for a in seeds])
    for label in set(labels):
        mine = np.array([other == label for other in labels])
        values = matrix[np.triu(mine[:, None] & mine & others, 1)]
        values = values[np.isfinite(values)]
        mean = float(values.mean()) if values.size else float("nan")
        own[label] = mean if mean > 0 else float("nan")
    each = np.sqrt([own[label] for label in labels])
    different = np.array([[a != b for b in labels] for a in labels])
    return np.where(different, each[:, None] * each[None, :], np.nan)
