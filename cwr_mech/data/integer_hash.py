"""Integers scrambled by formula: the same on every machine, for single numbers and for whole ranges."""

import numpy as np
from jaxtyping import Int64, UInt64

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_ROUNDS = 4


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
