"""Comparison at matched competence: what a fine-tuning has taught others when its own task is learned so far.

Two fine-tunings that stop after as many steps need not have learned their own task equally well, and what
they teach other tasks may still grow or already fall. Comparing them where the trained task has closed the
same share of its gap takes the number of steps out of the comparison.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from cwr_mech.results import Row

LEVELS = (0.5, 0.75, 0.9)
"""Shares of the gap closed in the trained tasks at which fine-tunings are compared."""


def crossing(own: Sequence[float], level: float) -> tuple[int, float] | None:
    """Where `own` first reaches `level`: the index i of the checkpoint before, and the share of the way to
    the next one, own[i] + share (own[i+1] - own[i]) = level. None where it is never reached.
    """
    for i, (before, after) in enumerate(pairwise(own)):
        if before < level <= after:
            return i, (level - before) / (after - before)
    return None


def at_level(steps: Sequence[int], columns: Mapping[str, Sequence[float]], level: float) -> Row:
    """`columns` (one holds `own`) where own first reaches `level`, between checkpoints by the share of the
    way. Steps, which are log-spaced, are interpolated as ln(1 + step). All None where it is never reached.
    """
    found = crossing(columns["own"], level)
    if found is None:
        return {"level": level, "step": None} | dict.fromkeys(key for key in columns if key != "own")
    i, share = found

    def between(values: Sequence[float]) -> float | None:
        value = values[i] + share * (values[i + 1] - values[i])
        return value if math.isfinite(value) else None

    step = between([math.log1p(step) for step in steps])
    return {"level": level, "step": None if step is None else round(math.expm1(step))} | {
        key: between(values) for key, values in columns.items() if key != "own"
    }
