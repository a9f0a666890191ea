"""The kinds of rows that share a task's rows equally: what balancing means, task by task."""

from dataclasses import dataclass

from cwr_mech.config import Protocol
from cwr_mech.tasks.registry import Task


@dataclass(frozen=True)
class Cell:
    """One kind of row: its numbers of cities, its label (any when None), and how often a draw fits, roughly.

    The rate only sets how many queries are drawn at once; it was measured on the shipped world.
    """

    sizes: tuple[int, ...]
    label: int | None = None
    rate: float = 1.0


def cells(task: Task, protocol: Protocol) -> tuple[Cell, ...]:
    """The cells that share the rows of a task equally.

    inside: TRUE and FALSE for every number of hull points; or, as in the reference, TRUE and FALSE only,
    with the number of hull points drawn first, so that large hulls are over-represented among TRUE.
    crossing: TRUE and FALSE. perimeter: every number of cities. The others have one cell.
    """
    sizes = tuple(range(task.n_min, task.n_max + 1))
    if task.name == "crossing":
        return Cell(sizes, 0, 0.77), Cell(sizes, 1, 0.23)
    if task.name == "inside" and not protocol.inside_balance_within_n:
        return Cell(sizes, 0, 0.83), Cell(sizes, 1, 0.17)
    if task.name == "inside":
        rates = dict(zip(sizes, (0.09, 0.17, 0.25), strict=True))
        return tuple(
            Cell((size,), label, rate if label else 1 - rate)
            for size, rate in rates.items()
            for label in (0, 1)
        )
    return tuple(Cell((size,)) for size in sizes)
