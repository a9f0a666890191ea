"""Linear CKA from feature products, with the bias removed and its precision over cities.

Centred Kernel Alignment (Kornblith et al. 2019, arXiv 1905.00414):
CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with K = X X', L = Y Y'. The biased HSIC is ||X'Y||^2 of
centred features (the paper's measure); it rises towards 1 for unrelated features when cities are few
(Murphy et al. 2024, arXiv 2405.01012). The debiased one is HSIC_1 of Song et al. 2012 (JMLR 13, eq. 5).
With centred columns the row sums of K are 0, so everything follows from X'Y and the squared row norms
a, b, and no n x n matrix is made:

    n (n - 3) HSIC_1 = ||X'Y||^2 - n/(n - 2) sum(a b) + sum(a) sum(b) / ((n - 1)(n - 2))

It can be slightly negative for unrelated features, and is not clipped. CKA is blind to rotation, shift
and one scale factor, not to a general linear map; it is a similarity, not a distance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement

import numpy as np
from jaxtyping import Float

from cwr_mech.analysis.similarity.feature_products import (
    Features,
    as_matrix,
    prepare,
    squared_product,
    squared_products,
)
from cwr_mech.analysis.similarity.shape import same_cities
from cwr_mech.analysis.stats.intervals import Interval, jackknife_error, normal_interval
from cwr_mech.errors import AnalysisError


def hsic(first: Features, second: Features, *, debiased: bool = True, square: float | None = None) -> float:
    """HSIC of two representations of the same cities; biased: ||X'Y||^2 / (n - 1)^2, debiased: HSIC_1.

    `square` is ||X'Y||^2 where it is known already.
    """
    n = first.x.shape[0]
    if square is None:
        square = squared_product(first, second)
    if not debiased:
        return square / (n - 1) ** 2
    both = float(first.norms @ second.norms)
    apart = float(first.norms.sum() * second.norms.sum())
    return (square - n / (n - 2) * both + apart / ((n - 1) * (n - 2))) / (n * (n - 3))


def linear_cka(x: Float[np.ndarray, "n p"], y: Float[np.ndarray, "m q"], *, debiased: bool = True) -> float:
    """Linear CKA of two representations of the same n >= 4 cities, row i of both the same city.

    NaN where it is undefined; `undefined_reason` says why. Raises AnalysisError when the numbers of rows
    differ, for fewer than 4 rows, and for NaN or infinite features.
    """
    same_cities(len(x), len(y))
    return cka_of(prepare(x), prepare(y), debiased=debiased)


def cka_of(first: Features, second: Features, *, debiased: bool = True) -> float:
    """Linear CKA of two prepared representations; NaN where it is undefined."""
    alone = (_self_term(side, debiased)[0] for side in (first, second))
    return _ratio(hsic(first, second, debiased=debiased), *alone)


def undefined_reason(x: Float[np.ndarray, "n p"], y: Float[np.ndarray, "m q"]) -> str | None:
    """Why `linear_cka(x, y)` is NaN, or None when it is a number."""
    same_cities(len(x), len(y))
    for name, features in (("first", prepare(x)), ("second", prepare(y))):
        reason = _self_term(features, True)[1]
        if reason:
            return f"{name} representation: {reason}"
    return None


def _self_term(features: Features, debiased: bool, square: float | None = None) -> tuple[float, str | None]:
    """HSIC of a representation with itself, NaN with the reason where it is not positive."""
    if features.reason:
        return np.nan, features.reason
    value = hsic(features, features, debiased=debiased, square=square)
    # HSIC_1 of points that are all equally far apart is 0 up to rounding: nothing is left to align.
    if value <= 1e-12 / features.x.shape[0] ** 2:
        return np.nan, "after removal of the bias no structure is left (self-HSIC is not above 0)"
    return value, None


def _ratio(cross: float, first: float, second: float) -> float:
    return cross / float(np.sqrt(first) * np.sqrt(second))


def _hsic_without_each(first: Features, second: Features) -> Float[np.ndarray, "n"]:
    """HSIC_1 with city i left out, for every i, from the same products (exact, not an approximation)."""
    x, a, y, b = first.x, first.norms, second.x, second.norms
    n = x.shape[0]
    if n * n < x.shape[1] * y.shape[1]:
        met = np.sum((x @ x.T) * (y @ y.T), axis=1)
    else:
        met = np.einsum("nq,nq->n", x @ (x.T @ y), y)
    pair = met - a * b  # sum over j != i of K_ij L_ij
    trace = float(met.sum() - a @ b)
    to_first = a * b - x @ (x.T @ b)  # sum over j != i of K_ij l_j, where the row sum l_j is -b_j
    to_second = a * b - y @ (y.T @ a)
    m = n - 1
    new_trace = trace - 2 * pair
    new_sums = (-a.sum() + 2 * a) * (-b.sum() + 2 * b)
    new_middle = float(a @ b) - a * b - to_first - to_second + pair
    return (new_trace + new_sums / ((m - 1) * (m - 2)) - 2 * new_middle / (m - 2)) / (m * (m - 3))


def linear_cka_interval(x: Float[np.ndarray, "n p"], y: Float[np.ndarray, "m q"]) -> Interval:
    """Debiased linear CKA with an interval over cities: the jackknife, leaving out every city once.

    A bootstrap would draw a city twice and count its similarity with itself, which is the bias that the
    debiased estimator removes. It says how precise the value is for these two models, nothing about seeds.
    """
    return cka_interval(linear_cka_matrix([x, y]), 0, 1)


@dataclass(frozen=True)
class CkaMatrix:
    """CKA of every pair of representations of the same cities.

    `standard_error` is over cities (jackknife; 0 on the diagonal, NaN where not asked for or biased).
    `reasons` maps the number of a representation to why its row and column are NaN.
    """

    values: Float[np.ndarray, "rep rep"]
    standard_error: Float[np.ndarray, "rep rep"]
    n: int
    debiased: bool
    reasons: dict[int, str] = field(default_factory=dict)


def cka_interval(matrix: CkaMatrix, i: int, j: int) -> Interval:
    """CKA of two of the representations with its interval over cities (jackknife)."""
    value, error = float(matrix.values[i, j]), float(matrix.standard_error[i, j])
    return normal_interval(value, error, matrix.n)


def linear_cka_matrix(
    representations: Sequence[Float[np.ndarray, "n _"]], *, debiased: bool = True, errors: bool = True
) -> CkaMatrix:
    """All pairs at once; each representation is centred once. Raises as `linear_cka` does."""
    for other in representations[1:]:
        same_cities(len(representations[0]), len(other))
    reps = [prepare(x, least=5 if debiased and errors else 4) for x in representations]
    size, n = len(reps), len(reps[0].norms)
    squares = squared_products(reps)
    selves = [_self_term(rep, debiased, float(squares[k, k])) for k, rep in enumerate(reps)]
    reasons = {k: reason for k, (_, reason) in enumerate(selves) if reason}
    values, standard_error = np.full((2, size, size), np.nan)
    alone = [_hsic_without_each(rep, rep) for rep in reps] if debiased and errors else []
    for i, j in combinations_with_replacement([k for k in range(size) if k not in reasons], 2):
        cross = hsic(reps[i], reps[j], debiased=debiased, square=float(squares[i, j]))
        values[i, j] = values[j, i] = _ratio(cross, selves[i][0], selves[j][0])
        if alone:
            # A self-term that turns negative without one city leaves NaN: such features are noise.
            with np.errstate(invalid="ignore"):
                scale = np.sqrt(alone[i]) * np.sqrt(alone[j])
            error = 0.0 if i == j else jackknife_error(_hsic_without_each(reps[i], reps[j]) / scale)
            standard_error[i, j] = standard_error[j, i] = error
    return CkaMatrix(values, standard_error, n, debiased, reasons)


class MinibatchCka:
    """Debiased linear CKA of data that never fit in memory at once (Nguyen et al. 2021, arXiv 2010.15327).

    The three HSIC_1 terms are averaged over batches and divided once at the end; averaging the CKA of batches
    would be biased. Every batch holds at least 4 cities, the same in both representations.
    """

    def __init__(self) -> None:
        self._sums = np.zeros(3)
        self._batches = 0
        self._units: list[float] = [0.0, 0.0]
        """Norm of each side's first batch that has one; sums are in this unit, and no square overflows."""

    def update(self, x: Float[np.ndarray, "n p"], y: Float[np.ndarray, "m q"]) -> None:
        """Add one batch."""
        same_cities(len(x), len(y))
        # `prepare` scales each batch to norm 1, which would weigh batches differently: undo it.
        first, second = prepare(x), prepare(y)
        size_x, size_y = (self._size(side, features) for side, features in enumerate((x, y)))
        self._sums += (
            hsic(first, second) * size_x * size_y,
            hsic(first, first) * size_x**2,
            hsic(second, second) * size_y**2,
        )
        self._batches += 1

    def _size(self, side: int, features: Float[np.ndarray, "n p"]) -> float:
        """Squared norm of centred features, in units of the first batch's."""
        x = as_matrix(features)
        largest = float(np.abs(x).max(initial=0.0)) or 1.0
        norm = largest * float(np.linalg.norm((x - x.mean(axis=0)) / largest))
        self._units[side] = self._units[side] or norm
        return (norm / self._units[side]) ** 2 if norm else 0.0

    def value(self) -> float:
        """CKA over all batches so far; NaN when a self-term is not positive."""
        if not self._batches:
            raise AnalysisError("no batch was given")
        cross, first, second = (float(total) for total in self._sums / self._batches)
        return _ratio(cross, first, second) if first > 0 and second > 0 else float("nan")
