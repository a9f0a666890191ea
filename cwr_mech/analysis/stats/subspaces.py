"""How much of an update lies in a subspace, beside what chance gives; overlaps and conflicts of gradients.

The share of a group of updates v in a subspace with projection P is sum |Pv|^2 / sum |v|^2. Nulls:
- a uniformly random subspace of equal rank: mean k/p, and an exact variance (`null_share`);
- a random subspace drawn with the activations' own covariance (`bases.random_basis_like`);
- other tasks' updates.
A basis must not be fitted on what it is measured on: cities (or batches) in one half, energy in the other.
Song, Ahn and Yun (arXiv 2405.16002) show that even a large honest share is no evidence that the subspace is
used; only restricting updates to it is (`analysis/routing/interventions.py`).
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import subspace_angles

from cwr_mech.analysis.stats.intervals import Interval, bootstrap, jackknife
from cwr_mech.errors import AnalysisError

Vectors = Float[np.ndarray, "city p"]


@dataclass(frozen=True)
class Energy:
    """Squared length of each city's update, and of its part inside a subspace."""

    inside: Float[np.ndarray, "city"]
    total: Float[np.ndarray, "city"]

    @property
    def share(self) -> float:
        """Share of the group's energy inside; NaN when nothing moves."""
        whole = float(self.total.sum())
        return float(self.inside.sum()) / whole if whole > 0 else float("nan")

    def interval(self, rng: np.random.Generator, *, draws: int) -> Interval:
        """The share with a bootstrap interval over cities."""
        return bootstrap(
            lambda rows: self.inside[rows].sum(-1) / self.total[rows].sum(-1),
            len(self.total),
            rng,
            draws=draws,
            together=True,
        )


def energy(
    updates: Vectors, columns: Float[np.ndarray, "space rank"] | Float[np.ndarray, "city space 2"]
) -> Energy:
    """Energy of updates in the span of orthonormal `columns`: one basis, or one for each city.

    Raises AnalysisError when the basis belongs to a space of another size (another model or layer).
    """
    if columns.shape[-2] != updates.shape[1]:
        raise AnalysisError(
            f"a basis of {columns.shape[-2]} dimensions cannot hold updates of {updates.shape[1]}",
            "fit the basis on the same model and layer",
        )
    parts = np.einsum("cp,cpk->ck", updates, columns) if columns.ndim == 3 else updates @ columns
    return Energy(np.sum(parts**2, axis=1), np.sum(updates**2, axis=1))


class NullShare(NamedTuple):
    """Mean and standard deviation of a share over uniformly random subspaces, and its 95 % range."""

    mean: float
    sd: float
    lo: float
    hi: float


def _null(mean: float, sd: float) -> NullShare:
    """The 95 % range is that of the Beta distribution with this mean and deviation."""
    if sd == 0 or not 0 < mean < 1:
        return NullShare(mean, sd, mean, mean)
    from scipy import stats  # takes a second to import

    size = mean * (1 - mean) / sd**2 - 1
    lo, hi = (float(stats.beta.ppf(end, mean * size, (1 - mean) * size)) for end in (0.025, 0.975))
    return NullShare(mean, sd, lo, hi)


def null_share(updates: Vectors, rank: int, dimensions: int | None = None) -> NullShare:
    """Share of these updates in a uniformly random subspace of dimension `rank`: exact mean and variance.

    dimensions: of the space, where the updates are given as vectors with the same inner products in fewer.
    With C the updates' second moment scaled to trace 1, the mean is k/p and the variance
    2 k (p - k) / (p (p - 1) (p + 2)) * (tr C^2 - 1/p). For one vector this is the Beta(k/2, (p - k)/2)
    distribution; for an orthonormal basis of m vectors it is that of the projection kernel divided by m.
    """
    p = updates.shape[1] if dimensions is None else dimensions
    s = np.linalg.svd(updates, compute_uv=False) ** 2
    if s.sum() == 0:
        return _null(float("nan"), float("nan"))
    return null_of(float(np.sum((s / s.sum()) ** 2)), p, rank)


def null_of(concentration: float, p: int, rank: int) -> NullShare:
    """`null_share` from tr C^2 and the number of dimensions."""
    if not 1 <= rank <= p:
        raise AnalysisError(f"rank {rank} was asked for in {p} dimensions")
    if p == 1:
        return _null(1.0, 0.0)
    variance = 2 * rank * (p - rank) / (p * (p - 1) * (p + 2)) * (concentration - 1 / p)
    return _null(rank / p, float(np.sqrt(max(variance, 0.0))))


def projection_kernel(a: Float[np.ndarray, "p k"], b: Float[np.ndarray, "p m"]) -> float:
    """Overlap of two subspaces given by orthonormal columns: |A^T B|^2 / min(k, m), 1 for one in the other.

    Between random subspaces its mean is max(k, m) / p; see `null_share` for the spread.
    """
    return float(np.sum((a.T @ b) ** 2) / min(a.shape[1], b.shape[1]))


def principal_angles(a: Float[np.ndarray, "p k"], b: Float[np.ndarray, "p m"]) -> Float[np.ndarray, "angle"]:
    """Principal angles between two subspaces in degrees, smallest first (Bjorck and Golub 1973)."""
    return np.degrees(subspace_angles(a, b))[::-1]


def effective_directions(vectors: Vectors) -> float:
    """How many directions a set of vectors uses, not centred: (sum s^2)^2 / sum s^4 of singular values."""
    power = np.linalg.svd(vectors, compute_uv=False) ** 2
    if power[0] == 0:
        raise AnalysisError("all vectors are zero: they have no direction")
    return float(power.sum() ** 2 / np.sum(power**2))


def cosine_from_grams(
    ab: Float[np.ndarray, "a b"], aa: Float[np.ndarray, "a a"], bb: Float[np.ndarray, "b b"]
) -> float:
    """Cosine between the expected gradients of two tasks, from inner products of noisy batches of each.

    Mean inner product across tasks over the root of both unbiased squared lengths (mean inner product of
    different batches of one task), so that noise does not pull it to 0 as it does the cosine of two means.
    May leave [-1, 1] by chance; NaN when a squared length comes out negative (all noise).
    """
    lengths = [(gram.sum() - np.trace(gram)) / (len(gram) * (len(gram) - 1)) for gram in (aa, bb)]
    if min(lengths) <= 0:
        return float("nan")
    return float(ab.mean() / np.sqrt(lengths[0] * lengths[1]))


def cosine_interval(a: Float[np.ndarray, "batch p"], b: Float[np.ndarray, "batch p"]) -> Interval:
    """`cosine_from_grams` with a jackknife interval over batches (leaving out the k-th batch of both tasks).

    Raises AnalysisError for fewer than 3 batches.
    """
    n = min(len(a), len(b))
    if n < 3:
        raise AnalysisError(f"{n} batches given, at least 3 needed", "draw more questions")
    a, b = a[:n], b[:n]
    grams = (a @ b.T, a @ a.T, b @ b.T)
    found = jackknife(
        lambda kept: cosine_from_grams(*(gram[np.ix_(kept, kept)] for gram in grams)), range(n), unit="batch"
    )
    return found if found.reason is None else replace(found, reason="the gradients of one task are all noise")
