"""Tables of arrays: what is taken, is taken of every array, and of nothing else."""

from dataclasses import dataclass

import numpy as np

from cwr_mech.data.entries import Entries


@dataclass(frozen=True)
class Table(Entries):
    name: str
    row: np.ndarray
    xy: np.ndarray
    missing: np.ndarray | None = None


def test_entries_are_taken_of_every_array() -> None:
    table = Table("all", np.arange(4), np.arange(8.0).reshape(4, 2))
    assert len(table) == 4
    for rows in (np.array([2, 0]), np.array([True, False, True, False]), slice(1, 3)):
        taken = table.take(rows)
        np.testing.assert_array_equal(taken.row, table.row[rows])
        np.testing.assert_array_equal(taken.xy, table.xy[rows])
        assert (taken.name, taken.missing, len(taken)) == ("all", None, 2)
    assert len(table) == 4  # control: the table itself is as it was
