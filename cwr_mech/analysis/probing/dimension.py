"""How many directions a representation uses, and whether the map surfaces in the leading ones."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist

from cwr_mech.analysis.probing.probe import cross_decode, r2_interval, score
from cwr_mech.analysis.stats.ridge import fit_linear
from cwr_mech.errors import AnalysisError
from cwr_mech.results import Row


def spectrum(x: Float[np.ndarray, "n p"]) -> Row:
    """A row of four numbers of directions. `effective_rank`: exp of the entropy of the normalised singular
    values of centred features (Roy and Vetterli 2007). `participation`: (sum of variances)^2 / sum of squared
    variances. `participation_singular`: the same of singular values, the paper's "effective rank". `twonn`.

    Raises AnalysisError when all cities have the same features, and as `twonn` does.
    """
    s = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    _refuse_constant(x, s)
    s = s / s[0]
    weight = s / s.sum()
    entropy = -float(np.sum(weight[weight > 0] * np.log(weight[weight > 0])))
    power = s**2
    return {
        "effective_rank": float(np.exp(entropy)),
        "participation": float(power.sum() ** 2 / np.sum(power**2)),
        "participation_singular": float(s.sum() ** 2 / power.sum()),
        "twonn": twonn(x),
    }


def _refuse_constant(x: Float[np.ndarray, "n p"], s: Float[np.ndarray, "k"]) -> None:
    if s[0] <= 1e-12 * max(float(np.linalg.norm(x)), np.finfo(np.float64).tiny):
        raise AnalysisError("a representation has the same features for every city")


DISCARDED = 0.1
"""Share of the ratios of distances that TwoNN leaves out."""
TOGETHER = 512
"""Rows whose distances from all others are held at once."""


def twonn(x: Float[np.ndarray, "n p"]) -> float:
    """Intrinsic dimension from the ratio of the distances to the second and the first neighbour (Facco et al.
    2017): slope of -log(1 - F) on log ratio through 0, without the DISCARDED largest ratios.

    Raises AnalysisError for fewer than 10 distinct cities.
    """
    x = np.unique(np.asarray(x, dtype=np.float64), axis=0)
    if len(x) < 10:
        raise AnalysisError(f"{len(x)} distinct cities are too few for TwoNN", "at least 10 are needed")
    parts = (cdist(x[start : start + TOGETHER], x) for start in range(0, len(x), TOGETHER))
    # The least distance is a city's from itself.
    first, second = np.concatenate([np.partition(part, (1, 2), axis=1)[:, 1:3] for part in parts]).T
    ratio = np.sort(np.log(second / first))
    kept = int(len(ratio) * (1 - DISCARDED))
    rise = -np.log1p(-np.arange(1, kept + 1) / len(ratio))
    return float(ratio[:kept] @ rise / (ratio[:kept] @ ratio[:kept]))


def surfacing(
    x: Float[np.ndarray, "city p"],
    xy: Float[np.ndarray, "city 2"],
    fold: Int[np.ndarray, "city"],
    rng: np.random.Generator,
    *,
    ks: Sequence[int] = (1, 2, 3, 4, 6, 8, 10, 16, 32),
) -> list[Row]:
    """Linear surfacing (the paper's open question 2): a row for each number `k` of principal components.

    `variance`: their share of variance; `r2`: of a held-out probe on them alone, with its 95 % interval over
    cities (`r2_lo`, `r2_hi`) and `r2_shuffled`, the same with places shuffled among cities; `alignment`:
    share of the squared length of the full probe's two orthonormal directions inside them;
    `alignment_random`: of random directions of the space that the cities span.

    The probe on k components is scored on held-out cities; the components themselves use no places, so all
    cities may define them. Numbers of components beyond min(n, p) are left out. Raises AnalysisError when
    all cities have the same features.
    """
    moved = x - x.mean(axis=0)
    u, s, vt = np.linalg.svd(moved, full_matrices=False)
    _refuse_constant(x, s)
    directions = np.linalg.qr(fit_linear(moved, xy).weights)[0]
    inside = np.cumsum(np.sum((vt @ directions) ** 2, axis=1)) / 2
    shares = np.cumsum(s**2) / np.sum(s**2)
    places = np.stack([xy, rng.permutation(xy)])
    found = []
    for k in (k for k in ks if k <= len(s)):
        decoded, shuffled = cross_decode(u[:, :k] * s[:k], places, fold)
        interval = r2_interval(decoded, xy, rng)
        found.append(
            {"k": k, "variance": float(shares[k - 1])}
            | interval.columns("r2")
            | {"r2_shuffled": score(shuffled, places[1]).r2}
            | {"alignment": float(inside[k - 1]), "alignment_random": k / len(s)}
        )
    return found
