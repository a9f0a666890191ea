"""Packs hold every prediction once and every shared beginning once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cwr_mech.config import WorldConfig
from cwr_mech.data.rows import concat, generate
from cwr_mech.tasks.registry import PAPER_TASKS
from cwr_mech.training.packing import Heads, Pack, packs
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
        n = len(pack.tokens)
        assert np.array_equal(pack.gather[pack.back], np.arange(n * (h + 2 * kv)))
        assert np.array_equal(pack.z_gather[pack.z_back], np.arange(n * h))
        queries = sum(block.rows * block.queries for block in pack.blocks)
        keys = sum(block.rows * block.keys for block in pack.blocks)
        assert len(pack.gather) == queries * h + 2 * keys * kv
        assert len(pack.z_gather) == queries * h


def test_what_rows_share_is_laid_out_once() -> None:
    (pack,) = packs(ROWS.tokens, ROWS.lengths, ONES, Heads(1, 1), budget=10**6)
    plain = int((ROWS.lengths - 1).sum())
    beginnings = {
        task: len(f"{ROWS.texts()[12 * i].split('c_')[0]}c_") + 1 for i, task in enumerate(PAPER_TASKS)
    }
    assert len(pack.tokens) == plain - 11 * sum(beginnings.values())
    assert [block.offset for block in pack.blocks] == [
        0,
        *(beginnings[task] for task in _by_token(beginnings)),
    ]


def test_a_few_rows_never_share_an_id() -> None:
    twice = ROWS.take(np.array([0, 0]))
    (pack,) = packs(twice.tokens, twice.lengths, ONES[:2], Heads(1, 1))
    assert pack.blocks[1].offset == len("<dist(c_")


def _by_token(names: dict[str, int]) -> list[str]:
    """Task names in the order of the tokens of their prefixes."""
    prefix = {task: ROWS.tokens[12 * i, :4].tolist() for i, task in enumerate(PAPER_TASKS)}
    return sorted(names, key=lambda task: prefix[task])


def test_packs_keep_to_their_budget() -> None:
    made = list(packs(ROWS.tokens, ROWS.lengths, ONES, Heads(1, 1), budget=200))
    assert len(made) > 5
    assert all(len(pack.tokens) <= 200 for pack in made)
    single = list(packs(ROWS.tokens[:1], ROWS.lengths[:1], ONES[:1], Heads(1, 1), budget=5))
    assert len(single) == 1
