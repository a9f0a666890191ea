"""||X'Y||^2 for one pair of representations, or for all pairs of many: what every linear CKA is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from cwr_mech.errors import AnalysisError

BLOCK = 32
"""Rows of the kernels held at a time."""


@dataclass(frozen=True)
class Features:
    """Centred features of one representation, scaled to norm 1, with what every pair needs.

    `x` [n p], `norms` [n] squared row norms, `reason` says why no CKA with it can be a number.
    """

    x: Float[np.ndarray, "n p"]
    norms: Float[np.ndarray, "n"]
    reason: str | None


def as_matrix(x: Any) -> Float[np.ndarray, "n p"]:
    """Features in float64, from an array or a torch tensor of any number type, or nested lists.

    Raises AnalysisError unless there are two axes, cities and features.
    """
    detach = getattr(x, "detach", None)  # numpy knows neither gradients nor bfloat16
    matrix = np.asarray(detach().double().cpu() if detach else x, dtype=np.float64)
    if matrix.ndim != 2:
        raise AnalysisError(
            f"features have the shape {matrix.shape}, not [city, feature]", "choose one position"
        )
    return matrix


def prepare(x: Float[np.ndarray, "n p"], *, least: int = 4) -> Features:
    """Centre and scale. Raises AnalysisError for fewer than `least` rows and for NaN or infinite values."""
    x = as_matrix(x)
    if x.shape[0] < least:
        raise AnalysisError(f"{x.shape[0]} cities are too few for CKA", f"at least {least} are needed")
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).any(axis=1).sum())
        raise AnalysisError(f"{bad} of {x.shape[0]} cities have NaN or infinite features")
    centred = x - x.mean(axis=0)
    size = float(np.linalg.norm(centred))
    if size <= 1e-12 * max(float(np.linalg.norm(x)), np.finfo(np.float64).tiny):
        return Features(np.zeros_like(x), np.zeros(x.shape[0]), "the features are the same for every city")
    centred = centred / size
    return Features(centred, np.einsum("np,np->n", centred, centred), None)


def squared_product(first: Features, second: Features) -> float:
    """||X'Y||^2, through features or through rows, whichever matrix is smaller."""
    n, p, q = first.x.shape[0], first.x.shape[1], second.x.shape[1]
    if n * n < p * q:
        return float(np.sum((first.x @ first.x.T) * (second.x @ second.x.T)))
    return float(np.sum((first.x.T @ second.x) ** 2))


def squared_products(reps: Sequence[Features]) -> Float[np.ndarray, "rep rep"]:
    """||X'Y||^2 of every pair, by whichever way has fewer operations.

    By features, n times the square of all widths together. By rows, a few rows of every kernel X X' at a
    time, n^2 times all widths and n^2 times the square of the number of representations: cheaper when the
    widths together are well above n. No kernel is ever held whole.
    """
    n, size, width = len(reps[0].norms), len(reps), sum(rep.x.shape[1] for rep in reps)
    products = np.zeros((size, size))
    if n * width + n * size**2 / 2 < width**2:
        for start in range(0, n, BLOCK):
            stop = min(start + BLOCK, n)
            # Kernels are symmetric: columns left of the block were met as rows of an earlier one.
            rows = np.stack([rep.x[start:stop] @ rep.x[start:].T for rep in reps])
            rows[:, :, stop - start :] *= np.sqrt(2)
            flat = rows.reshape(size, -1)
            products += flat @ flat.T
        return products
    for i, first in enumerate(reps):
        for j in range(i, size):
            products[i, j] = products[j, i] = squared_product(first, reps[j])
    return products
