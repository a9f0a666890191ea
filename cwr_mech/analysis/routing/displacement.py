"""The sum of all steps of a fine-tuning: how much of cities' displacement lies in the map's directions.

Directions are those of the map as the base held it, before anything moved. They are fitted on training
cities; a training city's share is measured in the directions of the half it is not in (`routing.Ground`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from cwr_mech.analysis.routing.fields import Field, Ground, halves, shares
from cwr_mech.world.cities import World

GROUPS = ("moved_new", "moved_old")
ENDS = ("", "_lo", "_hi", "_null", "_like")


@dataclass(frozen=True)
class Origin:
    """Where all cities stood in one prompt before a fine-tuning, with what is fitted on the old ones."""

    x: Float[np.ndarray, "city d_model"]
    ground: Ground

    @classmethod
    @threadpool_limits.wrap(limits=1, user_api="blas")
    def fit(cls, x: Float[np.ndarray, "city d_model"], world: World, seed: int = 0) -> "Origin":
        """Raises AnalysisError for too few training cities."""
        old, xy = world.old(), world.xy.astype(np.float64)
        return cls(x, Ground.fit(x[old], xy[old], halves(len(old), seed), seed=seed))


@threadpool_limits.wrap(limits=1, user_api="blas")
def displaced(
    origin: Origin | None, x: Float[np.ndarray, "city d_model"], world: World, rng: np.random.Generator
) -> dict[str, Any]:
    """Of the displacement from `origin` to activations `x`, what lies in the map's directions.

    `moved_new`, `moved_old`: shares of the energy for new and for training cities, with bootstrap intervals
    over cities `_lo`, `_hi`; `_null`: of random directions of equal rank; `_like`: of random ones with the
    activations' own covariance. All None without an origin, or when nothing has moved.
    """
    found: dict[str, Any] = dict.fromkeys(f"{group}{end}" for group in GROUPS for end in ENDS)
    if origin is None or not np.any(x != origin.x):
        return found
    for name, at, half in zip(GROUPS, (world.new(), world.old()), (None, origin.ground.half), strict=True):
        field = Field((x - origin.x)[at], origin.x[at], world.xy[at].astype(np.float64), True, half)
        (row,) = shares(field, origin.ground, None, rng, bases=("manifold",))
        found[name] = row["share"]
        found |= {name + end: row[end[1:]] for end in ENDS[1:]}
    return found
