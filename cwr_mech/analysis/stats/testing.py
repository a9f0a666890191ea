"""Tests of hypotheses, written once for every analysis: permutations, Student's t, equivalence, multiplicity.

A p value that could not fall below 0.05 whatever the data (three models have eight sign patterns) is NaN with
a `reason`, so that nobody reads a test that cannot succeed as evidence of no effect.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

from cwr_mech.analysis.stats.intervals import Interval, enough

Alternative = Literal["two-sided", "greater", "less"]
ALPHA = 0.05
TOGETHER = 1 << 20
"""Cells of permuted matrices that are looked at together: 8 MB."""


@dataclass(frozen=True)
class PermutationTest:
    """A statistic, its values under the null, and p = (1 + as extreme) / (1 + draws), or exact."""

    value: float
    null: Float[np.ndarray, "draw"]
    p: float
    exact: bool
    reason: str | None = None


def permutation_test(
    statistic: Callable[[Int[np.ndarray, "n"]], float],
    n: int,
    rng: np.random.Generator,
    *,
    draws: int = 1000,
    alternative: Alternative = "greater",
) -> PermutationTest:
    """Compare `statistic(identity)` with `statistic(order)` over orders of 0..n-1.

    `statistic` pairs one side in its own order with the other side in the order it is given. All n! orders
    are used when they are no more than `draws` (then p is exact).
    """
    enough(n, 2, "row")
    return _permuted(np.arange(n), lambda order: statistic(order), rng, draws, alternative, vectorized=False)


def relabelling_test(
    statistic: Callable[[Float[np.ndarray, "item item"]], float],
    matrix: Float[np.ndarray, "item item"],
    rng: np.random.Generator,
    *,
    draws: int = 2000,
    alternative: Alternative = "two-sided",
) -> PermutationTest:
    """A statistic of a matrix of similarities between items (models, tasks) whose null deals the items'
    names anew: rows and columns are permuted together and the statistic is computed again. Cells that share
    an item are not independent, so cells must never be permuted by themselves.
    """
    return permutation_test(
        lambda order: statistic(matrix[np.ix_(order, order)]),
        len(matrix),
        rng,
        draws=draws,
        alternative=alternative,
    )


def mantel_test(
    first: Float[np.ndarray, "item item"],
    second: Float[np.ndarray, "item item"],
    rng: np.random.Generator,
    *,
    draws: int = 5000,
    alternative: Alternative = "greater",
) -> PermutationTest:
    """Correlation of the off-diagonal cells of two symmetric matrices over the same items (Mantel 1967)."""
    n = first.shape[0]
    enough(n, 4, "item")
    rows, columns = np.triu_indices(n, 1)
    cells = first[rows, columns] - first[rows, columns].mean()

    def correlation(order: Int[np.ndarray, "*draw item"], axis: int = -1) -> Float[np.ndarray, "*draw"]:
        # r = <a, b> / |a| |b| of centred cells, for all orders at once.
        moved = second[order[..., rows], order[..., columns]]
        moved = moved - moved.mean(axis=-1, keepdims=True)
        return np.asarray(moved @ cells / np.sqrt(np.sum(moved**2, axis=-1) * (cells @ cells)))

    together = max(1, TOGETHER // len(cells))
    return _permuted(np.arange(n), correlation, rng, draws, alternative, batch=together)


FLIPS = 10_000


def sign_flip_test(values: Float[np.ndarray, "unit"], rng: np.random.Generator) -> PermutationTest:
    """Is the mean of paired differences 0? Null: each difference is as likely with either sign; two-sided.

    All 2^n sign patterns are used when they are no more than FLIPS.
    """
    values = np.asarray(values, dtype=np.float64)
    enough(values.size, 1, "unit")
    return _permuted(values, np.mean, rng, FLIPS, "two-sided", kind="samples")


def _permuted(
    sample: np.ndarray,
    statistic: Callable[..., Any],
    rng: np.random.Generator,
    draws: int,
    alternative: Alternative,
    *,
    kind: Literal["pairings", "samples"] = "pairings",
    vectorized: bool = True,
    batch: int | None = None,
) -> PermutationTest:
    """scipy's test, its p withheld where the statistic is undefined or p could never fall below ALPHA."""
    from scipy import stats  # takes a second to import

    n, how = len(sample), {"vectorized": vectorized, "batch": batch, "alternative": alternative, "rng": rng}
    found = stats.permutation_test((sample,), statistic, permutation_type=kind, n_resamples=draws, **how)
    exact = n <= 40 and (factorial(n) if kind == "pairings" else 2**n) <= draws
    null = np.atleast_1d(np.asarray(found.null_distribution, dtype=np.float64))
    value, p, reason = float(found.statistic), float(found.pvalue), None
    least = (2 if alternative == "two-sided" else 1) / (null.size if exact else null.size + 1)
    if not np.isfinite(value):
        p, reason = np.nan, "the statistic is undefined"
    elif least >= ALPHA:
        p, reason = np.nan, f"{null.size} permutations allow no p below {least:.2g}"
    return PermutationTest(value, null, min(1.0, p) if np.isfinite(p) else np.nan, exact, reason)


def difference_p(found: Interval, against: float = 0.0) -> float:
    """Two-sided p of Student's t that the value differs from `against`; NaN without a standard error."""
    if not np.isfinite(found.error):
        return float("nan")
    if found.error == 0:
        return 1.0 if found.value == against else 0.0
    return float(2 * special.stdtr(found.n - 1, -abs(found.value - against) / found.error))


def equivalence_p(found: Interval, margin: float, against: float = 0.0) -> float:
    """p of two one-sided tests (Schuirmann 1987) that the value lies within `margin` of `against`: the larger
    of P(t > (d + margin) / error) and P(t > (margin - d) / error), d = value - against. NaN without a
    standard error.
    """
    if not np.isfinite(found.error):
        return float("nan")
    room = margin - abs(found.value - against)
    if found.error == 0:
        return 0.0 if room > 0 else 1.0
    return float(special.stdtr(found.n - 1, -room / found.error))


def benjamini_hochberg(p: Float[np.ndarray, "test"]) -> Float[np.ndarray, "test"]:
    """Adjusted p values that control the false discovery rate (Benjamini, Hochberg 1995); NaN stays NaN."""
    from scipy import stats

    p = np.asarray(p, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    given: Bool[np.ndarray, "test"] = np.isfinite(p)
    if given.any():
        adjusted[given] = stats.false_discovery_control(p[given], method="bh")
    return adjusted
