"""Measures of representational similarity other than CKA: shapes, canonical correlations, distances,
predictions.

All take x [n p] and y [n q], the same n cities in the same order, and centre them. Which changes of a
representation a measure ignores decides what it can say:

  measure                 ignores                                   source
  disparity, angle        rotation, shift, scale                    Williams et al. 2021, arXiv 2110.14739
  rsa                     rotation, shift, scale, any monotone map  Kriegeskorte et al. 2008
                          of the distances
  svcca                   any linear map of the kept components     Raghu et al. 2017, arXiv 1706.05806
  pwcca                   any linear map of y, scale of x           Morcos et al. 2018, arXiv 1806.05759
  predictivity            any linear map of x                       Yamins and DiCarlo 2016
  principal angles        any linear map of the kept components     Bjorck and Golub 1973
"""

import numpy as np
import scipy.linalg
from jaxtyping import Float
from scipy.spatial.distance import pdist

from cwr_mech.errors import AnalysisError

Matrix = Float[np.ndarray, "n _"]
Other = Float[np.ndarray, "m _"]


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


def component_basis(x: Matrix, k: int) -> Float[np.ndarray, "n k"]:
    """The first k principal component scores at norm 1; columns of zeros for those that x does not have."""
    scores = first_components(centre(x), k)
    sizes = np.linalg.norm(scores, axis=0)
    kept = sizes > max(scores.shape) * np.finfo(np.float64).eps * sizes[0]
    return np.divide(scores, sizes, out=np.zeros_like(scores), where=kept)


def there(basis: Matrix) -> Matrix:
    """The columns of a basis that are not zeros."""
    return basis[:, basis.any(axis=0)]


LEAST_SHARE = 1e-8
"""Squared singular values below this share of the largest are not taken from a product of the features, where
they are wrong by about 1e-16 of it."""


def first_components(x: Matrix, k: int) -> Float[np.ndarray, "n k"]:
    """The first k principal component scores (the paper compares models on 3)."""
    moved = x - x.mean(axis=0)
    if not 1 <= k <= min(moved.shape):
        raise AnalysisError(f"{k} components were asked for, {moved.shape} features hold {min(moved.shape)}")
    scores = _from_product(moved, k)
    if scores is None:
        u, s, _ = np.linalg.svd(moved, full_matrices=False)
        scores = u[:, :k] * s[:k]
    return scores


def _from_product(x: Matrix, k: int | None = None) -> Float[np.ndarray, "n k"] | None:
    """Component scores of centred x, the largest first, by eigenvectors of the smaller of X'X and X X': at
    half the cost of singular values. The first k, or all above rounding; None where rounding might change
    them.
    """
    n, p = x.shape
    size = min(n, p)
    squares, vectors = scipy.linalg.eigh(
        x.T @ x if p <= n else x @ x.T,
        subset_by_index=None if k is None else (size - k, size - 1),
        driver="evd" if k is None else "evr",
        check_finite=False,
    )
    kept = squares > LEAST_SHARE * squares[-1]
    if k is not None and not kept.all():
        return None
    vectors, squares = vectors[:, kept][:, ::-1], squares[kept][::-1]
    return x @ vectors if p <= n else vectors * np.sqrt(squares)


def to_norm_one(x: Matrix) -> Matrix:
    """Centred and scaled to norm 1: what is left of a shape without its place and size."""
    moved = centre(x)
    return moved / np.linalg.norm(moved)


def alignment(x: Matrix, y: Other) -> float:
    """Nuclear norm of X'Y of two shapes of norm 1: their correlation after the best rotation."""
    return float(np.linalg.svd(x.T @ y, compute_uv=False).sum())


def disparity(x: Matrix, y: Other) -> float:
    """Procrustes: squared distance left of two shapes of norm 1 after the best rotation and scale, 0 alike, 1
    not. 1 - alignment^2; with equal numbers of features the same as `scipy.spatial.procrustes`.
    """
    return 1 - alignment(x, y) ** 2


def angle(x: Matrix, y: Other) -> float:
    """arccos of the alignment of two shapes of norm 1, in radians: a metric, 0 to pi/2."""
    return float(np.arccos(np.clip(alignment(x, y), 0.0, 1.0)))


def distance_ranks(x: Matrix) -> Float[np.ndarray, "pair"]:
    """Ranks of the Euclidean distances between cities, in the order of `pdist`, with mean 0 and norm 1: the
    product of two of these is Spearman's correlation, the measure `rsa`. NaN where all distances are the
    same.
    """
    # scipy's rankdata, whose module takes a second to import: equal distances share the mean of their ranks.
    _, place, ties = np.unique(pdist(centre(x)), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[place]
    ranks -= ranks.mean()
    with np.errstate(invalid="ignore"):
        return ranks / np.linalg.norm(ranks)


def canonical_correlations(x: Matrix, y: Other) -> Float[np.ndarray, "k"]:
    """Correlations of the best-matched directions, descending. Meaningful for n well above p + q."""
    return correlations(_orthonormal(centre(x)), _orthonormal(centre(y)))


def correlations(first: Matrix, second: Other) -> Float[np.ndarray, "k"]:
    """Canonical correlations, descending, of two spaces of city scores with orthonormal bases."""
    return np.clip(np.linalg.svd(first.T @ second, compute_uv=False), 0.0, 1.0)


def mean_correlation(first: Matrix, second: Other) -> float:
    """Mean canonical correlation of two spaces of city scores, each given by an orthonormal basis: SVCCA of
    two `leading_basis`. Rises with the number of components kept when n is small: read it beside its shuffled
    null.
    """
    return float(correlations(first, second).mean())


def with_basis(x: Matrix) -> tuple[Matrix, Matrix]:
    """Centred features, and an orthonormal basis of their columns."""
    moved = centre(x)
    return moved, _orthonormal(moved)


def weighted_correlations(first: tuple[Matrix, Matrix], second: tuple[Other, Other]) -> tuple[float, float]:
    """PWCCA of two sides from `with_basis`: canonical correlations averaged with the weight that each
    canonical direction has in the first, and with that in the second. Not symmetric, and as published
    (weights are sums of absolute values over features) not blind to a rotation.
    """
    (_, q_x), (_, q_y) = first, second
    turn, correlations, back = np.linalg.svd(q_x.T @ q_y, full_matrices=False)
    correlations = np.clip(correlations, 0.0, 1.0)
    weights = [
        np.abs(axes.T @ (basis.T @ features)).sum(axis=1)
        for (features, basis), axes in ((first, turn), (second, back.T))
    ]
    there, back_again = (float(weight @ correlations / weight.sum()) for weight in weights)
    return there, back_again


def _orthonormal(x: Matrix) -> Matrix:
    """Orthonormal basis of the columns, by singular values above rounding."""
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    return u[:, s > max(x.shape) * np.finfo(np.float64).eps * s[0]]


def leading_basis(x: Matrix, *, variance: float = 0.99) -> Float[np.ndarray, "n k"]:
    """Orthonormal basis of the city scores on the principal components that carry `variance`."""
    moved = centre(x)
    scores = _from_product(moved)
    assert scores is not None
    squares = np.sum(scores**2, axis=0)
    kept = int(np.searchsorted(np.cumsum(squares) / np.sum(moved**2), variance)) + 1
    return scores[:, :kept] / np.sqrt(squares[:kept])
