"""Rows are made while the step before them is computed."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from cwr_mech.dataset import Rows


class Ahead:
    """`make(step)` for steps asked for one after another, each made in a thread during the one before."""

    def __init__(self, make: Callable[[int], Rows], steps: int) -> None:
        """steps: how many there are; no more are made."""
        self.make, self.steps = make, steps
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rows")
        self._begun: dict[int, Future[Rows]] = {}

    def at(self, step: int) -> Rows:
        """The rows of a step; raises what making them raised."""
        made = self._begun.pop(step, None) or self._thread.submit(self.make, step)
        rows = made.result()
        if step + 1 < self.steps:
            self._begun[step + 1] = self._thread.submit(self.make, step + 1)
        return rows

    def close(self) -> None:
        """Let the thread end; rows under way are dropped."""
        self._thread.shutdown(wait=False, cancel_futures=True)
