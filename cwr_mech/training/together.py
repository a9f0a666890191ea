"""Train many runs of one shape as one batched model; each has the folder, and the resume, of a run by itself.

This process computes the steps (`cwr_mech.training.batched`). Worker processes own the run folders
(`cwr_mech.training.members`): they make rows and write files. Rows, schedule, update and files
are those of `cwr_mech.training.loop`, so a run begun here may be resumed alone and the other way round; the
gradient's sums have another order, so weights agree to rounding, not in every bit.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32

from cwr_mech.artifacts import folder_lock
from cwr_mech.config import RunConfig
from cwr_mech.errors import ConfigError
from cwr_mech.training.batched import ALIKE, BatchedModels, StepInput, Stepper, alike, rates_of
from cwr_mech.training.compute import Compute
from cwr_mech.training.loop import CPU, begun_run
from cwr_mech.training.members import BLOCK, Block, Remote, Vectors, begin_member, begin_worker, joined
from cwr_mech.training.runs import Run, load_run

Listener = Callable[[Mapping[str, Any]], None]
"""Called after every block with "models" (still trained), "step" (of the run furthest behind), "left" (steps
of all models together) and "rows_per_second"."""


class Job(NamedTuple):
    """A run to train: its settings, its folder, and the run whose last checkpoint it starts from."""

    config: RunConfig
    folder: Path
    base: Run | None = None


def train_together(
    jobs: Sequence[Job],
    *,
    resume: bool = False,
    compute: Compute = CPU,
    workers: int | None = None,
    listener: Listener | None = None,
) -> list[Run]:
    """Train runs whose models have one shape, and their optimizers one kind; return them finished.

    resume: runs that were begun go on, and finished ones are left as they are. workers: processes that make
    rows and write files (default: one a core, but one). A run whose loss is no longer a number is marked
    as diverged and left; the others go on.
    Raises as `train`, and ConfigError for runs that cannot be trained as one batch. An interruption loses the
    steps since the last state.
    """
    check_together([job.config for job in jobs])
    with ExitStack() as stack:
        runs = []
        for job in jobs:
            stack.enter_context(folder_lock(job.folder))
            begun = resume and (job.folder / "manifest.json").exists()
            runs.append(begun_run(job.config, job.folder, resume=begun, base=job.base))
        todo = [run for run in runs if run.state != "done"]
        if todo:
            count = min(len(todo), workers or max(1, len(os.sched_getaffinity(0)) - 1))
            # A fork of this process could not use the GPU's library; its server imports once for all workers.
            server = multiprocessing.get_context("forkserver")
            server.set_forkserver_preload([__name__])
            made = (ProcessPoolExecutor(1, server, begin_worker, (1,)) for _ in range(count))
            pools = [stack.enter_context(pool) for pool in made]
            members = [Remote(run, pools[i % count]) for i, run in enumerate(todo)]
            _Together(members, compute, listener).fit()
    return [load_run(run.folder) for run in runs]


def check_together(configs: Sequence[RunConfig]) -> None:
    """Raises ConfigError for runs that cannot be trained as one batch."""
    for config in configs:
        if config.route.changes:
            raise ConfigError(f"run {config.name} changes its gradients", "train it by itself")
        if config.model != configs[0].model:
            raise ConfigError(
                f"{configs[0].name} and {config.name} have different shapes", "train them apart"
            )
        for name, one, other in zip(ALIKE, alike(configs[0].train), alike(config.train), strict=True):
            if one != other:
                raise ConfigError(f"models trained together need one {name}", "train them apart")


class _Together:
    """The loop over blocks of steps."""

    def __init__(self, members: list[Remote], compute: Compute, listener: Listener | None) -> None:
        self.members, self.compute, self.listener = members, compute, listener
        self.width = 0
        self.told: list[Future[Any]] = []

    def fit(self) -> None:
        """Train every member to its end."""
        gradient = f"autograd, {len(self.members)} models together"
        described = {**self.compute.described(), "gradient": gradient, "processes": 1}
        try:
            started = [m.worker.submit(begin_member, m.run.folder, described) for m in self.members]
            vectors = [future.result() for future in started]
            for member, one in zip(self.members, vectors, strict=True):
                member.step = member.made = one.step
                self._tell(member, "arrive", one)  # what was due at a saved step may not have been written
                if one.step == member.steps:
                    self._end(member, "done")
            vectors = [one for one, member in zip(vectors, self.members, strict=True) if not member.ended]
            self.members = [member for member in self.members if not member.ended]
            if not self.members:
                self._collect(wait=True)
                return
            device = self.compute.device
            parts = [[getattr(one, name) for one in vectors] for name in ("values", "first", "second")]
            stacked = [torch.from_numpy(np.stack(part)).to(device) for part in parts]
            first = self.members[0].run.config
            models = BatchedModels(first.model, [m.run.config.train for m in self.members], *stacked)
            self._loop(self._stepper(models))
        except BaseException:
            for member in self.members:
                if not member.ended:
                    self._end(member, "interrupted")
            raise

    def _stepper(self, models: BatchedModels) -> Stepper:
        bfloat16 = self.compute.precision == "bfloat16"
        return Stepper(models, bfloat16=bfloat16, compiled=self.compute.compiled)

    def _loop(self, stepper: Stepper) -> None:
        given: StepInput | None = self._input(self.members)
        while given is not None:
            start, size = time.perf_counter(), len(given.rates)
            found = stepper.run(given)
            for member in self.members:
                member.step += size
            staying = [i for i, member in enumerate(self.members) if member.step < member.steps]
            following = self._input([self.members[i] for i in staying]) if staying else None
            losses, norms = (part.cpu().numpy() for part in found)  # waits for the device
            seconds = time.perf_counter() - start
            finite = np.isfinite(losses).all((0, 2)) & np.isfinite(norms).all(0)
            self._report(stepper.models, losses, norms, seconds, finite)
            kept = [i for i in staying if finite[i]]
            if following is not None and len(kept) < len(staying):
                among = [staying.index(i) for i in kept]
                following = StepInput(*(part[:, among] for part in following))
            if len(kept) < len(self.members):
                self.members = [self.members[i] for i in kept]
                settings = [member.run.config.train for member in self.members]
                if kept:
                    places = torch.tensor(kept, device=found[1].device)
                    stepper = self._stepper(stepper.models.keep(places, settings))
            given = following if kept else None
            self._collect(wait=given is None)

    def _input(self, members: Sequence[Remote]) -> StepInput:
        """Inputs of the steps until something is due for a member, at most a block, on the device."""
        n = min(BLOCK, *(member.until_due for member in members))
        blocks = [Block(*(part[:, None] for part in member.take(n))) for member in members]
        block = joined(blocks, axis=1)
        if len(members) < len(self.members):
            self.width = 0
        # A width that only grows: for each a graph is recorded anew, or compiled.
        self.width = width = max(self.width, block.tokens.shape[-1])
        tokens = np.pad(block.tokens, [(0, 0)] * 3 + [(0, width - block.tokens.shape[-1])])
        place = np.arange(width)
        counts = (place >= block.first[..., None]) & (place < block.lengths[..., None])
        rates = np.stack([rates_of(member.run.config.train, member.step, n) for member in members], axis=1)
        given = map(torch.from_numpy, (tokens, counts, rates.astype(np.float32)))
        return StepInput(*(part.to(self.compute.device, non_blocking=True) for part in given))

    def _report(
        self,
        models: BatchedModels,
        losses: Float32[np.ndarray, "step model row"],
        norms: Float32[np.ndarray, "step model"],
        seconds: float,
        finite: np.ndarray,
    ) -> None:
        """Tell the members what was computed, and hand over the models of those that write something now."""
        left = 0
        for i, member in enumerate(self.members):
            if not finite[i]:
                self._end(member, "diverged")
                continue
            self._tell(member, "record", losses[:, i].copy(), norms[:, i].copy(), seconds)
            left += member.steps - member.step
            if member.step in member.due:
                # Copies: they are sent by a thread, while the next steps change the models in place.
                vectors = (models.values[i], models.first[i], models.second[i])
                copies = (part.clone().cpu().numpy() for part in vectors)
                self._tell(member, "arrive", Vectors(member.step, *copies))
            if member.step == member.steps:
                self._end(member, "done")
        if self.listener:
            rows = losses.shape[0] * losses.shape[1] * losses.shape[2]
            step = min(member.step for member in self.members)
            about = {"models": len(self.members), "step": step, "left": left}
            self.listener({**about, "rows_per_second": rows / seconds})

    def _end(self, member: Remote, state: str) -> None:
        member.ended = True
        self._tell(member, "end", state)

    def _tell(self, member: Remote, what: str, *given: Any) -> None:
        self.told.append(member.call(what, *given))

    def _collect(self, *, wait: bool) -> None:
        """Raise what a member raised; with `wait` all of them have done what they were told."""
        left = [] if wait else [future for future in self.told if not future.done()]
        for future in self.told:
            if future not in left:
                future.result()
        self.told = left
