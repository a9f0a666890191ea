"""Subspaces of the residual stream that carry the map: orthonormal columns, fitted on the cities given.

probe     span of the ridge probe's two weight vectors: what a linear probe of coordinates looks at
pca       leading principal components of the activations: where cities differ most, for any reason
manifold  leading directions of the fitted map f(place): where cities differ because of their place
Fit a basis on one half of the cities and measure on the other: in-sample energy is inflated.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from cwr_mech.analysis.manifold.manifold import Manifold, fit_manifold
from cwr_mech.analysis.stats.ridge import LinearMap, fit_linear
from cwr_mech.errors import AnalysisError

VARIANCE = 0.95
"""Share of variance that leading directions carry when no rank is asked for."""


@dataclass(frozen=True)
class Space:
    """What is fitted on some cities at one layer, prompt and site: map, probe and the bases of either."""

    manifold: Manifold
    probe: LinearMap
    bases: Mapping[str, Float[np.ndarray, "p rank"]]

    @property
    def rank(self) -> int:
        """Number of the manifold's directions."""
        return self.bases["manifold"].shape[1]

    def columns(
        self, kind: str, xy: Float[np.ndarray, "city 2"]
    ) -> Float[np.ndarray, "p rank"] | Float[np.ndarray, "city p 2"]:
        """Orthonormal columns of a basis; of the tangent planes at `xy` for "tangent"."""
        return tangent_bases(self.manifold, xy) if kind == "tangent" else self.bases[kind]


def fit_space(
    x: Float[np.ndarray, "city p"], xy: Float[np.ndarray, "city 2"], rank: int | None = None, seed: int = 0
) -> Space:
    """Fit map, probe and bases on the cities given. Without a rank, the manifold's directions are as many as
    carry 95 % of the mapped variance; the principal components are as many.

    Raises AnalysisError as `fit_manifold` does, and when `rank` is more than cities or features allow.
    """
    manifold, probe = fit_manifold(x, xy, seed=seed), fit_linear(x, xy)
    on_map = map_directions(manifold, xy, rank)
    leading = leading_directions(x - x.mean(axis=0), on_map.shape[1])
    return Space(
        manifold, probe, {"manifold": on_map, "pca": leading, "probe": np.linalg.qr(probe.weights)[0]}
    )


def map_directions(
    manifold: Manifold, xy: Float[np.ndarray, "city 2"], rank: int | None = None
) -> Float[np.ndarray, "p rank"]:
    """Leading directions of what the map gives to places; as many as carry 95 % without a rank."""
    mapped = manifold.map(xy)
    return leading_directions(mapped - mapped.mean(axis=0), rank)


def leading_directions(
    centred: Float[np.ndarray, "row p"], rank: int | None = None
) -> Float[np.ndarray, "p rank"]:
    """Leading right singular vectors; without a rank, as many as carry 95 % of the squared length.

    Raises AnalysisError when `rank` is more than the data hold.
    """
    _, s, vt = np.linalg.svd(centred, full_matrices=False)
    most = int(np.sum(s > max(centred.shape) * np.finfo(np.float64).eps * s[0])) if s[0] > 0 else 0
    if most == 0:
        raise AnalysisError("the activations are the same for every city: no direction stands out")
    if rank is None:
        shares = np.cumsum(s**2) / np.sum(s**2)
        rank = min(most, int(np.searchsorted(shares, VARIANCE)) + 1)
    if not 1 <= rank <= most:
        raise AnalysisError(
            f"rank {rank} was asked for, {len(centred)} cities hold directions for 1 to {most}",
            "ask for a smaller rank or give more cities",
        )
    return vt[:rank].T


def random_rotation(p: int, rng: np.random.Generator) -> Float[np.ndarray, "p p"]:
    """A uniformly random orthogonal matrix (of the signs that QR leaves; subspaces do not see them)."""
    return np.linalg.qr(rng.standard_normal((p, p)))[0]


def random_basis(p: int, rank: int, rng: np.random.Generator) -> Float[np.ndarray, "p rank"]:
    """A uniformly random subspace: the control of equal rank. A random vector has energy rank/p inside."""
    if not 1 <= rank <= p:
        raise AnalysisError(f"rank {rank} was asked for in {p} dimensions")
    return np.linalg.qr(rng.standard_normal((p, rank)))[0]


def random_basis_like(
    x: Float[np.ndarray, "city p"], rank: int, rng: np.random.Generator
) -> Float[np.ndarray, "p rank"]:
    """A random subspace drawn with the activations' own covariance: a stricter control.

    Its columns span `rank` random combinations of centred cities, so it leans to where cities vary at all.
    """
    return random_bases_like(x, rank, 1, rng)[0]


def random_bases_like(
    x: Float[np.ndarray, "city p"], rank: int, draws: int, rng: np.random.Generator
) -> Float[np.ndarray, "draw p rank"]:
    """Several of these (`random_basis_like`), drawn one after another."""
    if not 1 <= rank < len(x):
        raise AnalysisError(
            f"rank {rank} was asked for, {len(x)} cities hold directions for 1 to {len(x) - 1}"
        )
    drawn = rng.standard_normal((draws, rank, len(x))) @ (x - x.mean(axis=0))
    return np.linalg.qr(drawn.transpose(0, 2, 1))[0]


def tangent_bases(manifold: Manifold, xy: Float[np.ndarray, "city 2"]) -> Float[np.ndarray, "city p 2"]:
    """For each place, two orthonormal columns that span the map's local tangent plane."""
    return np.linalg.qr(manifold.tangents(xy))[0]
