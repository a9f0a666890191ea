"""Measures of representational similarity other than CKA: shapes, canonical correlations, distances,
predictions.

All take x [n p] and y [n q], the same n cities in the same order, and centre them. Which changes of a
representation a measure ignores decides what it can say:

  measure                 ignores                                   source
  procrustes, angular     rotation, shift, scale                    Williams et al. 2021, arXiv 2110.14739
  rsa                     rotation, shift, scale, any monotone map  Kriegeskorte et al. 2008
                          of the distances
  svcca                   any linear map of the kept components     Raghu et al. 2017, arXiv 1706.05806
  pwcca                   any linear map of y, scale of x           Morcos et al. 2018, arXiv 1806.05759
  predictivity            any linear map of x                       Yamins and DiCarlo 2016
  principal angles        any linear map of the kept components     Bjorck and Golub 1973
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.distance import pdist
from scipy.stats import rankdata

from cwr_mech.analysis.stats.ridge import PENALTIES, Decomposed
from cwr_mech.errors import AnalysisError

Matrix = Float[np.ndarray, "n _"]
Other = Float[np.ndarray, "m _"]


def centred(x: Matrix, y: Other) -> tuple[Matrix, Other]:
    """Both in float64 with columns of mean 0. Raises AnalysisError for other cities, NaN, or no variance."""
    same_cities(len(x), len(y))
    return centre(x), centre(y)


def same_cities(n: int, m: int) -> None:
    """Raises AnalysisError when two representations have other numbers of cities."""
    if n != m:
        raise AnalysisError(f"the representations have {n} and {m} cities", "join them on the city id first")


def centre(x: Matrix) -> Matrix:
    """In float64 with columns of mean 0. Raises AnalysisError for NaN, or no variance."""
    x = np.asarray(x, dtype=np.float64)
    if not np.isfinite(x).all():
        raise AnalysisError("a representation has NaN or infinite features")
    moved = x - x.mean(axis=0)
    if np.linalg.norm(moved) <= 1e-12 * np.linalg.norm(x):
        raise AnalysisError("a representation has the same features for every city")
    return moved


def first_components(x: Matrix, k: int) -> Float[np.ndarray, "n k"]:
    """The first k principal component scores (the paper compares models on 3)."""
    moved = x - x.mean(axis=0)
    if not 1 <= k <= min(moved.shape):
        raise AnalysisError(f"{k} components were asked for, {moved.shape} features hold {min(moved.shape)}")
    u, s, _ = np.linalg.svd(moved, full_matrices=False)
    return u[:, :k] * s[:k]


def procrustes_disparity(x: Matrix, y: Other) -> float:
    """Squared distance left after the best shift, rotation and scale, of shapes of norm 1; 0 alike, 1 not.

    1 - (nuclear norm of X'Y)^2; with equal numbers of features the same as `scipy.spatial.procrustes`.
    """
    return 1 - _alignment(x, y) ** 2


def angular_distance(x: Matrix, y: Other) -> float:
    """arccos of the nuclear norm of X'Y for shapes of norm 1, in radians: a metric, 0 to pi/2."""
    return float(np.arccos(np.clip(_alignment(x, y), 0.0, 1.0)))


def _alignment(x: Matrix, y: Other) -> float:
    x, y = centred(x, y)
    product = x.T @ y / (np.linalg.norm(x) * np.linalg.norm(y))
    return float(np.linalg.svd(product, compute_uv=False).sum())


def distance_ranks(x: Matrix) -> Float[np.ndarray, "pair"]:
    """Ranks of the Euclidean distances between cities, in the order of `pdist`, with mean 0 and norm 1: the
    product of two of these is Spearman's correlation, the measure `rsa`. NaN where all distances are the
    same.
    """
    ranks = rankdata(pdist(centre(x)))
    ranks -= ranks.mean()
    with np.errstate(invalid="ignore"):
        return ranks / np.linalg.norm(ranks)


def canonical_correlations(x: Matrix, y: Other) -> Float[np.ndarray, "k"]:
    """Correlations of the best-matched directions, descending. Meaningful for n well above p + q."""
    first, second = (_orthonormal(side) for side in centred(x, y))
    return _correlations(first, second)


def _correlations(first: Matrix, second: Other) -> Float[np.ndarray, "k"]:
    return np.clip(np.linalg.svd(first.T @ second, compute_uv=False), 0.0, 1.0)


def mean_correlation(first: Matrix, second: Other) -> float:
    """Mean canonical correlation of two spaces of city scores, each given by an orthonormal basis: SVCCA of
    two `leading_basis`. Rises with the number of components kept when n is small: read it beside its shuffled
    null.
    """
    return float(_correlations(first, second).mean())


def with_basis(x: Matrix) -> tuple[Matrix, Matrix]:
    """Centred features, and an orthonormal basis of their columns."""
    moved = centre(x)
    return moved, _orthonormal(moved)


def weighted_correlation(first: tuple[Matrix, Matrix], second: tuple[Other, Other]) -> float:
    """PWCCA of two sides from `with_basis`: canonical correlations averaged with the weight that each
    canonical direction has in the first. Not symmetric, and as published (weights are sums of absolute values
    over features) not blind to a rotation of the first.
    """
    (x, q_x), (_, q_y) = first, second
    turn, correlations, _ = np.linalg.svd(q_x.T @ q_y, full_matrices=False)
    weights = np.abs((q_x @ turn).T @ x).sum(axis=1)
    return float(weights @ np.clip(correlations, 0.0, 1.0) / weights.sum())


def predictivity(x: Matrix, y: Other, fold: Int[np.ndarray, "n"]) -> float:
    """Share of y's variance that a ridge map from x predicts on held-out folds (can be negative).

    Call it both ways: x may hold all of y and more. Every third of the usual penalties is tried, because with
    many targets the choice among penalties is what takes the time.
    """
    x, y = centred(x, y)
    left = np.empty_like(y)
    base = np.empty_like(y)
    for held in np.unique(fold):
        test = fold == held
        left[test] = y[test] - Decomposed(x[~test]).best(y[~test], PENALTIES[::3]).predict(x[test])
        base[test] = y[test] - y[~test].mean(axis=0)
    return float(1 - np.sum(left**2) / np.sum(base**2))


def _orthonormal(x: Matrix) -> Matrix:
    """Orthonormal basis of the columns, by singular values above rounding."""
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    return u[:, s > max(x.shape) * np.finfo(np.float64).eps * s[0]]


def leading_basis(x: Matrix, *, variance: float = 0.99) -> Float[np.ndarray, "n k"]:
    """Orthonormal basis of the city scores on the principal components that carry `variance`."""
    u, s, _ = np.linalg.svd(centre(x), full_matrices=False)
    kept = int(np.searchsorted(np.cumsum(s**2) / np.sum(s**2), variance)) + 1
    return u[:, :kept]
