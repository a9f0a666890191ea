"""Intervals, permutation tests and corrections, written once for every analysis.

What is resampled is always said by the caller: cities for the precision of one value of one model, models
(seeds) for a claim about models. Intervals come back as `Interval`, tests as `PermutationTest`; a value that
cannot be given is NaN with a `reason`, never a guess.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from math import factorial
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from cwr_mech.errors import AnalysisError

Alternative = Literal["two-sided", "greater", "less"]


@dataclass(frozen=True)
class Interval:
    """An estimate with an interval that covers the truth in a share `level` of repetitions.

    `n` counts the units, `unit` names them, `method` says how the interval was made, `reason` says why
    `low` and `high` are NaN when they are.
    """

    value: float
    low: float
    high: float
    n: int
    unit: str
    method: str
    level: float = 0.95
    reason: str | None = None

    def covers(self, truth: float) -> bool:
        """Whether `truth` lies inside."""
        return bool(self.low <= truth <= self.high)

    def row(self, name: str = "value") -> dict[str, float | int | str | None]:
        """The interval as columns of a tidy table."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high, "n": self.n}


@dataclass(frozen=True)
class PermutationTest:
    """A statistic, its values under the null, and p = (1 + as extreme) / (1 + draws), or exact."""

    value: float
    null: Float[np.ndarray, "draw"]
    p: float
    exact: bool
    alternative: Alternative

    @property
    def null_mean(self) -> float:
        """Mean of the null values."""
        return float(self.null.mean())

    def null_quantile(self, share: float) -> float:
        """The value that a share `share` of the null values stays below."""
        return float(np.quantile(self.null, share))


def _percentile(
    value: float, draws: Float[np.ndarray, "draw"], level: float, n: int, unit: str, method: str
) -> Interval:
    usable = draws[np.isfinite(draws)]
    if usable.size < 0.9 * draws.size or usable.size < 20:
        reason = f"only {usable.size} of {draws.size} resamples gave a number"
        return Interval(value, np.nan, np.nan, n, unit, method, level, reason)
    low, high = np.quantile(usable, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), n, unit, method, level)


def bootstrap(
    statistic: Callable[[Int[np.ndarray, "n"]], float],
    n: int,
    rng: np.random.Generator,
    *,
    draws: int = 1000,
    level: float = 0.95,
    unit: str = "city",
) -> Interval:
    """Percentile bootstrap (Efron 1979). `statistic` gets row numbers 0..n-1, drawn with replacement.

    Not for measures made of pairs of rows (CKA, neighbours, RSA): a city drawn twice is its own perfect
    neighbour. Use `halves` there. Raises AnalysisError for fewer than 2 units.
    """
    _enough(n, 2, unit)
    value = statistic(np.arange(n))
    values = np.array([statistic(rng.integers(0, n, n)) for _ in range(draws)])
    return _percentile(value, values, level, n, unit, f"bootstrap over {unit}, {draws} draws")


def cluster_bootstrap(
    statistic: Callable[[Int[np.ndarray, "row"]], float],
    clusters: Int[np.ndarray, "row"] | np.ndarray,
    rng: np.random.Generator,
    *,
    draws: int = 1000,
    level: float = 0.95,
    unit: str = "city",
) -> Interval:
    """Bootstrap of whole clusters: rows that share a label in `clusters` are drawn together.

    `statistic` gets the numbers of the rows drawn. Use it where one city (or one model) gives many rows.
    """
    labels, inverse = np.unique(clusters, return_inverse=True)
    _enough(labels.size, 2, unit)
    rows = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    value = statistic(np.arange(len(clusters)))
    values = np.array(
        [
            statistic(np.concatenate([rows[k] for k in rng.integers(0, labels.size, labels.size)]))
            for _ in range(draws)
        ]
    )
    return _percentile(value, values, level, labels.size, unit, f"bootstrap over {unit}, {draws} draws")


def halves(
    n: int, rng: np.random.Generator, draws: int, *, unit: str = "city"
) -> list[Int[np.ndarray, "half"]]:
    """`draws` random halves of n rows, without replacement, each in order; `half_interval` makes an interval
    of a statistic's values on them. Raises AnalysisError for fewer than 8 rows.
    """
    _enough(n, 8, unit)
    return [np.sort(rng.permutation(n)[: n // 2]) for _ in range(draws)]


def half_interval(
    value: float, values: Float[np.ndarray, "draw"], n: int, *, level: float = 0.95, unit: str = "city"
) -> Interval:
    """Interval around the `value` on all n rows from `values` on `halves` (delete-half jackknife, Shao
    and Wu 1989).

    For a mean, the spread of half-sample values around the full value equals the standard error of the full
    value, (1 - 1/2) s^2 / (n/2) = s^2 / n, so no rescaling is needed; and no row meets itself. The interval
    is value +- the normal quantile times that spread, which ignores how the statistic's bias changes with n.
    """
    draws = values.size
    method = f"halves of the {unit} set, {draws} draws"
    usable = values[np.isfinite(values)]
    if usable.size < 0.9 * draws:
        reason = f"only {usable.size} of {draws} half samples gave a number"
        return Interval(value, np.nan, np.nan, n, unit, method, level, reason)
    return normal_interval(value, float(usable.std(ddof=1)), n, unit=unit, method=method, level=level)


def normal_interval(
    value: float, standard_error: float, n: int, *, unit: str, method: str, level: float = 0.95
) -> Interval:
    """value +- the normal quantile times the standard error."""
    reach = float(stats.norm.ppf((1 + level) / 2)) * standard_error
    reason = None if np.isfinite(reach) else "no standard error"
    return Interval(value, value - reach, value + reach, n, unit, method, level, reason)


def mean_interval(values: Float[np.ndarray, "unit"], *, unit: str = "model", level: float = 0.95) -> Interval:
    """Mean with Student's t interval: for few units such as seeds, where resampling is too narrow.

    One unit gives its value and NaN ends, with the reason.
    """
    values = np.asarray(values, dtype=np.float64)
    _enough(values.size, 1, unit)
    mean, n = float(values.mean()), values.size
    if n == 1:
        return Interval(mean, np.nan, np.nan, 1, unit, "t", level, f"one {unit} has no spread")
    reach = float(stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return Interval(mean, mean - reach, mean + reach, n, unit, f"Student's t over {unit}", level)


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
    _enough(n, 2, "row")
    value = float(statistic(np.arange(n)))
    exact = n <= 12 and factorial(n) <= draws
    if exact:
        null = np.array([statistic(np.array(order)) for order in permutations(range(n))])
    else:
        null = np.array([statistic(rng.permutation(n)) for _ in range(draws)])
    return _judge(value, null, exact, alternative)


def mantel_test(
    first: Float[np.ndarray, "item item"],
    second: Float[np.ndarray, "item item"],
    rng: np.random.Generator,
    *,
    draws: int = 5000,
    alternative: Alternative = "greater",
) -> PermutationTest:
    """Correlation of the off-diagonal cells of two symmetric matrices over the same items (Mantel 1967).

    The null relabels the items of one matrix, because cells that share an item are not independent.
    """
    items = first.shape[0]
    _enough(items, 4, "item")
    upper = np.triu_indices(items, 1)

    def correlation(order: Int[np.ndarray, "item"]) -> float:
        return float(np.corrcoef(first[upper], second[np.ix_(order, order)][upper])[0, 1])

    return permutation_test(correlation, items, rng, draws=draws, alternative=alternative)


def sign_flip_test(
    values: Float[np.ndarray, "unit"],
    rng: np.random.Generator,
    *,
    draws: int = 10000,
    alternative: Alternative = "two-sided",
) -> PermutationTest:
    """Is the mean of paired differences 0? Null: each difference is as likely with either sign.

    All 2^n sign patterns are used when they are no more than `draws`.
    """
    values = np.asarray(values, dtype=np.float64)
    n = values.size
    _enough(n, 1, "unit")
    exact = n <= 40 and 2**n <= draws
    if exact:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = rng.choice([-1.0, 1.0], size=(draws, n))
    return _judge(float(values.mean()), signs @ values / n, exact, alternative)


def two_sample_test(
    first: Float[np.ndarray, "a"],
    second: Float[np.ndarray, "b"],
    rng: np.random.Generator,
    *,
    draws: int = 10000,
    alternative: Alternative = "two-sided",
) -> PermutationTest:
    """Difference of means, first - second; the null shuffles which unit belongs to which group."""
    _enough(min(first.size, second.size), 1, "unit in each group")
    result = stats.permutation_test(
        (first, second),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        permutation_type="independent",
        vectorized=True,
        n_resamples=draws,
        alternative=alternative,
        rng=rng,
    )
    null = np.asarray(result.null_distribution, dtype=np.float64)
    exact = null.size != draws
    return PermutationTest(float(result.statistic), null, float(result.pvalue), exact, alternative)


def benjamini_hochberg(p: Float[np.ndarray, "test"]) -> Float[np.ndarray, "test"]:
    """Adjusted p values that control the false discovery rate (Benjamini, Hochberg 1995); NaN stays NaN."""
    p = np.asarray(p, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    given: Bool[np.ndarray, "test"] = np.isfinite(p)
    if given.any():
        adjusted[given] = stats.false_discovery_control(p[given], method="bh")
    return adjusted


def _judge(
    value: float, null: Float[np.ndarray, "draw"], exact: bool, alternative: Alternative
) -> PermutationTest:
    slack = 1e-12 * max(1.0, abs(value))
    if not np.isfinite(value):
        return PermutationTest(value, null, np.nan, exact, alternative)
    greater, less = int((null >= value - slack).sum()), int((null <= value + slack).sum())
    added = 0 if exact else 1
    one_sided = {"greater": greater, "less": less, "two-sided": min(greater, less)}[alternative]
    p = (one_sided + added) / (null.size + added) * (2 if alternative == "two-sided" else 1)
    return PermutationTest(value, null, min(1.0, p), exact, alternative)


def _enough(n: int, least: int, unit: str) -> None:
    if n < least:
        raise AnalysisError(f"{n} {unit} given, at least {least} needed", "use more of them")


def jackknife_error(without: Float[np.ndarray, "n"]) -> float:
    """Standard error from the n values of a statistic with one unit left out (Tukey 1958)."""
    n = without.size
    return float(np.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2)))
