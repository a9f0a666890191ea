"""Which split a query belongs to: decided by the query itself, so no two splits can ever share one.

The canonical form of a query (`cwr_mech.tasks.symmetry`) and its task are hashed to a number that is the
same on every machine and independent of any seed. 94 % of all queries are training queries, 3 % validation,
3 % test.
"""

import numpy as np
from jaxtyping import Int, Int8, UInt64

from cwr_mech.data.integer_hash import mix
from cwr_mech.tasks.registry import Task

SPLITS = ("train", "val", "test")
PERCENT = {"train": 94, "val": 3, "test": 3}


def query_hash(task: Task, city_ids: Int[np.ndarray, "query k"]) -> UInt64[np.ndarray, " query"]:
    """A 64-bit number for each query: equal for all ways of asking the same question of the same task.

    Rows of `city_ids` may end in -1 for unused places; such padding does not change the number.
    """
    h = mix(np.full(len(city_ids), task.key, dtype=np.uint64))
    for column in task.canonical(city_ids).T:
        h = np.where(column >= 0, mix(h ^ column.astype(np.uint64)), h)
    return h


def split_of(task: Task, city_ids: Int[np.ndarray, "query k"]) -> Int8[np.ndarray, " query"]:
    """The split of each query as an index into SPLITS."""
    h = query_hash(task, city_ids)
    percent = ((h >> np.uint64(32)) * np.uint64(100)) >> np.uint64(32)
    bounds = np.cumsum([PERCENT[split] for split in SPLITS])
    return np.searchsorted(bounds, percent.astype(np.int64), side="right").astype(np.int8)
