"""What a training reports between two metrics lines: mean losses, rates, and where the time went."""

import time
from operator import truediv
from typing import Any

import numpy as np
from jaxtyping import Float32

from cwr_mech.data.rows import Places, Rows
from cwr_mech.tasks.registry import TASKS, ordered


class Meter:
    """Adds up steps. Rates count the time between `begin` and `add` only, not checkpoints and answers."""

    def __init__(self, steps: int, batch_size: int, seconds: float = 0.0) -> None:
        """`seconds`: time that earlier sessions of the same run took."""
        self.total_steps, self.batch_size, self._before = steps, batch_size, seconds
        self._start = time.perf_counter()
        self.clear()

    @property
    def seconds(self) -> float:
        """Time this run has taken so far, all sessions and everything they did."""
        return self._before + time.perf_counter() - self._start

    def clear(self) -> None:
        """Begin a new average."""
        self._loss = self._count = self._norm = 0.0
        self._by_task: dict[str, list[float]] = {}
        self._steps = self._rows = self._tokens = 0
        self._data_seconds = self._step_seconds = 0.0

    def begin(self, seconds: float = 0.0) -> None:
        """A step begins, or began `seconds` ago."""
        self._began = time.perf_counter() - seconds

    def data_ready(self) -> None:
        """Its rows are there."""
        self._data_seconds += time.perf_counter() - self._began

    def add(self, rows: Rows, losses: Float32[np.ndarray, " row"], norm: float, first: Places) -> None:
        """A step is done; `losses` are each row's sum over its predicted tokens, `first` where they begin."""
        predicted = rows.lengths - first
        for index in np.unique(rows.task):
            mine = rows.task == index
            sums = self._by_task.setdefault(TASKS.at(int(index)).name, [0.0, 0.0])
            sums[0] += float(losses[mine].sum())
            sums[1] += float(predicted[mine].sum())
        self._loss += float(losses.sum())
        self._count += float(predicted.sum())
        self._norm += norm
        self._steps += 1
        self._rows += len(rows)
        self._tokens += int(rows.lengths.sum())
        self._step_seconds += time.perf_counter() - self._began

    def report(self, step: int, lr: float) -> dict[str, Any]:
        """A metrics line: averages over the steps since `clear`. Losses are nats a predicted token."""
        return {
            "step": step,
            "steps": self.total_steps,
            "rows": step * self.batch_size,
            "loss": self._loss / self._count,
            "losses": {task: truediv(*self._by_task[task]) for task in ordered(self._by_task)},
            "lr": lr,
            "grad_norm": self._norm / self._steps,
            "rows_per_second": self._rows / self._step_seconds,
            "tokens_per_second": self._tokens / self._step_seconds,
            "data_share": self._data_seconds / self._step_seconds,
            "seconds": self.seconds,
        }
