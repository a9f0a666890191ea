"""Rows are made while steps before theirs are computed."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from cwr_mech.data.rows import Rows

STEPS_AHEAD = 32
"""A block of rows for every task takes as long to make as a dozen steps of a small model on a GPU."""


class Ahead:
    """`make(step)` for the steps from `first` to before `last`, one after another, made by a thread."""

    def __init__(self, make: Callable[[int], Rows], first: int, last: int) -> None:
        self._make, self._steps = make, iter(range(first, last))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rows")
        self._begun: deque[Future[Rows]] = deque()

    def next(self) -> Rows:
        """The rows of the next step; raises what making them raised."""
        while len(self._begun) <= STEPS_AHEAD and (step := next(self._steps, None)) is not None:
            self._begun.append(self._thread.submit(self._make, step))
        return self._begun.popleft().result()

    def close(self) -> None:
        """Let the thread end; rows under way are dropped."""
        self._thread.shutdown(wait=False, cancel_futures=True)
