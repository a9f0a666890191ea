"""Local measures: who is near whom.

Global measures can agree where local ones do not, and the other way round (for the paper's distance task they
contradict each other), so both are reported. Overlap of neighbours depends on n and k: chance is k / (n - 1).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from cwr_mech.analysis.similarity.kernels import kernel_hsic
from cwr_mech.analysis.similarity.shape import centre
from cwr_mech.errors import AnalysisError


def nearest(x: Float[np.ndarray, "n p"], k: int) -> Int[np.ndarray, "n k"]:
    """Rows of the k nearest other cities by Euclidean distance, nearest first. AnalysisError for k >= n."""
    if not 1 <= k < len(x):
        raise AnalysisError(f"{k} neighbours were asked for among {len(x)} cities")
    from sklearn.neighbors import NearestNeighbors  # takes a second and a half to import

    return NearestNeighbors(n_neighbors=k).fit(x).kneighbors(return_distance=False)


def overlap(first: Int[np.ndarray, "n k"], second: Int[np.ndarray, "n k"]) -> float:
    """Mean share of a row of `first` that is in the same row of `second`: of `nearest`, mutual k-NN (Huh et
    al. 2024, arXiv 2405.07987; the paper's "shared nearest neighbours", k = 10).
    """
    return float((first[:, :, None] == second[:, None, :]).any(axis=2).mean())


class Near(NamedTuple):
    """A linear kernel of norm-1 features, which of its cells are among the k largest of their row, and the
    debiased HSIC of what those keep.
    """

    kernel: Float[np.ndarray, "n n"]
    mask: Bool[np.ndarray, "n n"]
    alone: float


def near(x: Float[np.ndarray, "n p"], k: int = 10) -> Near:
    """What `local_cka` needs of one side."""
    moved = centre(x)
    moved /= np.linalg.norm(moved)
    kernel = moved @ moved.T
    mask = _largest(kernel, k)
    return Near(kernel, mask, kernel_hsic(kernel * mask, kernel * mask))


def reordered(side: Near, order: Int[np.ndarray, "n"]) -> Near:
    """`near` of the rows in another order."""
    rows = np.ix_(order, order)
    return Near(side.kernel[rows], side.mask[rows], side.alone)


def local_cka(first: Near, second: Near) -> float:
    """CKNNA: debiased CKA of linear kernels of which only cells between common neighbours are kept (Huh et
    al. 2024). Neighbours are the k largest kernel values of a row, as there. NaN without common structure.
    """
    if min(first.alone, second.alone) <= 0:
        return float("nan")
    both = first.mask & second.mask
    local = kernel_hsic(first.kernel * both, second.kernel * both)
    return local / float(np.sqrt(first.alone * second.alone))


def _largest(kernel: Float[np.ndarray, "n n"], k: int) -> Bool[np.ndarray, "n n"]:
    if not 1 <= k < len(kernel):
        raise AnalysisError(f"{k} neighbours were asked for among {len(kernel)} cities")
    others = kernel.copy()
    np.fill_diagonal(others, -np.inf)
    mask = np.zeros(kernel.shape, dtype=bool)
    np.put_along_axis(mask, np.argpartition(-others, k, axis=1)[:, :k], True, axis=1)
    return mask
