"""Rows made ahead are those asked for, and none are made for nothing."""

import threading

import pytest

from cwr_mech.ahead import Ahead
from cwr_mech.config import WorldConfig
from cwr_mech.dataset import Rows, generate
from cwr_mech.world import load_world

ROWS = generate(load_world(WorldConfig(n_cities=24)), "distance", 6)


def one(step: int) -> Rows:
    return ROWS.take(slice(step, step + 1))


def test_rows_come_in_order_from_another_thread_each_made_once() -> None:
    made: list[tuple[int, int]] = []

    def make(step: int) -> Rows:
        made.append((step, threading.get_ident()))
        return one(step)

    ahead = Ahead(make, 6)
    assert [ahead.at(step).text(0) for step in range(2, 6)] == ROWS.texts()[2:]
    ahead.close()
    assert [step for step, _ in made] == [2, 3, 4, 5]
    assert threading.get_ident() not in {thread for _, thread in made}


def test_the_next_rows_are_begun_before_they_are_asked_for() -> None:
    begun = threading.Event()

    def make(step: int) -> Rows:
        if step == 1:
            begun.set()
        return one(step)

    ahead = Ahead(make, 2)
    ahead.at(0)
    assert begun.wait(10)
    ahead.close()


def test_what_goes_wrong_is_told_to_who_asks() -> None:
    def make(step: int) -> Rows:
        if step == 1:
            raise ValueError("no such row")
        return one(step)

    ahead = Ahead(make, 3)
    assert ahead.at(0).text(0) == ROWS.text(0)
    with pytest.raises(ValueError, match="no such row"):
        ahead.at(1)
    ahead.close()
