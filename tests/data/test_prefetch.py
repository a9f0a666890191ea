"""Rows made ahead are those asked for, and none are made for nothing."""

import threading

import pytest

from cwr_mech.config import WorldConfig
from cwr_mech.data.batches import STEPS_AHEAD, Ahead
from cwr_mech.data.rows import Rows, generate
from cwr_mech.world.cities import load_world

STEPS = 2 * STEPS_AHEAD
ROWS = generate(load_world(WorldConfig(n_cities=24)), "distance", STEPS)


def one(step: int) -> Rows:
    return ROWS.take(slice(step, step + 1))


def test_rows_come_in_order_from_another_thread_each_made_once() -> None:
    made: list[tuple[int, int]] = []

    def make(step: int) -> Rows:
        made.append((step, threading.get_ident()))
        return one(step)

    ahead = Ahead(make, 5, STEPS)
    assert [ahead.next().text(0) for _ in range(5, STEPS)] == ROWS.texts()[5:]
    ahead.close()
    assert [step for step, _ in made] == list(range(5, STEPS))
    assert threading.get_ident() not in {thread for _, thread in made}


def test_rows_are_made_before_they_are_asked_for_but_not_too_many() -> None:
    far, too_far = threading.Event(), threading.Event()

    def make(step: int) -> Rows:
        if step == STEPS_AHEAD:
            far.set()
        if step > STEPS_AHEAD:
            too_far.set()
        return one(step)

    ahead = Ahead(make, 0, STEPS)
    ahead.next()
    assert far.wait(10)
    ahead.close()
    assert not too_far.is_set()


def test_what_goes_wrong_is_told_at_its_step() -> None:
    def make(step: int) -> Rows:
        if step == 1:
            raise ValueError("no such row")
        return one(step)

    ahead = Ahead(make, 0, STEPS)
    assert ahead.next().text(0) == ROWS.text(0)
    with pytest.raises(ValueError, match="no such row"):
        ahead.next()
    ahead.close()
