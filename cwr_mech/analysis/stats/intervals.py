"""Intervals, written once for every analysis: one type, `Interval(value, lo, hi)`.

What is resampled is always said by the caller: cities for the precision of one value of one model, models
(seeds) for a claim about models. A value that cannot be given is NaN with a `reason`, never a guess. In
tables the ends stand in columns `lo` and `hi`, or `NAME_lo` and `NAME_hi` where a row holds several.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from cwr_mech.errors import AnalysisError

LEAST_UNITS = 3
"""Fewer models, tasks or batches give no interval: with two, Student's t has one degree of freedom (12.7
standard errors), and a jackknife has two values."""

LEVEL = 0.95
TOGETHER = 1 << 22
"""Rows drawn at once by a bootstrap that looks at many draws together: 32 MB."""


@dataclass(frozen=True)
class Interval:
    """An estimate with an interval that covers the truth in LEVEL of repetitions, or in what its maker says.

    `n` counts the units, `reason` says why `lo` and `hi` are NaN when they are. `error`: the standard error
    where the interval is value +- t * error.
    """

    value: float
    lo: float
    hi: float
    n: int
    reason: str | None = None
    error: float = float("nan")

    def covers(self, truth: float) -> bool:
        """Whether `truth` lies inside."""
        return bool(self.lo <= truth <= self.hi)

    @property
    def ends(self) -> dict[str, float]:
        """The ends as columns `lo` and `hi` of a tidy table."""
        return {"lo": self.lo, "hi": self.hi}

    def columns(self, name: str) -> dict[str, float]:
        """Value and ends as columns NAME, NAME_lo and NAME_hi of a tidy table."""
        return {name: self.value, f"{name}_lo": self.lo, f"{name}_hi": self.hi}


def _unknown(value: float, n: int, reason: str) -> Interval:
    return Interval(value, np.nan, np.nan, n, reason)


def t_interval(value: float, error: float, n: int, *, unit: str = "model", level: float = LEVEL) -> Interval:
    """value +- t(n - 1) * standard error; NaN ends with the reason below LEAST_UNITS units."""
    if n < LEAST_UNITS:
        few = f"one {unit} has no spread" if n == 1 else f"{n} {unit}s are too few for an interval"
        return _unknown(value, n, few)
    if not np.isfinite(error):
        return _unknown(value, n, "no standard error")
    reach = float(special.stdtrit(n - 1, (1 + level) / 2)) * error
    return Interval(value, value - reach, value + reach, n, error=error)


def mean_interval(
    values: Float[np.ndarray, "unit"], *, unit: str = "model", level: float = LEVEL
) -> Interval:
    """Mean with Student's t interval: for few units such as seeds, where resampling is too narrow."""
    values = np.asarray(values, dtype=np.float64)
    enough(values.size, 1, unit)
    error = float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else np.nan
    return t_interval(float(values.mean()), error, values.size, unit=unit, level=level)


def jackknife(
    statistic: Callable[[Sequence[Any]], float], units: Sequence[Any], *, unit: str = "model"
) -> Interval:
    """A statistic of several units with the delete-one jackknife (Tukey 1958), Student's t with n - 1 degrees
    of freedom. NaN ends with the reason where it is undefined without one of them, or n < LEAST_UNITS.

    For measures made of pairs of units too: each unit is left out with all its pairs.
    """
    n, value = len(units), statistic(units)
    without = np.array([statistic([one for one in units if one != left]) for left in units])
    if not np.isfinite(without).all():
        return _unknown(value, n, f"{n} {unit}s are too few: without one of them nothing is left to average")
    return t_interval(value, jackknife_error(without), n, unit=unit)


def jackknife_error(without: Float[np.ndarray, "n"]) -> float:
    """Standard error from the n values of a statistic with one unit left out:
    sqrt((n - 1) / n * sum (theta_(i) - mean)^2).
    """
    n = without.size
    return float(np.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2)))


def normal_interval(value: float, standard_error: float, n: int) -> Interval:
    """value +- the normal quantile times the standard error: for many cities."""
    reach = float(special.ndtri((1 + LEVEL) / 2)) * standard_error
    reason = None if np.isfinite(reach) else "no standard error"
    return Interval(value, value - reach, value + reach, n, reason)


def bootstrap(
    statistic: Callable[[Int[np.ndarray, "*draw n"]], Any],
    n: int,
    rng: np.random.Generator,
    *,
    draws: int,
    unit: str = "city",
    together: bool = False,
) -> Interval:
    """Percentile bootstrap (Efron 1979). `statistic` gets row numbers 0..n-1, drawn with replacement; with
    `together` those of many draws at once, [draw n], and gives a value for each.

    Not for measures made of pairs of rows (CKA, neighbours, RSA): a city drawn twice is its own perfect
    neighbour. Use `halves` there. Raises AnalysisError for fewer than 2 units.
    """
    enough(n, 2, unit)
    value = float(statistic(np.arange(n)))
    # The draws of scipy.stats.bootstrap (a test holds that), which takes a second to import.
    most, values = max(1, TOGETHER // n) if together else draws, []
    for start in range(0, draws, most):
        rows = rng.integers(0, n, (min(most, draws - start), n))
        values.append(statistic(rows) if together else [statistic(one) for one in rows])
    drawn = np.concatenate(values, dtype=np.float64)
    usable = drawn[np.isfinite(drawn)]
    if usable.size < 0.9 * draws or usable.size < 20:
        return _unknown(value, n, f"only {usable.size} of {draws} resamples gave a number")
    lo, hi = np.quantile(usable, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(lo), float(hi), n)


def halves(n: int, rng: np.random.Generator, draws: int) -> list[Int[np.ndarray, "half"]]:
    """`draws` random halves of n rows, without replacement, each in order; `half_interval` makes an interval
    of a statistic's values on them. Raises AnalysisError for fewer than 8 rows.
    """
    enough(n, 8, "city")
    return [np.sort(rng.permutation(n)[: n // 2]) for _ in range(draws)]


def half_interval(value: float, values: Float[np.ndarray, "draw"], n: int) -> Interval:
    """Interval around the `value` on all n rows from `values` on `halves` (delete-half jackknife, Shao
    and Wu 1989).

    For a mean, the spread of half-sample values around the full value equals the standard error of the full
    value, (1 - 1/2) s^2 / (n/2) = s^2 / n, so no rescaling is needed; and no row meets itself. The interval
    is value +- the normal quantile times that spread, which ignores how the statistic's bias changes with n.
    """
    usable = values[np.isfinite(values)]
    if usable.size < 0.9 * values.size:
        return _unknown(value, n, f"only {usable.size} of {values.size} half samples gave a number")
    return normal_interval(value, float(usable.std(ddof=1)), n)


def enough(n: int, least: int, unit: str) -> None:
    """Raise AnalysisError for fewer than `least` units."""
    if n < least:
        raise AnalysisError(f"{n} {unit} given, at least {least} needed", "use more of them")
