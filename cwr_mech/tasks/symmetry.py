"""One canonical way to write each query: which orders of the cities ask the same thing.

Every function takes city ids of shape [query k], padded at the end with -1 where a row uses fewer cities,
and returns them reordered within each row. Two rows of distinct cities ask the same question exactly if the
results are equal.
The split of a query follows from this form (`cwr_mech.data.splits`), so no symmetric copy can leak into
another.
"""

import numpy as np
from jaxtyping import Int

Ids = Int[np.ndarray, "query k"]


def _sort(columns: list[np.ndarray]) -> list[np.ndarray]:
    """Sort a few equally long columns row by row: odd-even transposition, far faster than sorting short rows.

    Compared as unsigned numbers, where the padding -1 is the largest and so stays last.
    """
    columns = [column.astype(np.uint64) for column in columns]
    for phase in range(len(columns)):
        for i in range(phase % 2, len(columns) - 1, 2):
            low, high = columns[i], columns[i + 1]
            columns[i], columns[i + 1] = np.minimum(low, high), np.maximum(low, high)
    return [column.astype(np.int64) for column in columns]


def _join(columns: list[np.ndarray]) -> np.ndarray:
    return np.stack(columns).T  # columns stay contiguous in memory


def ordered(ids: Ids) -> Ids:
    """Every order asks something else."""
    return ids.astype(np.int64)


def unordered(ids: Ids) -> Ids:
    """Any order: distance, triangle area; and compass, whose two directions determine each other."""
    return _join(_sort(list(ids.T)))


def ends_unordered(ids: Ids) -> Ids:
    """First and third may swap: an angle at the second city."""
    first, last = _sort([ids[:, 0], ids[:, 2]])
    return _join([first, ids[:, 1].astype(np.int64), last])


def hull_unordered(ids: Ids) -> Ids:
    """All but the first in any order: a hull's corners."""
    return _join([ids[:, 0].astype(np.int64), *_sort(list(ids.T[1:]))])


def cyclic(ids: Ids) -> Ids:
    """Up to rotation and reflection: a closed polygon. The smallest id first, its smaller neighbour next."""
    width = ids.shape[1]
    size = (ids >= 0).sum(axis=1, keepdims=True)
    start = np.argmin(ids.astype(np.uint64), axis=1)[:, None]
    steps = np.arange(width)
    forward = np.take_along_axis(ids, (start + steps) % size, axis=1)
    backward = np.take_along_axis(ids, (start - steps) % size, axis=1)
    turned = np.where(forward[:, 1:2] <= backward[:, 1:2], forward, backward)
    return np.where(steps < size, turned, -1).astype(np.int64)


def segments_unordered(ids: Ids) -> Ids:
    """The ends of each segment and the two segments may swap: a crossing."""
    a, b = _sort([ids[:, 0], ids[:, 1]])
    c, d = _sort([ids[:, 2], ids[:, 3]])
    # Distinct cities: the smaller ends differ. Where a query repeats a city the larger ends decide.
    swap = (c < a) | ((c == a) & (d < b))
    return _join([np.where(swap, y, x) for x, y in ((a, c), (b, d), (c, a), (d, b))])
