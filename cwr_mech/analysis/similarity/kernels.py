"""CKA from n x n kernels: the RBF kernel, and the slow second route to linear CKA.

Kornblith et al. 2019 (arXiv 1905.00414) for the RBF kernel with a multiple of the median distance; Song
et al. 2012 (JMLR 13) eq. 5 for the debiased HSIC_1. Memory is n x n: linear CKA has a
better way, `similarity.py`.
"""

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import pdist, squareform

from cwr_mech.errors import AnalysisError


def kernel_hsic(
    first: Float[np.ndarray, "n n"], second: Float[np.ndarray, "n n"], *, debiased: bool = True
) -> float:
    """HSIC of two kernels over the same n rows: HSIC_1, or tr(KHLH) / (n - 1)^2 when not debiased."""
    n = len(first)
    if not debiased:
        centred = first - first.mean(axis=0) - first.mean(axis=1)[:, None] + first.mean()
        return float(np.sum(centred * second)) / (n - 1) ** 2
    k, m = first - np.diag(np.diag(first)), second - np.diag(np.diag(second))
    # Kernels that were cut to neighbours need not be symmetric: then transposes matter.
    trace, sums = float(np.sum(k * m.T)), float(k.sum() * m.sum())
    middle = float(k.sum(axis=0) @ m.sum(axis=1))
    return (trace + sums / ((n - 1) * (n - 2)) - 2 * middle / (n - 2)) / (n * (n - 3))


def kernel_cka(
    first: Float[np.ndarray, "n n"], second: Float[np.ndarray, "m m"], *, debiased: bool = True
) -> float:
    """CKA of two kernels over the same n >= 4 rows; NaN where a self-term is not positive.

    Raises AnalysisError for kernels of different size and for n < 4.
    """
    if first.shape != second.shape or len(first) < 4:
        raise AnalysisError(
            f"kernels of {len(first)} and {len(second)} cities", "CKA needs the same, 4 or more"
        )
    selves = [kernel_hsic(kernel, kernel, debiased=debiased) for kernel in (first, second)]
    floor = 1e-14 * float(np.mean(first**2) * np.mean(second**2)) ** 0.5
    if min(selves) <= floor:
        return float("nan")
    return kernel_hsic(first, second, debiased=debiased) / float(np.sqrt(selves[0]) * np.sqrt(selves[1]))


def rbf_kernel(x: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n n"]:
    """exp(-d^2 / (2 s^2)), s = the median distance of two different rows.

    Raises AnalysisError where the median distance is 0: more than half of the pairs coincide.
    """
    distances = pdist(np.asarray(x, dtype=np.float64))
    scale = float(np.median(distances))
    if scale == 0:
        raise AnalysisError("more than half of the pairs of cities have the same features")
    kernel = squareform(np.exp(-(distances**2) / (2 * scale**2)))
    np.fill_diagonal(kernel, 1.0)
    return kernel


def rbf_cka(x: Float[np.ndarray, "n p"], y: Float[np.ndarray, "m q"], *, debiased: bool = True) -> float:
    """CKA with RBF kernels: like linear CKA, but near neighbours count and far ones do not."""
    return kernel_cka(rbf_kernel(x), rbf_kernel(y), debiased=debiased)
