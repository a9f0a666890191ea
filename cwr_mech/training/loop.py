"""The training loop: batches, step, metrics, checkpoints, and a resume that is exact to the bit.

Every number a step depends on follows from the settings, the step and the saved state, so a run that was
killed and resumed has the same weights, bit for bit, as one that was not (on the CPU, with the same number
of threads and processes).
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cwr_mech.artifacts import disk_errors, folder_lock, sha256_file, sweep_parts
from cwr_mech.config import RunConfig
from cwr_mech.data.batches import Ahead, Batches, parts_of
from cwr_mech.data.rows import Places, Rows
from cwr_mech.errors import ConfigError, ProcessLost, TrainingDiverged
from cwr_mech.model.evaluation import evaluate
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.registry import ordered
from cwr_mech.training.autograd import AutogradEngine
from cwr_mech.training.begin import create_run, update_manifest
from cwr_mech.training.compute import Compute
from cwr_mech.training.distributed import Processes
from cwr_mech.training.engine import Engine, GradientHook
from cwr_mech.training.meter import Meter
from cwr_mech.training.optimizer import Optimizer, rate_at
from cwr_mech.training.parameters import FlatParameters, check_trainable
from cwr_mech.training.runs import Run, checkpoint_path, load_run
from cwr_mech.training.state import TrainingState, recover_state, remove_states, write_state

METRICS_LINES = 1000
"""About as many metrics lines are written, evenly spaced, whatever the number of steps."""
EVENT_SECONDS = 0.5
"""A listener hears of the training at most this often between metrics lines."""

Listener = Callable[[Mapping[str, Any]], None]
"""Called with the metrics lines as they are written, and with the same averages more often in between."""
RowsHook = Callable[[Rows], GradientHook]
"""Given the rows of a step, makes the function that may change the gradient at each layer's input."""

CPU, ALONE = Compute(), Processes()


def checkpoint_steps(steps: int, checkpoints: int) -> frozenset[int]:
    """Steps at which the model is kept: 0, the last, and `checkpoints` log-spaced ones from 1 % on."""
    between = np.geomspace(max(1.0, steps / 100), steps, checkpoints + 1)[:-1]
    return frozenset({0, steps, *np.rint(between).astype(int).tolist()})


def train(
    config: RunConfig,
    folder: Path | str,
    *,
    resume: bool = False,
    base: Run | None = None,
    begun: Callable[[Run], None] | None = None,
    listener: Listener | None = None,
    hook: RowsHook | None = None,
    compute: Compute = CPU,
    processes: Processes = ALONE,
) -> Run:
    """Train the model that `config` describes and return its finished run.

    base: start from this run's last checkpoint instead of a fresh draw (a resume has it in its folder).
    begun: called when the folder is locked and its run can be trained.
    hook: see RowsHook; a config whose route changes gradients needs it. compute, processes: a resume
    of the same run may have others. Every process calls this function; the main one alone writes and has a
    listener. With `resume` a finished run is returned as it is.
    Raises ArtifactExists, ArtifactLocked, MissingArtifact, CorruptArtifact, ConfigError, NoSpace, and
    TrainingDiverged when the loss or the gradient is no longer a number. On KeyboardInterrupt, and on
    ProcessLost, the state is saved and the exception goes on.
    """
    if config.route.changes and hook is None:
        raise ConfigError(
            f"run {config.name} changes its gradients ('{config.route.name}') and has no hook to do so",
            "go on with the cwr-mech finetune command that began it, and --resume",
        )
    folder = load_run(folder).folder if resume else Path(folder)
    with folder_lock(folder) if processes.is_main else nullcontext():
        run = begun_run(config, folder, resume=resume, base=base, processes=processes)
        if run.state == "done":
            return run
        if begun:
            begun(run)
        return Trainer(run, listener, hook, compute, processes).fit()


def begun_run(
    config: RunConfig, folder: Path, *, resume: bool, base: Run | None, processes: Processes = ALONE
) -> Run:
    """The run in a locked folder, begun now or before; it may be done. Raises as `train`."""
    if processes.is_main:
        sweep_parts(folder, deep=True)
        if not resume:
            step = base.last_step if base else None  # the base may be trained on meanwhile
            create_run(folder, config, _first_model(config, base, step), base, step)
    processes.wait()
    run = load_run(folder)
    if not run.has_settings(config):
        raise ConfigError(f"{folder} was begun with other settings", "resume without --set and --preset")
    if run.state == "done":
        if processes.is_main:
            remove_states(folder)
        run.checkpoint()  # nothing is left to do, unless the last one was taken away
    if run.state == "diverged":
        raise TrainingDiverged(f"run {run.name} diverged, and would again", "train anew with a lower lr")
    return run


def _first_model(config: RunConfig, base: Run | None, step: int | None) -> HookedQwen2:
    if base is None:
        return HookedQwen2(config.model, seed=config.train.seed)
    check_trainable(base.config.model)
    if base.config.model != config.model:
        raise ConfigError(f"run {base.name} has a model of another shape than the settings say")
    return base.model(step)


class Trainer:
    """One model being trained in a run folder whose lock the main process holds."""

    def __init__(
        self,
        run: Run,
        listener: Listener | None = None,
        hook: RowsHook | None = None,
        compute: Compute = CPU,
        processes: Processes = ALONE,
    ) -> None:
        self.run, self.hook = run, hook
        self.listener = listener if processes.is_main else None
        self.compute, self.processes = compute, processes
        self.config, self.train = run.config, run.config.train
        processes.check_batch(self.train.batch_size)
        self.world = run.world()
        self.batches = Batches(self.config.data, self.world, self.train.batch_size, self.train.seed)
        self.model = run.model(0).to(compute.device)
        self.flat = FlatParameters(self.config.model, compute.device)
        self.flat.load(self.model)
        self.optimizer = Optimizer(self.flat, self.train)
        self.keep = checkpoint_steps(self.train.steps, self.train.checkpoints)
        self.line_every = math.ceil(self.train.steps / METRICS_LINES)
        self.metrics = run.folder / "metrics.jsonl"
        self.step, self.saved, self.metrics_length, seconds = self._restore()
        self.ahead = Ahead(self.batches.at, self.step, self.train.steps)
        self.meter = Meter(self.train.steps, self.train.batch_size, seconds)
        self.last_event = time.monotonic()
        self.whole = True
        """Whether parameters, moments and metrics are those of `step`, not in the middle of an update."""

    @cached_property
    def engine(self) -> Engine | AutogradEngine:
        """What computes loss and gradient; a `Member`, whose steps another process computes, has none."""
        return self.compute.engine(self.flat)

    def _restore(self) -> tuple[int, int, int, float]:
        """Load the newest whole state; returns its step, the step last saved (-1: none), the length of the
        metrics up to it, and its seconds.
        """
        state = recover_state(self.run.folder)
        length = state.metrics_length if state else 0
        if self.processes.is_main:
            with open(self.metrics, "a+b") as metrics:  # lines after the state are of steps to be done again
                length = min(length, metrics.tell())
                metrics.truncate(length)
        if state is None:
            return 0, -1, length, 0.0
        self.optimizer.load_state(state.tensors)
        return state.step, state.step, length, state.seconds

    def fit(self) -> Run:
        """Train to the last step."""
        self._mark("running", computed=self._computed())
        try:
            self._loop()
        except (KeyboardInterrupt, ProcessLost):
            if self.processes.is_main and self.whole and self.step != self.saved:
                self._save_state()
            self._mark("interrupted")
            raise
        except TrainingDiverged:
            self._mark("diverged")
            raise
        finally:
            self.ahead.close()
        self.finish()
        self.processes.wait()
        return load_run(self.run.folder)

    def finish(self) -> None:
        """All steps are done."""
        self._mark("done")
        if self.processes.is_main:
            remove_states(self.run.folder)

    def _mark(self, state: str, **changes: Any) -> None:
        """Say in the manifest how the run stands."""
        if self.processes.is_main:
            self.run = update_manifest(self.run, state=state, **changes)

    def _computed(self) -> list[dict[str, Any]]:
        """What computed the run so far, from which step on; a new entry where something changes."""
        now = self._described()
        known = list(self.run.manifest.get("computed", []))
        while known and known[-1]["from_step"] >= self.step:
            known.pop()
        before = {key: value for key, value in known[-1].items() if key != "from_step"} if known else None
        return known if now == before else [*known, {"from_step": self.step, **now}]

    def _described(self) -> dict[str, Any]:
        return {**self.compute.described(), "processes": self.processes.count}

    def _loop(self) -> None:
        """What is due at a step (state, checkpoint, answers) is done before the next one begins.

        The state comes first: whoever goes on from it does the rest again, whether it was done or not.
        """
        while True:
            last = self.step == self.train.steps
            if self.processes.is_main:
                self._write_due(last)
            if last:
                return
            self._advance()

    def _write_due(self, last: bool) -> None:
        if last and self.train.final_dtype == "float16":
            self.flat.values.copy_(self.flat.values.half())
            self.optimizer.restore()
        if self.step and self.step != self.saved and (last or self.step % self.train.save_every == 0):
            self._save_state()
        if self.step in self.keep:
            self._checkpoint()
        if last or (self.step and self.step % self.train.eval_every == 0):
            self._evaluate()

    def _advance(self) -> None:
        """One step: rows, gradient, update, metrics."""
        self.meter.begin()
        rows = self.ahead.next()
        self.meter.data_ready()
        first = rows.answer_start if self.train.loss == "answer" else np.ones_like(rows.lengths)
        # A GPU is waited for here, once a step: what is not a number must never reach the weights.
        losses = self._gradient(rows, first).cpu().numpy()
        norm = self.optimizer.norm()
        if not (np.isfinite(losses).all() and math.isfinite(norm)):
            raise TrainingDiverged(
                f"the loss of run {self.run.name} is no longer a number after step {self.step}",
                f"checkpoints up to then are kept in {self.run.folder}; train anew with a lower lr",
            )
        self.whole = False
        self.optimizer.step(self.step, norm)
        self.step += 1
        self.meter.add(rows, losses, norm, first)
        self._tell()

    def _gradient(self, rows: Rows, first: Places) -> Float[Tensor, " row"]:
        """Add up the gradient of a batch, of which each process computes a share; returns each row's loss."""
        processes, share = self.processes, self.processes.share()
        total = float((rows.lengths - first).sum())
        shown = self.hook(rows) if self.hook else None
        hook = shown and (lambda layer, grad, x, which: shown(layer, grad, x, processes.in_batch(which)))
        losses = torch.zeros(len(rows), device=self.compute.device)
        mine = rows.tokens[share], rows.lengths[share], first[share]
        losses[share] = self.engine.batch(*mine, total, hook)
        processes.add_up(self.flat.grads, losses)
        return losses

    def _tell(self) -> None:
        """Write a metrics line if one is due, which makes the step whole, and tell the listener."""
        due = self.step % self.line_every == 0 or self.step == self.train.steps
        if due and self.processes.is_main:
            self._write_line(self._report())
            self.metrics_length = self.metrics.stat().st_size
        self.whole = True
        if self.listener and (due or time.monotonic() - self.last_event >= EVENT_SECONDS):
            self.last_event = time.monotonic()
            self.listener(self._report())
        if due:
            self.meter.clear()

    def _report(self) -> dict[str, Any]:
        return self.meter.report(self.step, rate_at(self.train, self.step - 1))

    def _write_line(self, record: Mapping[str, Any]) -> None:
        with disk_errors(self.metrics), open(self.metrics, "a", encoding="utf-8") as metrics:
            metrics.write(json.dumps(record, allow_nan=False) + "\n")

    def _current_model(self) -> HookedQwen2:
        self.flat.store(self.model)
        return self.model.eval()

    def _checkpoint(self) -> None:
        path = checkpoint_path(self.run.folder, self.step)
        self._current_model().save_pretrained(path)
        known = {**self.run.manifest["checkpoints"], str(self.step): sha256_file(path / "model.safetensors")}
        self.run = update_manifest(self.run, checkpoints=known)

    def _save_state(self) -> None:
        with open(self.metrics, "ab") as metrics:
            os.fsync(metrics.fileno())
        state = TrainingState(self.step, self.metrics_length, self.meter.seconds, self.optimizer.state())
        write_state(self.run.folder, state)
        self.saved = self.step

    def _evaluate(self) -> None:
        """Write a line with the score of every trained task on validation questions.

        "scores" are on training cities; fine-tuned runs have "scores_new" besides, on those they are taught.
        """
        record = {
            "step": self.step,
            "steps": self.train.steps,
            "rows": self.step * self.train.batch_size,
            "scores": self._scores("old"),
        }
        if scores := self._scores("new"):
            record["scores_new"] = scores
        record["seconds"] = self.meter.seconds
        self._write_line(record)
        if self.listener:
            self.listener(record)

    def _scores(self, group: str) -> dict[str, float]:
        parts = parts_of(self.config.data)
        tasks = {part.task for part in parts if group == "old" or part.group != "old"}
        answered = evaluate(
            self._current_model(),
            self.world,
            ordered(tasks),
            self.train.eval_rows,
            group=group,
            split="val",
            seed=self.config.data.seed,
            protocol=self.config.data.protocol,
        )
        return {score.task: score.value_mean for score in answered.scores}
