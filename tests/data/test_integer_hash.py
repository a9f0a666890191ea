"""Scrambled integers: splitmix64's published numbers, and permutations that are permutations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwr_mech.data.splits import mix, permute

# First outputs of splitmix64 with seed 1234567, as published with its reference code.
PUBLISHED = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
GAMMA = 0x9E3779B97F4A7C15


def test_mix_is_splitmix64():
    states = np.array([(1234567 + GAMMA * i) % 2**64 for i in range(4)], dtype=np.uint64)
    assert mix(states).tolist() == PUBLISHED


@given(st.integers(1, 3000), st.integers(0, 2**63))
def test_every_number_once(size, key):
    assert sorted(permute(np.arange(size), size, key).tolist()) == list(range(size))


@pytest.mark.parametrize("size", [12_875_275, 45])
def test_looks_random_and_depends_on_the_key(size):
    n = min(size, 20_000)
    first, second = (permute(np.arange(n), size, key) for key in (1, 2))
    assert (first != second).mean() > 0.9
    if n > 1000:
        assert abs(np.corrcoef(first, np.arange(n))[0, 1]) < 0.03
        assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.03
        counts = np.bincount(first * 20 // size, minlength=20)
        assert ((counts - n / 20) ** 2 / (n / 20)).sum() < 50  # 19 degrees of freedom
