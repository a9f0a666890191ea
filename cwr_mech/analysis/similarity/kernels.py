"""CKA from n x n kernels: the RBF kernel, and the slow second route to linear CKA.

Kornblith et al. 2019 (arXiv 1905.00414) for the RBF kernel with a multiple of the median distance; Song
et al. 2012 (JMLR 13) eq. 5 for the debiased HSIC_1. Memory is n x n: linear CKA has a
better way, `cka.py`.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
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
    # Diagonals do not count. Kernels that were cut to neighbours need not be symmetric: transposes matter.
    own, other = first.diagonal(), second.diagonal()
    trace = float(np.sum(first * second.T) - own @ other)
    columns, rows = first.sum(axis=0) - own, second.sum(axis=1) - other
    sums = float(columns.sum() * rows.sum())
    middle = float(columns @ rows)
    return (trace + sums / ((n - 1) * (n - 2)) - 2 * middle / (n - 2)) / (n * (n - 3))


class Kernel(NamedTuple):
    """A kernel with its HSIC with itself; NaN where that is not positive."""

    values: Float[np.ndarray, "n n"]
    alone: float


def with_itself(values: Float[np.ndarray, "n n"], *, debiased: bool = True) -> Kernel:
    """What `cka_of` needs of a kernel of n >= 4 rows. Raises AnalysisError for fewer."""
    if len(values) < 4:
        raise AnalysisError(f"a kernel of {len(values)} cities", "CKA needs 4 or more")
    alone = kernel_hsic(values, values, debiased=debiased)
    return Kernel(values, alone if alone > 1e-14 * float(np.mean(values**2)) else np.nan)


def reordered(kernel: Kernel, order: Int[np.ndarray, "n"]) -> Kernel:
    """The kernel of the rows in another order."""
    return Kernel(kernel.values[np.ix_(order, order)], kernel.alone)


def cka_of(first: Kernel, second: Kernel, *, debiased: bool = True) -> float:
    """CKA of two kernels over the same rows. Raises AnalysisError for kernels of different size."""
    if first.values.shape != second.values.shape:
        raise AnalysisError(
            f"kernels of {len(first.values)} and {len(second.values)} cities", "CKA needs the same, 4 or more"
        )
    both = kernel_hsic(first.values, second.values, debiased=debiased)
    return both / float(np.sqrt(first.alone) * np.sqrt(second.alone))


def kernel_cka(
    first: Float[np.ndarray, "n n"], second: Float[np.ndarray, "m m"], *, debiased: bool = True
) -> float:
    """CKA of two kernels over the same n >= 4 rows; NaN where a self-term is not positive.

    Raises AnalysisError for kernels of different size and for n < 4.
    """
    sides = [with_itself(kernel, debiased=debiased) for kernel in (first, second)]
    return cka_of(*sides, debiased=debiased)


def rbf_kernel(x: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n n"]:
    """exp(-d^2 / (2 s^2)), s = the median distance of two different rows. CKA of two of these is like the
    linear one, but near neighbours count and far ones do not.

    Raises AnalysisError where the median distance is 0: more than half of the pairs coincide.
    """
    distances = pdist(np.asarray(x, dtype=np.float64))
    scale = float(np.median(distances))
    if scale == 0:
        raise AnalysisError("more than half of the pairs of cities have the same features")
    kernel = squareform(np.exp(-(distances**2) / (2 * scale**2)))
    np.fill_diagonal(kernel, 1.0)
    return kernel
