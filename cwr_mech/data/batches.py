"""Which rows a training step sees: a pure function of (settings, world, step), so a resume needs no state.

Training data is a list of parts (task, group of queries, number of rows or endless). Endless parts are
mixed in exact shares, fresh rows every step, other ones for every order seed. Finite parts are pooled; the
pool is the same for all order seeds and reshuffled every epoch, as in the paper.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from cwr_mech.config import DataConfig, Part
from cwr_mech.data.rows import Rows, Stream, concat
from cwr_mech.errors import ConfigError
from cwr_mech.world.cities import World

ROWS_PER_SEED = 1 << 36
"""Rows of an endless part that belong to one order seed: more than any training sees."""
STEPS_AHEAD = 32
"""A block of rows for every task takes as long to make as a dozen steps of a small model on a GPU."""


def parts_of(data: DataConfig) -> tuple[Part, ...]:
    """The parts a mixture is made of: those given, or one part a task of queries without new cities."""
    if data.parts:
        return data.parts
    weights = data.weights or (1.0,) * len(data.tasks)
    return tuple(
        Part(task=task, group="old", rows=data.rows_per_task, weight=weight)
        for task, weight in zip(data.tasks, weights, strict=True)
    )


@dataclass
class Batches:
    """`at(step)` gives the rows of a step. Steps may be asked for in any order; forward is cheapest."""

    data: DataConfig
    world: World
    batch_size: int
    order_seed: int = 0
    _streams: list[Stream] = field(init=False, repr=False)
    _pool: list[Rows] | None = field(init=False, repr=False, default=None)
    _epoch: tuple[int, np.ndarray] | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        """Raises ConfigError when the parts are of both kinds, or a share is under one row a batch."""
        self.parts = parts_of(self.data)
        finite = [part.rows is not None for part in self.parts]
        if any(finite) and not all(finite):
            raise ConfigError("either all parts of the data have a number of rows or none has")
        self._streams = [self._stream(part) for part in self.parts]
        weights = np.array([part.weight for part in self.parts])
        early = [part.task in self.data.first_tasks for part in self.parts]
        self.edges = _edges(weights)
        self.first_edges = _edges(weights * early) if any(early) else self.edges
        if all(finite):
            if self.data.first_steps:
                raise ConfigError("first_tasks are for endless rows; a fixed set is seen as a whole")
            pairs = zip(self._streams, self.parts, strict=True)
            # The parts are kept apart: to join them would hold the paper's seven million rows twice.
            self._pool = [_exactly(stream, part.rows) for stream, part in pairs if part.rows]
            self._ends = np.cumsum([len(rows) for rows in self._pool])
        elif self.batch_size * weights.min() / weights.sum() < 1:
            raise ConfigError(
                f"a batch of {self.batch_size} rows is too small for these {len(self.parts)} parts",
                "raise batch_size or the smallest weight",
            )

    def _stream(self, part: Part) -> Stream:
        return Stream(
            self.world,
            part.task,
            seed=self.data.seed,
            group=part.group,
            start=part.start,
            protocol=self.data.protocol,
            label_noise=self.data.label_noise,
            label_noise_kind=self.data.label_noise_kind,
        )

    @property
    def pool_rows(self) -> int | None:
        """Rows of the fixed set; None when rows are endless."""
        return None if self._pool is None else int(self._ends[-1])

    def counts(self, step: int) -> Sequence[int]:
        """Rows of each endless part in the batch of `step`: whole numbers that keep to the shares."""
        return (self._given(step + 1) - self._given(step)).tolist()

    def _given(self, step: int) -> Int[np.ndarray, " part"]:
        """Rows of each endless part used up before `step`."""
        first = min(step, self.data.first_steps) * self.batch_size * self.first_edges
        rest = max(step - self.data.first_steps, 0) * self.batch_size * self.edges
        return np.diff(np.floor(first + 1e-6).astype(np.int64) + np.floor(rest + 1e-6).astype(np.int64))

    def at(self, step: int) -> Rows:
        """The rows of one step (counted from 0)."""
        if self._pool is not None:
            return self._from_pool(self._pool, self._pooled(step * self.batch_size))
        starts, counts = self._given(step).tolist(), self.counts(step)
        taken = []
        for stream, part, start, n in zip(self._streams, self.parts, starts, counts, strict=True):
            stream.position = part.start + self.order_seed * ROWS_PER_SEED + start
            if n:
                taken.append(stream.take(n))
        return concat(taken)

    def _from_pool(self, pool: list[Rows], picked: Int[np.ndarray, " row"]) -> Rows:
        """Rows of the fixed set by their number in it."""
        part = np.searchsorted(self._ends, picked, side="right")
        taken, places = [], []
        for index in np.unique(part).tolist():
            mine = np.flatnonzero(part == index)
            places.append(mine)
            taken.append(pool[index].take(picked[mine] - self._ends[index] + len(pool[index])))
        return concat(taken).take(np.argsort(np.concatenate(places)))

    def _pooled(self, start: int) -> np.ndarray:
        """Pool indices `start` to `start + batch_size` of the endless sequence of shuffled epochs."""
        picked: list[np.ndarray] = []
        size, left = self.pool_rows or 0, self.batch_size
        while left:
            epoch, at = divmod(start, size)
            if self._epoch is None or self._epoch[0] != epoch:
                rng = np.random.default_rng(np.random.SeedSequence([self.data.seed, self.order_seed, epoch]))
                self._epoch = (epoch, rng.permutation(size))
            piece = self._epoch[1][at : at + left]
            picked.append(piece)
            start, left = start + len(piece), left - len(piece)
        return np.concatenate(picked)


def _edges(weights: Float[np.ndarray, " part"]) -> Float[np.ndarray, " edge"]:
    """Cumulated shares from 0 to exactly 1."""
    edges = np.concatenate([[0.0], np.cumsum(weights) / weights.sum()])
    edges[edges > 1 - 1e-12] = 1.0
    return edges


def _exactly(stream: Stream, n: int) -> Rows:
    """The next rows until there are `n`: under the reference's protocol some are drawn and dropped."""
    taken, missing = [], n
    while missing:
        taken.append(stream.take(missing))
        missing -= len(taken[-1])
    return concat(taken)


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
