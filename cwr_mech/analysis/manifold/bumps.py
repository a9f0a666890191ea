"""Functions of place that a map is made of: Gaussian bumps around some of the cities.

Nystroem features of the RBF kernel (Williams and Seeger 2001), and the covariance of Ledoit and Wolf (2004):
as scikit-learn gives them (tests hold that), without the second and a half that importing it takes.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist

FLOOR = 1e-12
"""Least eigenvalue of the kernel that is divided by."""


@dataclass(frozen=True)
class Bumps:
    """exp(-gamma |z - l|^2) of places z around `landmarks` l, times `mixing`, the inverse square root of the
    kernel between landmarks, which makes inner products of features those of the kernel.
    """

    gamma: float
    landmarks: Float[np.ndarray, "landmark 2"]
    mixing: Float[np.ndarray, "landmark landmark"]

    def kernel(self, places: Float[np.ndarray, "city 2"]) -> Float[np.ndarray, "city landmark"]:
        """Height of each bump at each place."""
        return np.exp(-self.gamma * cdist(places, self.landmarks, "sqeuclidean"))

    def features(self, places: Float[np.ndarray, "city 2"]) -> Float[np.ndarray, "city feature"]:
        """Both coordinates of a place and its bumps."""
        return np.concatenate([places, self.kernel(places) @ self.mixing], axis=1)


def fit_bumps(places: Float[np.ndarray, "city 2"], width: float, *, most: int, seed: int) -> Bumps:
    """Bumps of deviation `width` around at most `most` of the places, drawn by `seed`."""
    gamma = 1 / (2 * width**2)
    landmarks = places[np.random.RandomState(seed).permutation(len(places))[:most]]
    # |z - l|^2 = z z - 2 z l + l l, as scikit-learn rounds it: features where the kernel has no more digits
    # are rounding, and a map's leave-one-out error changes in its eighth digit with them.
    lengths = np.einsum("lk,lk->l", landmarks, landmarks)
    squares = -2 * (landmarks @ landmarks.T) + lengths[:, None] + lengths
    np.fill_diagonal(squares, 0)
    # K = U diag(s) V,  K^-1/2 = U diag(s^-1/2) V.
    u, s, v = np.linalg.svd(np.exp(-gamma * np.maximum(squares, 0)))
    return Bumps(gamma, landmarks, (u / np.sqrt(np.maximum(s, FLOOR)) @ v).T)


def shrunk_covariance(x: Float[np.ndarray, "row p"]) -> Float[np.ndarray, "p p"]:
    """Covariance of rows, drawn to a multiple of the identity by as much as its own error warrants.

    With S the covariance of n rows, m its mean eigenvalue and d^2 = |S - m I|^2 its distance from m I,
    b^2 = mean |x x' - S|^2 / n is the squared error of S, and (1 - b^2 / d^2) S + (b^2 / d^2) m I has the
    least expected one.
    """
    n, p = x.shape
    moved = x - x.mean(axis=0)
    powers, found = moved**2, moved.T @ moved / n
    mean = float(np.sum(np.sum(powers, axis=0) / n)) / p
    # As scikit-learn rounds it: d^2 p is |S|^2 - p m^2, and sum |x|^4 is the sum of the cells of P'P.
    square = np.sum((moved.T @ moved) ** 2) / n**2
    apart = (square - 2.0 * mean * (mean * p) + p * mean**2) / p
    error = min(1.0 / (p * n) * (np.sum(powers.T @ powers) / n - square), apart)
    share = error / apart if p > 1 and error else 0.0
    shrunk: Float[np.ndarray, "p p"] = (1.0 - share) * found
    shrunk.flat[:: p + 1] += share * np.trace(found) / p
    return shrunk
