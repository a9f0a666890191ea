"""The sum of all steps of a fine-tuning: how much of cities' displacement lies in the map's directions.

Directions are those of the map as the base held it, before anything moved. They are fitted on old cities; an
old city's share is measured in the directions of the half it is not in (`routing.Ground`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from cwr_mech.analysis.routing import Field, Ground, manifold_share
from cwr_mech.analysis.steps import Reader
from cwr_mech.analysis.trajectories import Spot
from cwr_mech.model import HookedQwen2
from cwr_mech.world import World


@dataclass(frozen=True)
class Origin:
    """Where all cities stood in one prompt before a fine-tuning, with what is fitted on the old ones."""

    spot: Spot
    x: Float[np.ndarray, "city d_model"]
    ground: Ground
    half: Bool[np.ndarray, "old"]


def origins(base: HookedQwen2, world: World, spots: Sequence[Spot], seed: int = 0) -> dict[str, Origin]:
    """Prompt -> origin, read from the base at each spot. Raises AnalysisError for too few old cities."""
    old, xy = world.old(), world.xy.astype(np.float64)
    half = np.random.default_rng(np.random.SeedSequence([seed, 0])).permutation(len(old)) % 2 == 0
    found = {}
    for spot in spots:
        x = Reader(spot.task, world.ids, spot.site, world.config.id_digits).read(base)[spot.layer + 1]
        found[spot.task] = Origin(spot, x, Ground.fit(x[old], xy[old], half, seed=seed), half)
    return found


def displaced(
    origin: Origin, x: Float[np.ndarray, "city d_model"], world: World, rng: np.random.Generator
) -> dict[str, Any]:
    """Of the displacement from `origin` to activations `x`, what lies in the map's directions.

    `moved_new`, `moved_old`: shares of the energy for new and for old cities, with bootstrap intervals over
    cities `_lo`, `_hi`; `_null`: of random directions of equal rank; `_like`: of random ones with the
    activations' own covariance. Empty when nothing has moved.
    """
    if not np.any(x != origin.x):
        return {}
    groups = {"moved_new": (world.new(), None), "moved_old": (world.old(), origin.half)}
    found: dict[str, Any] = {}
    for name, (at, half) in groups.items():
        field = Field((x - origin.x)[at], origin.x[at], world.xy[at].astype(np.float64), True)
        row = manifold_share(field, origin.ground, half, rng)
        found[name] = row["share"]
        found |= {f"{name}_{key}": row[key] for key in ("lo", "hi", "null", "like")}
    return found
