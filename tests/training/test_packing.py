"""Packs hold every prediction once and every shared beginning once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cwr_mech.config import WorldConfig
from cwr_mech.data.rows import concat, generate
from cwr_mech.tasks.registry import PAPER_TASKS
from cwr_mech.training.blocks import Heads
from cwr_mech.training.packing import Pack, packs
from cwr_mech.world.cities import load_world

WORLD = load_world(WorldConfig(n_cities=60))
ROWS = concat([generate(WORLD, task, 12) for task in PAPER_TASKS])
ONES = np.ones_like(ROWS.lengths)


def pairs(pack: Pack, row: int) -> list[tuple[int, int]]:
    """(token before, token after) of each prediction of the pack's `row`, in order of position."""
    mine = (pack.owner == row).nonzero().flatten()
    spots = pack.hit[mine] if pack.read is None else pack.read[pack.hit[mine]]
    place = pack.position[spots].argsort()
    return list(zip(pack.tokens[spots][place].tolist(), pack.target[mine][place].tolist(), strict=True))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, len(ROWS) - 1), min_size=1, max_size=40),
    st.integers(20, 900),
    st.booleans(),
)
def test_every_row_is_predicted_once(picked: list[int], budget: int, answers: bool) -> None:
    rows = ROWS.take(np.array(picked))
    first = rows.answer_start if answers else np.ones_like(rows.lengths)
    made = list(packs(rows.tokens, rows.lengths, first, Heads(2, 1), budget=budget))
    assert sorted(np.concatenate([pack.rows for pack in made]).tolist()) == list(range(len(rows)))
    for pack in made:
        for place, row in enumerate(pack.rows.tolist()):
            text = rows.tokens[row, : rows.lengths[row]].tolist()
            start = int(first[row])
            assert pack.tokens[pack.where[place, : len(text) - 1]].tolist() == text[:-1]
            assert (pack.where[place, len(text) - 1 :] == -1).all()
            assert pairs(pack, place) == list(zip(text[start - 1 : -1], text[start:], strict=True))


@pytest.mark.parametrize(("h", "kv"), [(2, 2), (4, 2), (4, 1)])
def test_tables_are_inverse_to_each_other(h: int, kv: int) -> None:
    for pack in packs(ROWS.tokens, ROWS.lengths, ONES, Heads(h, kv)):
        n, g = len(pack.tokens), len(pack.gather)
        assert sum(pack.sizes[: 3 * len(pack.blocks)]) == g
        own = pack.back < g
        assert np.array_equal(pack.gather[pack.back[own]], np.arange(n * (h + 2 * kv))[own])
        # Keys and values that rows share get the sum over a family, each one of its own.
        sums = pack.back[~own]
        assert len(sums.unique()) == len(sums)
        assert sums.max() < sum(pack.sizes)
        shared = sum(int((pack.position[pack.row == row] < 8).any()) for row in pack.row.unique())
        assert len(sums) > 2 * kv * shared > 0
        assert np.array_equal(pack.z_gather[pack.z_back], np.arange(n * h))
        queries = sum(block.lines * block.queries for block in pack.blocks)
        keys = sum(block.lines * block.keys for block in pack.blocks)
        assert len(pack.gather) == queries * h + 2 * keys * kv
        assert len(pack.z_gather) == queries * h


def test_what_rows_share_is_laid_out_once() -> None:
    (pack,) = packs(ROWS.tokens, ROWS.lengths, ONES, Heads(1, 1), budget=10**6)
    plain = int((ROWS.lengths - 1).sum())
    beginnings = [len(f"{ROWS.texts()[12 * i].split('c_')[0]}c_") + 1 for i in range(len(PAPER_TASKS))]
    assert len(pack.tokens) == plain - 11 * sum(beginnings)
    assert int((pack.back >= len(pack.gather)).sum()) == 2 * sum(beginnings)


def test_a_query_sees_its_own_position_and_those_before() -> None:
    for pack in packs(ROWS.tokens, ROWS.lengths, ONES, Heads(1, 1)):
        index, done = pack.gather // 3, 0
        for block in pack.blocks:
            queries, keys = block.lines * block.queries, block.lines * block.keys
            asked = pack.position[index[done : done + queries]].view(block.lines, block.queries, 1)
            there = pack.position[index[done + queries : done + queries + keys]].view(block.lines, 1, -1)
            done += queries + 2 * keys
            # Places behind a line's end, where queries and keys hold any token, are left out.
            own = (asked[:, 1:] > asked[:, :-1]).cumprod(1).bool()
            ahead = there[:, :, 1:] > there[:, :, :-1]
            real = own & ahead.cumprod(2).bool()
            seen = block.mask[:, 0, 1:, 1:] == 0
            assert torch.equal(seen[real], (there[:, :, 1:] <= asked[:, 1:])[real])
            assert real.any()


def test_few_blocks_hold_rows_of_like_length() -> None:
    """A block has its price: fewer blocks than families, and not one for long and short rows alike."""
    (pack,) = packs(ROWS.tokens, ROWS.lengths, ONES, Heads(1, 1), budget=10**6)
    assert 1 < len(pack.blocks) < len(PAPER_TASKS)
    widths = [block.queries for block in pack.blocks]
    assert widths == sorted(set(widths))


def test_a_few_rows_never_share_an_id() -> None:
    twice = ROWS.take(np.array([0, 0]))
    (pack,) = packs(twice.tokens, twice.lengths, ONES[:2], Heads(1, 1))
    assert pack.blocks[0].begin == len("<dist(c_")


@pytest.mark.parametrize("first", [ONES, ROWS.answer_start])
def test_packs_filled_up_have_few_shapes_and_nothing_to_learn_from_the_filling(first: np.ndarray) -> None:
    plain = list(packs(ROWS.tokens, ROWS.lengths, first, Heads(2, 1), budget=500))
    filled = list(packs(ROWS.tokens, ROWS.lengths, first, Heads(2, 1), budget=500, multiple=64))
    assert len({len(pack.tokens) for pack in filled}) < len({len(pack.tokens) for pack in plain})
    for pack, whole in zip(plain, filled, strict=True):
        n, zeros = len(pack.tokens), sum(whole.sizes) - 1
        assert 0 < len(whole.tokens) - n <= 64
        assert len(whole.tokens) % 64 == len(whole.times) % 64 == 0
        assert torch.equal(whole.tokens[:n], pack.tokens)
        assert torch.equal(whole.times[: len(pack.times)], pack.times)
        assert not whole.times[len(pack.times) :].any()
        assert (whole.back[4 * n :] == zeros).all()
        assert (whole.back[: 4 * n] < zeros).all()
        assert whole.read is None or (whole.read[len(pack.times) :] == n).all()


def test_packs_keep_to_their_budget() -> None:
    made = list(packs(ROWS.tokens, ROWS.lengths, ONES, Heads(1, 1), budget=200))
    assert len(made) > 5
    sizes = [len(pack.tokens) for pack in made]
    assert max(sizes) < 2 * min(sizes)
    assert all(len(pack.tokens) <= 200 for pack in made)
    single = list(packs(ROWS.tokens[:1], ROWS.lengths[:1], ONES[:1], Heads(1, 1), budget=5))
    assert len(single) == 1
