"""Subspaces of the residual stream that carry the map: orthonormal columns, fitted on the cities given.

probe     span of the ridge probe's two weight vectors: what a linear probe of coordinates looks at
pca       leading principal components of the activations: where cities differ most, for any reason
manifold  leading directions of the fitted map f(place): where cities differ because of their place
Fit a basis on one half of the cities and measure on the other: in-sample energy is inflated.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from cwr_mech.analysis.manifold.manifold import Manifold, fit_manifold
from cwr_mech.analysis.stats.ridge import fit_linear
from cwr_mech.errors import AnalysisError, UnknownName

Kind = Literal["probe", "pca", "manifold"]
KINDS: tuple[Kind, ...] = ("probe", "pca", "manifold")
VARIANCE = 0.95
"""Share of variance that a `pca` or `manifold` basis carries when no rank is asked for."""


@dataclass(frozen=True)
class Basis:
    """Orthonormal `columns` [p rank]; `variance` is the share of the fitted variance they carry
    (of the activations for pca and probe, of the mapped activations for manifold).
    """

    kind: str
    columns: Float[np.ndarray, "p rank"]
    variance: float
    n: int

    @property
    def rank(self) -> int:
        """Number of columns."""
        return self.columns.shape[1]

    def energy(self, vectors: Float[np.ndarray, "... p"]) -> Float[np.ndarray, "..."]:
        """Share of each vector's squared length inside the subspace; NaN for a zero vector."""
        total = np.sum(vectors**2, axis=-1)
        inside = np.sum((vectors @ self.columns) ** 2, axis=-1)
        return np.divide(inside, total, out=np.full_like(total, np.nan), where=total > 0)


def fit_basis(
    kind: str,
    x: Float[np.ndarray, "city p"],
    xy: Float[np.ndarray, "city 2"],
    *,
    rank: int | None = None,
    seed: int = 0,
) -> Basis:
    """Fit one kind of basis on the given cities. A `probe` basis always has rank 2.

    Raises UnknownName for another kind and AnalysisError when the rank asked for is more than the cities or
    the features allow.
    """
    if kind not in KINDS:
        raise UnknownName("basis", kind, KINDS)
    centred = x - x.mean(axis=0)
    if kind == "probe":
        if rank not in (None, 2):
            raise AnalysisError(f"a probe basis has rank 2, not {rank}")
        columns = np.linalg.qr(fit_linear(x, xy).weights)[0]
        share = float(np.sum((centred @ columns) ** 2) / np.sum(centred**2))
        return Basis(kind, columns, share, len(x))
    spread = centred
    if kind == "manifold":
        mapped = fit_manifold(x, xy, seed=seed).map(xy)
        spread = mapped - mapped.mean(axis=0)
    columns, share = leading_directions(spread, rank)
    return Basis(kind, columns, share, len(x))


def leading_directions(
    centred: Float[np.ndarray, "row p"], rank: int | None = None
) -> tuple[Float[np.ndarray, "p rank"], float]:
    """Leading right singular vectors and the share of squared length they carry.

    Without a rank, as many as carry 95 %. Raises AnalysisError when `rank` is more than the data hold.
    """
    _, s, vt = np.linalg.svd(centred, full_matrices=False)
    most = int(np.sum(s > max(centred.shape) * np.finfo(np.float64).eps * s[0])) if s[0] > 0 else 0
    if most == 0:
        raise AnalysisError("the activations are the same for every city: no direction stands out")
    shares = np.cumsum(s**2) / np.sum(s**2)
    if rank is None:
        rank = min(most, int(np.searchsorted(shares, VARIANCE)) + 1)
    if not 1 <= rank <= most:
        raise AnalysisError(
            f"rank {rank} was asked for, {len(centred)} cities hold directions for 1 to {most}",
            "ask for a smaller rank or give more cities",
        )
    return vt[:rank].T, float(shares[rank - 1])


def random_rotation(p: int, rng: np.random.Generator) -> Float[np.ndarray, "p p"]:
    """A uniformly random orthogonal matrix (of the signs that QR leaves; subspaces do not see them)."""
    return np.linalg.qr(rng.standard_normal((p, p)))[0]


def random_basis(p: int, rank: int, rng: np.random.Generator) -> Basis:
    """A uniformly random subspace: the control of equal rank. A random vector has energy rank/p inside."""
    if not 1 <= rank <= p:
        raise AnalysisError(f"rank {rank} was asked for in {p} dimensions")
    return Basis("random", np.linalg.qr(rng.standard_normal((p, rank)))[0], rank / p, 0)


def random_basis_like(x: Float[np.ndarray, "city p"], rank: int, rng: np.random.Generator) -> Basis:
    """A random subspace drawn with the activations' own covariance: a stricter control.

    Its columns span `rank` random combinations of centred cities, so it leans to where cities vary at all.
    """
    centred = x - x.mean(axis=0)
    if not 1 <= rank < len(x):
        raise AnalysisError(
            f"rank {rank} was asked for, {len(x)} cities hold directions for 1 to {len(x) - 1}"
        )
    columns = np.linalg.qr((rng.standard_normal((rank, len(x))) @ centred).T)[0]
    share = float(np.sum((centred @ columns) ** 2) / np.sum(centred**2))
    return Basis("random-like", columns, share, len(x))


def tangent_bases(manifold: Manifold, xy: Float[np.ndarray, "city 2"]) -> Float[np.ndarray, "city p 2"]:
    """For each place, two orthonormal columns that span the map's local tangent plane."""
    return np.linalg.qr(manifold.tangents(xy))[0]
