"""Pairs of representations of the same cities that similarity measures are tested on."""

import numpy as np

from cwr_mech.analysis.similarity import predictivity, shape


def related(rng: np.random.Generator, n: int, p: int, q: int) -> tuple[np.ndarray, np.ndarray]:
    """Two representations that share some directions, far from the origin and of unequal scales."""
    x = rng.normal(size=(n, p)) * rng.lognormal(size=p) + 5
    y = x @ rng.normal(size=(p, q)) / p + rng.normal(size=(n, q)) - 3
    return x, y


def structured(rng: np.random.Generator, n: int, p: int, q: int) -> tuple[np.ndarray, np.ndarray]:
    """Two smooth images of one map, with one giant direction, as residual streams have."""
    places = rng.uniform(-1, 1, (n, 2))
    x = np.sin(places @ rng.normal(size=(2, p)) * 3) + 0.1 * rng.normal(size=(n, p))
    y = np.cos(places @ rng.normal(size=(2, q)) * 2) + 0.1 * rng.normal(size=(n, q))
    x[:, 0] *= 50
    return x, y


DATA = [(related, 40, 5, 7), (related, 30, 60, 20), (structured, 80, 16, 12), (structured, 12, 30, 30)]


def predicted(x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> float:
    """Predictivity from x to y on these folds."""
    first, second = (predictivity.Folded(shape.centre(side), fold) for side in (x, y))
    return predictivity.predicted(first, second)
