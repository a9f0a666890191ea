"""Places on the plane: whole units, by default tenths of a degree, that fit the answers' digits."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

X_MAX = 1800
Y_MAX = 900
"""Coordinates are whole tenths of a degree on a plane: x in [-1800, 1800], y in [-900, 900]."""


@dataclass(frozen=True, eq=False)
class Cities:
    """Cities before they form a world: `ids` is None where the world still has to draw them."""

    names: tuple[str, ...]
    xy: Int64[np.ndarray, "city 2"]
    region: tuple[str, ...]
    ids: Int64[np.ndarray, " city"] | None = None


def tenths(degrees: Float[np.ndarray, "city 2"]) -> Int64[np.ndarray, "city 2"]:
    """Longitude and latitude in degrees to whole tenths of a degree, half to even as in the reference."""
    return np.rint(degrees * 10).astype(np.int64)


def shared(xy: Int64[np.ndarray, "city 2"]) -> float:
    """Share of the places at whose coordinates another place lies, too."""
    _, place, count = np.unique(xy, axis=0, return_inverse=True, return_counts=True)
    return float(np.mean(count[place.reshape(-1)] > 1))
