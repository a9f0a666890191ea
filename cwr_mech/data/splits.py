"""Which split a query belongs to: decided by the query itself, so no two splits can ever share one.

The canonical form of a query (`cwr_mech.tasks.symmetry`) and its task are hashed to a number that is the
same on every machine and independent of any seed. 94 % of all queries are training queries, 3 % validation,
3 % test.
"""

import numpy as np
from jaxtyping import Int, Int8, Int64, UInt64

from cwr_mech.tasks.registry import Task

SPLITS = ("train", "val", "test")
PERCENT = {"train": 94, "val": 3, "test": 3}

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_ROUNDS = 4


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


def mix(h: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """One step of splitmix64 (Steele, Lea & Flood 2014): every input bit moves every output bit."""
    h = h + _GAMMA
    h = (h ^ (h >> np.uint64(30))) * _M1
    h = (h ^ (h >> np.uint64(27))) * _M2
    return h ^ (h >> np.uint64(31))


def permute(index: Int64[np.ndarray, " n"], size: int, key: int) -> Int64[np.ndarray, " n"]:
    """Where a keyed pseudo-random permutation of 0..size-1 sends each `index`.

    A Feistel network of four rounds (Luby & Rackoff 1988) on the smallest even number of bits that holds
    `size`, walked until it lands below `size`; so a range of a shuffled deck needs no deck in memory.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    keys = mix(np.arange(_ROUNDS, dtype=np.uint64) + mix(np.array([key], dtype=np.uint64)))
    found = index.astype(np.uint64)
    todo = np.arange(len(found))
    while len(todo):
        left, right = found[todo] >> half, found[todo] & low
        for round_key in keys:
            left, right = right, left ^ (mix(right ^ round_key) & low)
        found[todo] = (left << half) | right
        todo = todo[found[todo] >= size]
    return found.astype(np.int64)
