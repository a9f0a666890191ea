"""The training loop: batches, step, metrics, checkpoints, and a resume that is exact to the bit.

Every number a step depends on follows from the settings, the step and the saved state, so a run that was
killed and resumed has the same weights, bit for bit, as one that was not (on the CPU, with the same number
of threads).
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cwr_mech.artifacts import folder_lock, sha256_file, sweep_parts
from cwr_mech.batches import Batches, parts_of
from cwr_mech.config import TASK_NAMES, RunConfig
from cwr_mech.dataset import Rows
from cwr_mech.engine import Engine, FlatParameters, GradientHook, MicroBatch
from cwr_mech.errors import ConfigError, TrainingDiverged
from cwr_mech.evaluation import evaluate
from cwr_mech.model import HookedQwen2
from cwr_mech.optimizer import Optimizer, rate_at
from cwr_mech.runs import Run, checkpoint_path, create_run, load_run, update_manifest
from cwr_mech.training_state import read_state, write_state

LOG_SECONDS = 2.0
"""At most one metrics line, and one event, in this time."""

Listener = Callable[[Mapping[str, Any]], None]
"""Called with {"step", "steps", "rows", "loss", ...} while training runs; see `Trainer.fit`."""


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
    listener: Listener | None = None,
    hook: Callable[[Rows], GradientHook] | None = None,
) -> Run:
    """Train the model that `config` describes and return its finished run.

    base: start from this run's last checkpoint instead of a fresh draw. hook: given a step's rows, makes the
    function that may change the gradient flowing back into each layer's input.
    Raises ArtifactExists, ArtifactLocked, CorruptArtifact, ConfigError, NoSpace; TrainingDiverged when the
    loss is no longer a number. On KeyboardInterrupt the state is saved and the exception goes on.
    """
    folder = Path(folder)
    with folder_lock(folder):
        sweep_parts(folder)
        run = load_run(folder) if resume else create_run(folder, config, base)
        if resume and run.config != config:
            raise ConfigError(f"{folder} was begun with other settings", "resume without --set and --preset")
        if run.state == "done":
            return run
        return Trainer(run, base, listener, hook).fit()


class Trainer:
    """One model being trained in a run folder whose lock the caller holds."""

    def __init__(
        self,
        run: Run,
        base: Run | None,
        listener: Listener | None,
        hook: Callable[[Rows], GradientHook] | None,
    ) -> None:
        self.run, self.listener, self.hook = run, listener, hook
        self.config, self.train = run.config, run.config.train
        self.world = run.world()
        self.batches = Batches(self.config.data, self.world, self.train.batch_size)
        self.model = base.model() if base else HookedQwen2(self.config.model, seed=self.train.seed)
        if self.model.config != self.config.model:
            raise ConfigError("the base model has another shape than the settings say")
        self.flat = FlatParameters(self.config.model)
        self.flat.load(self.model)
        self.engine = Engine(self.flat)
        self.optimizer = Optimizer(self.flat, self.train)
        self.keep = checkpoint_steps(self.train.steps, self.train.checkpoints)
        self.step = 0
        self._lines: list[str] = []
        self._restore()

    def _restore(self) -> None:
        found = read_state(self.run.folder)
        path = self.run.folder / "metrics.jsonl"
        if found is None:
            path.unlink(missing_ok=True)
            return
        self.step, length, tensors = found
        self.optimizer.load_state(tensors)
        with open(path, "a+b") as metrics:  # lines written after the state belong to steps done again
            metrics.truncate(length)

    def fit(self) -> Run:
        """Train to the last step. Events carry step, steps, rows, loss, losses by task, rates and seconds."""
        self.run = update_manifest(self.run, state="running")
        try:
            self._loop()
        except KeyboardInterrupt:
            self._save_state()
            update_manifest(self.run, state="interrupted")
            raise
        except TrainingDiverged:
            update_manifest(self.run, state="diverged")
            raise
        self.run = update_manifest(self.run, state="done")
        for state in self.run.folder.glob("state-*.safetensors"):
            state.unlink()
        return self.run

    def _loop(self) -> None:
        meter = Meter(self.train.batch_size)
        if self.step == 0:
            self._checkpoint()
        while self.step < self.train.steps:
            meter.begin()
            rows = self.batches.at(self.step)
            meter.data_ready()
            losses, norm = self._update(rows)
            self.step += 1
            meter.add(rows, losses, norm, self._first(rows))
            last = self.step == self.train.steps
            if meter.due() or last:
                self._emit(meter.report(self.step, self.train.steps, rate_at(self.train, self.step - 1)))
            if self.step in self.keep:
                self._checkpoint()
            if self.step % self.train.eval_every == 0 or last:
                self._evaluate()
                meter.skip()
            if self.step % self.train.save_every == 0 and not last:
                self._save_state()
                meter.skip()
        self._flush_metrics()

    def _first(self, rows: Rows) -> np.ndarray:
        """First predicted position of each row."""
        return rows.answer_start if self.train.loss == "answer" else np.ones_like(rows.lengths)

    def _update(self, rows: Rows) -> tuple[np.ndarray, float]:
        """One step; returns each row's summed loss and the gradient's norm."""
        first = self._first(rows)
        total = float((rows.lengths - first).sum())
        hook = self.hook(rows) if self.hook else None
        losses = torch.zeros(len(rows))
        self.engine.fold()
        for micro in MicroBatch.cut(rows.tokens, rows.lengths, first):
            losses[micro.rows] = self.engine.loss_and_grad(micro, total, hook)
        self.engine.unfold()
        if not math.isfinite(float(losses.sum())):
            raise TrainingDiverged(
                f"the loss of run {self.run.name} is no longer a number at step {self.step}",
                f"the last good state is kept in {self.run.folder}; lower lr or raise warmup",
            )
        return losses.numpy(), self.optimizer.step(self.step)

    def _emit(self, record: Mapping[str, Any]) -> None:
        self._lines.append(json.dumps(record, allow_nan=False))
        self._flush_metrics()
        if self.listener:
            self.listener(record)

    def _flush_metrics(self) -> None:
        with open(self.run.folder / "metrics.jsonl", "a", encoding="utf-8") as metrics:
            metrics.writelines(f"{line}\n" for line in self._lines)
        self._lines.clear()

    def _current_model(self) -> HookedQwen2:
        self.flat.store(self.model)
        return self.model.eval()

    def _checkpoint(self) -> None:
        path = checkpoint_path(self.run.folder, self.step)
        self._current_model().save_pretrained(path)
        known = {**self.run.manifest["checkpoints"], str(self.step): sha256_file(path / "model.safetensors")}
        self.run = update_manifest(self.run, checkpoints=known)

    def _save_state(self) -> None:
        self._flush_metrics()
        length = (self.run.folder / "metrics.jsonl").stat().st_size
        write_state(self.run.folder, self.step, length, self.optimizer.state())

    def _evaluate(self) -> None:
        tasks = tuple(t for t in TASK_NAMES if any(part.task == t for part in parts_of(self.config.data)))
        scores = evaluate(
            self._current_model(),
            self.world,
            tasks,
            self.train.eval_rows,
            split="val",
            seed=self.config.data.seed,
        )
        values = {score.task: score.value_mean for score in scores.scores}
        self._emit(
            {
                "step": self.step,
                "steps": self.train.steps,
                "rows": self.step * self.train.batch_size,
                "scores": values,
            }
        )


class Meter:
    """Averages between two metrics lines, and where the time went."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.start = self.shown = time.perf_counter()
        self._clear()

    def _clear(self) -> None:
        self.loss = self.count = self.norm = 0.0
        self.by_task: dict[str, list[float]] = {}
        self.steps = self.rows = self.tokens = 0
        self.data_seconds = self.step_seconds = 0.0

    def begin(self) -> None:
        """A step begins."""
        self._began = time.perf_counter()

    def data_ready(self) -> None:
        """Its rows are there."""
        self.data_seconds += time.perf_counter() - self._began

    def skip(self) -> None:
        """Time since the last step went into something else (answers, saving)."""

    def add(self, rows: Rows, losses: np.ndarray, norm: float, first: np.ndarray) -> None:
        """A step is done; `losses` are each row's sum over its predicted tokens."""
        predicted = rows.lengths - first
        for index in np.unique(rows.task):
            mine = rows.task == index
            sums = self.by_task.setdefault(TASK_NAMES[index], [0.0, 0.0])
            sums[0] += float(losses[mine].sum())
            sums[1] += float(predicted[mine].sum())
        self.loss += float(losses.sum())
        self.count += float(predicted.sum())
        self.norm += norm
        self.steps += 1
        self.rows += len(rows)
        self.tokens += int(rows.lengths.sum())
        self.step_seconds += time.perf_counter() - self._began

    def due(self) -> bool:
        """Whether a metrics line should be written."""
        return time.perf_counter() - self.shown >= LOG_SECONDS

    def report(self, step: int, steps: int, lr: float) -> dict[str, Any]:
        """The metrics line since the last one. Losses are nats a predicted token."""
        record = {
            "step": step,
            "steps": steps,
            "rows": step * self.batch_size,
            "loss": self.loss / self.count,
            "losses": {task: total / count for task, (total, count) in sorted(self.by_task.items())},
            "lr": lr,
            "grad_norm": self.norm / self.steps,
            "rows_per_second": self.rows / self.step_seconds,
            "tokens_per_second": self.tokens / self.step_seconds,
            "data_share": self.data_seconds / self.step_seconds,
            "seconds": time.perf_counter() - self.start,
        }
        self.shown = time.perf_counter()
        self._clear()
        return record
