"""Members of a training of many runs as one model (`cwr_mech.training.together`), in processes of their own.

A `Member` owns a run folder: it makes the rows of the steps, which another process computes, and writes
metrics, checkpoints, answers scored on the way and states. A `Remote` is a member as that process sees it.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int32, UInt8
from torch import Tensor

from cwr_mech.data.rows import Rows
from cwr_mech.training.loop import Trainer, checkpoint_steps
from cwr_mech.training.runs import Run, load_run

BLOCK = 64
"""Steps whose rows are made, and computed, at once."""
BLOCKS_AHEAD = 6
"""A worker that scores answers makes no rows: these bridge the time."""


class Block(NamedTuple):
    """Rows of some steps, as `Rows` has them, the steps first; `first`: where predictions begin."""

    tokens: UInt8[np.ndarray, "step row pos"]
    lengths: Int32[np.ndarray, "step row"]
    first: Int32[np.ndarray, "step row"]


class Vectors(NamedTuple):
    """A model's parameters and moments in the order of FlatParameters (`BatchedModels`), after `step`."""

    step: int
    values: Float32[np.ndarray, " parameter"]
    first: Float32[np.ndarray, " parameter"]
    second: Float32[np.ndarray, " parameter"]


class Member(Trainer):
    """A training whose steps another process computes: it makes the rows and writes the files."""

    def __init__(self, run: Run, described: dict[str, Any]) -> None:
        self.described = described
        super().__init__(run)
        self.given: dict[int, tuple[Rows, Int32[np.ndarray, " row"]]] = {}
        self._mark("running", computed=self._computed())

    def _described(self) -> dict[str, Any]:
        return self.described

    def vectors(self) -> Vectors:
        """Where the training stands."""
        first, second = (np.zeros(self.flat.values.shape[0], np.float32) for _ in range(2))
        for _, optimizer, part in self.optimizer.parts():
            for name, vector in (("exp_avg", first), ("momentum_buffer", first), ("exp_avg_sq", second)):
                if name in optimizer.state[part]:
                    _like(torch.from_numpy(vector), part).copy_(optimizer.state[part][name])
        return Vectors(self.step, self.flat.values.numpy().copy(), first, second)

    def arrive(self, vectors: Vectors) -> None:
        """Take the model as it is at the member's step, and write what is due."""
        tensors = {"values": torch.from_numpy(vectors.values)}
        first, second = torch.from_numpy(vectors.first), torch.from_numpy(vectors.second)
        for prefix, _, part in self.optimizer.parts():
            if prefix.startswith("muon"):
                tensors[f"{prefix}momentum_buffer"] = _like(first, part)
            elif self.step:
                tensors[f"{prefix}step"] = torch.tensor(float(self.step))
                tensors[f"{prefix}exp_avg"] = _like(first, part)
                tensors[f"{prefix}exp_avg_sq"] = _like(second, part)
        self.optimizer.load_state(tensors)
        self._write_due(self.step == self.train.steps)

    def rows(self, start: int, n: int) -> Block:
        """The rows of the steps from `start` on; they are held until `record` is told their losses."""
        for step in range(start, start + n):
            rows = self.batches.at(step)
            answers = self.train.loss == "answer"
            self.given[step] = rows, rows.answer_start if answers else np.ones_like(rows.lengths)
        blocks = [self.given[step] for step in range(start, start + n)]
        width = max(int(rows.lengths.max()) for rows, _ in blocks)
        tokens = np.zeros((n, self.train.batch_size, width), np.uint8)
        for place, (rows, _) in zip(tokens, blocks, strict=True):
            place[:, : rows.tokens.shape[1]] = rows.tokens[:, :width]
        lengths, first = np.stack([rows.lengths for rows, _ in blocks]), np.stack([one for _, one in blocks])
        return Block(tokens, lengths, first)

    def record(
        self, losses: Float32[np.ndarray, "step row"], norms: Float32[np.ndarray, " step"], seconds: float
    ) -> None:
        """Steps were computed, in `seconds`: write the metrics lines that are due."""
        for row, norm in zip(losses, norms.tolist(), strict=True):
            self.meter.begin(seconds / len(losses))
            rows, first = self.given.pop(self.step)
            self.step += 1
            self.meter.add(rows, row, norm, first)
            self._tell()

    def end(self, state: str) -> None:
        """The training is over, for this reason."""
        if state == "done":
            self.finish()
        else:
            self._mark(state)


def _like(flat: Tensor, part: Tensor) -> Tensor:
    """The numbers of a vector in the order of FlatParameters that stand where `part` stands in the values."""
    return torch.as_strided(flat, part.shape, part.stride(), part.storage_offset())


_members: dict[str, Member] = {}
"""In a worker process: the members it has, by folder."""


def begin_worker(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that computes says when to stop
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for it for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def begin_member(folder: Path, described: dict[str, Any]) -> Vectors:
    member = _members[str(folder)] = Member(load_run(folder), described)
    return member.vectors()


def _call(folder: Path, what: str, *given: Any) -> Any:
    return getattr(_members[str(folder)], what)(*given)


@dataclass
class Remote:
    """A member as the computing process sees it."""

    run: Run
    worker: ProcessPoolExecutor
    step: int = 0
    ahead: deque[Future[Block]] = field(default_factory=deque)
    made: int = 0
    """The step up to which rows are asked for."""
    block: Block | None = None
    ended: bool = False

    def __post_init__(self) -> None:
        train = self.run.config.train
        self.steps = train.steps
        every = {*range(0, train.steps, train.save_every), *range(0, train.steps, train.eval_every)}
        self.due = every | checkpoint_steps(train.steps, train.checkpoints)

    @property
    def until_due(self) -> int:
        """Steps until it writes something."""
        return min(due for due in self.due if due > self.step) - self.step

    def call(self, what: str, *given: Any) -> Future[Any]:
        """Ask the member for something; it does one thing after another."""
        return self.worker.submit(_call, self.run.folder, what, *given)

    def take(self, n: int) -> Block:
        """The rows of the next `n` steps."""
        taken: list[Block] = []
        while n:
            while len(self.ahead) < BLOCKS_AHEAD and self.made < self.steps:
                size = min(BLOCK, self.steps - self.made)
                self.ahead.append(self.call("rows", self.made, size))
                self.made += size
            block = self.block or self.ahead.popleft().result()
            few = min(n, len(block.tokens))
            taken.append(Block(*(part[:few] for part in block)))
            left = Block(*(part[few:] for part in block))
            self.block = left if len(left.tokens) else None
            n -= few
        return joined(taken, axis=0)


def joined(blocks: Sequence[Block], axis: int) -> Block:
    """Blocks along an axis, padded to the widest."""
    width = max(block.tokens.shape[-1] for block in blocks)
    pads = [[(0, 0)] * (block.tokens.ndim - 1) + [(0, width - block.tokens.shape[-1])] for block in blocks]
    tokens = [np.pad(block.tokens, pad) for block, pad in zip(blocks, pads, strict=True)]
    rest = (np.concatenate([block[i] for block in blocks], axis) for i in (1, 2))
    return Block(np.concatenate(tokens, axis), *rest)
