"""Which layer or site is best: one rule, and the three questions that it answers.

DECODED    where coordinates are decoded best: R2 of a ridge probe on cities that it was not fitted on
EXPLAINED  where coordinates account for most of what differs between cities: the map's share of the variance
CAUSAL     where interchanging the state moves most answers: interchange intervention accuracy

They need not agree: places are often decoded best where no answer reads them any more. The site at which an
answer *reads* a city is no maximum but the last with the whole effect: `carrying`.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from cwr_mech.results import Row, groups

R = TypeVar("R", bound=Mapping[str, Any])
DECODED, EXPLAINED, CAUSAL = "r2", "map_variance", "iia"
"""Columns by which rows about layers and sites are compared."""
HALF = 0.5
"""A site whose interchange moves a smaller share of the answers is causally weak."""
FULL = 0.9
"""A site carries the whole effect when it moves at least this share of what the strongest site moves."""
LEAST_MAP = 0.3
"""Share of the variance that coordinates must explain for directions of a map to mean anything."""


def best(rows: Iterable[Row], criterion: str) -> Row:
    """The row with the highest `criterion`, the first of equal ones; what was not measured is last.

    Raises ValueError without rows.
    """
    return max(rows, key=lambda row: -math.inf if _missing(row[criterion]) else row[criterion])


def best_of_each(rows: Iterable[Row], by: str, criterion: str) -> list[Row]:
    """The best row for each value of column `by`, in order of appearance; none where nothing was measured."""
    measured = [row for row in rows if not _missing(row[criterion])]
    return [best(mine, criterion) for mine in groups(measured, by).values()]


def carrying(rows: Iterable[R]) -> list[R]:
    """The rows with at least FULL of the highest IIA, in their order; those that were measured.

    Of layers from below, a city is read at the last: above it, other positions carry what the answer takes.
    """
    measured = [row for row in rows if not _missing(row[CAUSAL])]
    most = max((row[CAUSAL] for row in measured), default=0.0)
    return [row for row in measured if row[CAUSAL] >= FULL * most]


def _missing(value: float | int | None) -> bool:
    return value is None or math.isnan(value)
