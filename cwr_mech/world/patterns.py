"""Worlds that are not the earth, for controls: the package's own patterns and those that users add."""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import cast

import numpy as np
from jaxtyping import Float, Int64

from cwr_mech.errors import ConfigError, WorldError
from cwr_mech.tasks.plugins import Registry
from cwr_mech.world.places import X_MAX, Y_MAX, Cities

N_CLUSTERS = 20
CLUSTER_SD = 30.0
RING_RADIUS = 800.0


def _blocks(xy: Int64[np.ndarray, "city 2"]) -> tuple[str, ...]:
    """Region names for a pattern with none of its own: 4 by 2 equal blocks of the plane, west to east."""
    column = np.minimum((xy[:, 0] + X_MAX) * 4 // (2 * X_MAX), 3)
    row = np.minimum((xy[:, 1] + Y_MAX) * 2 // (2 * Y_MAX), 1)
    return tuple(f"block {number}" for number in 1 + column + 4 * row)


def _legal(points: Float[np.ndarray, "city 2"]) -> Int64[np.ndarray, "city 2"]:
    return np.clip(np.rint(points), (-X_MAX, -Y_MAX), (X_MAX, Y_MAX)).astype(np.int64)


def uniform(n: int, rng: np.random.Generator) -> Int64[np.ndarray, "city 2"]:
    """`n` points spread evenly at random over the whole rectangle."""
    return _legal(rng.uniform((-X_MAX, -Y_MAX), (X_MAX, Y_MAX), (n, 2)))


def gaussian(
    n: int, centre: tuple[float, float], sd: float, rng: np.random.Generator
) -> Int64[np.ndarray, "city 2"]:
    """`n` points of an isotropic Gaussian, in tenths of a degree, clipped to the rectangle."""
    return _legal(rng.normal(centre, sd, (n, 2)))


def _uniform(n: int, rng: np.random.Generator) -> tuple[Int64[np.ndarray, "city 2"], tuple[str, ...]]:
    xy = uniform(n, rng)
    return xy, _blocks(xy)


def _grid(n: int, rng: np.random.Generator) -> tuple[Int64[np.ndarray, "city 2"], tuple[str, ...]]:
    """Twice as many columns as rows, row by row from the south-west; the last row may be shorter."""
    columns = int(np.ceil(np.sqrt(2 * n)))
    rows = -(-n // columns)
    x = (np.arange(columns) + 0.5) * 2 * X_MAX / columns - X_MAX
    y = (np.arange(rows) + 0.5) * 2 * Y_MAX / rows - Y_MAX
    xy = _legal(np.stack([np.tile(x, rows), np.repeat(y, columns)], axis=1)[:n])
    return xy, _blocks(xy)


def _clusters(n: int, rng: np.random.Generator) -> tuple[Int64[np.ndarray, "city 2"], tuple[str, ...]]:
    """20 Gaussian clusters of standard deviation 3 degrees around uniform centres."""
    centres = rng.uniform((-X_MAX + 100, -Y_MAX + 100), (X_MAX - 100, Y_MAX - 100), (N_CLUSTERS, 2))
    cluster = rng.integers(N_CLUSTERS, size=n)
    xy = _legal(rng.normal(centres[cluster], CLUSTER_SD))
    return xy, tuple(f"cluster {number}" for number in cluster + 1)


def _ring(n: int, rng: np.random.Generator) -> tuple[Int64[np.ndarray, "city 2"], tuple[str, ...]]:
    """A circle of radius 80 degrees around the origin, at uniform random angles; regions are 8 sectors."""
    turn = rng.uniform(0, 1, n)
    xy = _legal(RING_RADIUS * np.stack([np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)], axis=1))
    return xy, tuple(f"sector {number}" for number in 1 + (turn * 8).astype(np.int64))


Pattern = Callable[[int, np.random.Generator], tuple[Int64[np.ndarray, "city 2"], tuple[str, ...]]]
"""Function of (number of cities, generator) that gives whole coordinates and the region of each city."""

SYNTHETIC: Mapping[str, Pattern] = MappingProxyType(
    {"uniform": _uniform, "grid": _grid, "clusters": _clusters, "ring": _ring}
)
"""The package's own worlds that are not the earth, for controls."""


def _read(name: str, found: object) -> Mapping[str, Pattern]:
    """The world of an entry point, called after it."""
    return {name: _checked(name, found)}


def _checked(name: str, function: object) -> Pattern:
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", name) or name == "cities":
        raise ConfigError(f"a world cannot be called '{name}'", "use small letters, digits, - and _")
    if not callable(function):
        raise ConfigError(f"world '{name}' is no function of a number of cities and a generator")
    return cast(Pattern, function)


WORLDS: Registry[Pattern] = Registry("world", "cwr_mech.worlds", SYNTHETIC, _read)
"""Patterns by name: SYNTHETIC, then registered ones and those of plug-ins."""


def register_world(name: str, function: Pattern, *, replace: bool = False) -> None:
    """Add a world for this process: `function(n, rng)` gives whole coordinates [n 2], x in [-1800, 1800] and
    y in [-900, 900], and the regions of n cities; all that is random comes from the generator `rng`.

    `replace` lets it take the place of one that was added before. A world for every process comes from an
    installed package with an entry point of the group `cwr_mech.worlds`. Raises ConfigError for a name that
    is taken or that no setting can hold.
    """
    WORLDS.add(name, _checked(name, function), replace=replace)


def synthetic(kind: str, n: int, rng: np.random.Generator) -> Cities:
    """`n` cities of the pattern `kind`, named after it. Raises WorldError when it gives no such cities."""
    found, region = WORLDS[kind](n, rng)
    xy = np.asarray(found)
    if xy.shape != (n, 2) or not np.issubdtype(xy.dtype, np.integer) or len(region) != n:
        raise WorldError(
            f"world '{kind}' gave {xy.dtype} coordinates {xy.shape} and {len(region)} regions for {n} cities",
            "its function must return whole coordinates of shape (n, 2) and n regions",
        )
    if (np.abs(xy) > (X_MAX, Y_MAX)).any():
        raise WorldError(f"world '{kind}' gave places outside -{X_MAX}..{X_MAX} by -{Y_MAX}..{Y_MAX}")
    names = tuple(f"{kind}_{number:04d}" for number in range(1, n + 1))
    return Cities(names, xy.astype(np.int64), tuple(str(one) for one in region))
