"""Means of table cells, some of which may be empty, and their intervals as columns."""

import math
from collections.abc import Iterable

import numpy as np

from cwr_mech.analysis.stats.intervals import mean_interval
from cwr_mech.results import Row


def given(value: float | int | None) -> bool:
    """Whether there is a number."""
    return value is not None and math.isfinite(value)


def finite(value: float) -> float | None:
    """`value`, None where it is infinite or NaN."""
    return value if math.isfinite(value) else None


def mean_of(values: Iterable[float | int | None]) -> float | None:
    """Mean of the numbers among `values`; None without any."""
    kept = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(kept)) if kept else None


def mean_columns(name: str, values: Iterable[float | int | None]) -> Row:
    """Mean over models and its 95 % interval (Student's t) as columns NAME, NAME_lo, NAME_hi; None where
    there is none.
    """
    kept = np.array([value for value in values if given(value)], dtype=np.float64)
    if not kept.size:
        return {name: None, f"{name}_lo": None, f"{name}_hi": None}
    return {key: finite(value) for key, value in mean_interval(kept).columns(name).items()}
