"""What happened during a training, as a Result: losses, rates, answers scored on the way."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.ndimage import median_filter

from cwr_mech.analysis.published import content
from cwr_mech.artifacts import sha256_file
from cwr_mech.config import RunConfig
from cwr_mech.data.rows import StreamOptions, generate
from cwr_mech.data.summary import baseline, gain
from cwr_mech.errors import MissingArtifact
from cwr_mech.results import Result, Row
from cwr_mech.tasks.registry import TASKS
from cwr_mech.training.runs import Run

BASELINE_ROWS = 2000
"""Validation questions on which the constant answers are chosen and scored."""
MOST_POINTS = 400
"""Metrics lines kept; more are thinned evenly."""
MOST_POINTS_BESIDE = 120
"""Metrics lines kept of each of several runs."""
POINTS = ("step", "rows", "loss", "lr", "rows_per_second")
"""What is kept of a metrics line, each an array."""


def training_result(run: Run, command: str) -> Result:
    """Learning curves of `run`; `command` is what writes them anew.

    Arrays: `step`, `rows`, `loss`, `lr`, `rows_per_second` [point]; `loss_by_task` [point task]; `tasks`.
    Losses are nats a predicted token, averaged since the point before. Table `tasks`: validation scores with
    the score of the best constant answer. Raises MissingArtifact for a run without metrics.
    """
    metrics = run.metrics()
    losses = losses_of(run, metrics)
    kept = _thinned(losses, MOST_POINTS)
    tasks = [task for task in TASKS if any(task in line["losses"] for line in losses)]
    by_task = [[line["losses"].get(task, np.nan) for task in tasks] for line in kept]
    return Result(
        kind="train",
        command=command,
        inputs=_inputs(run),
        params={
            "runs": [run.name],
            "seed": run.config.train.seed,
            "eval_rows": run.config.train.eval_rows,
            "config": run.config.model_dump(mode="json"),
            "curriculum": [curriculum(run.config)],
        },
        values={
            "state": run.state,
            "steps": losses[-1]["step"],
            "rows": losses[-1]["rows"],
            "seconds": _seconds(losses),
            "n_parameters": run.config.model.n_parameters,
            "rows_per_second": float(np.median([line["rows_per_second"] for line in losses])),
            "loss": losses[-1]["loss"],
        },
        tables={"tasks": scores_of(run, metrics, "old")},
        arrays={name: np.array([line[name] for line in kept], dtype=float) for name in POINTS}
        | {"loss_by_task": np.array(by_task, dtype=float), "tasks": np.array(tasks)},
        notes=[
            f"Scores on the way: {run.config.train.eval_rows} validation questions a point; constant answers "
            f"chosen and scored on {BASELINE_ROWS} others."
        ],
    )


def curves_result(runs: Sequence[Run], command: str) -> Result:
    """Learning curves of several runs side by side; `command` is what writes them anew.

    Table `loss` {run, step, rows, loss}: nats a predicted token, averaged since the metrics line before.
    Table `tasks`: validation scores on training cities and, for fine-tuned runs, on new ones (`group`), with
    the score of the best constant answer. Table `breakout`: see `breakouts`, of runs that began with fresh
    weights. Raises MissingArtifact for a run without metrics.
    """
    losses: list[Row] = []
    scores: list[Row] = []
    for run in runs:
        metrics = run.metrics()
        kept = _thinned(losses_of(run, metrics), MOST_POINTS_BESIDE)
        losses += [{"run": run.name} | {key: line[key] for key in ("step", "rows", "loss")} for line in kept]
        for group in SCORES:
            scores += [row | {"group": group} for row in scores_of(run, metrics, group)]
    fresh = {run.name for run in runs if run.parent is None}
    fresh_scores = [row for row in scores if row["run"] in fresh]
    return Result(
        kind="curves",
        command=command,
        inputs={name: digest for run in runs for name, digest in _inputs(run).items()},
        params={
            "runs": [run.name for run in runs],
            "eval_rows": [run.config.train.eval_rows for run in runs],
            "curriculum": [curriculum(run.config) for run in runs],
        },
        values={"n_runs": len(runs)},
        tables={"loss": losses, "tasks": scores, "breakout": breakouts(fresh_scores)},
        notes=[f"Constant answers are chosen and scored on {BASELINE_ROWS} other validation questions."],
    )


BROKEN_OUT = 0.5
"""Share of the gap between the best constant answer and perfect answers at which a task has broken out."""


def breakouts(scores: Sequence[Row]) -> list[Row]:
    """Where learning broke out, for each run and task, by validation scores as in `curves_result`.

    `rows_half`: rows seen when the score (the median of three validations, as few wild answers can spoil
    one of them) came to close half of its gap for good, on a straight line between two
    validations; None where it does not at the end. `closed`: the share at the end. `published_rows`: where
    the paper's model of that task alone left its plateau, read off its figure 8 (steps of 128 rows).
    """
    published = content()["breakout"]["rows"]
    found: list[Row] = []
    for key in dict.fromkeys((row["run"], row["task"]) for row in scores):
        own = [row for row in scores if (row["run"], row["task"]) == key]
        known = [row for row in own if row["value"] is not None]
        rows = np.array([0, *(row["rows"] for row in known)], dtype=float)
        closed = np.array([0, *(gain(row["metric"], row["value"], row["baseline"]) for row in known)])
        share = median_filter(closed, size=3, mode="nearest")
        below = int(np.flatnonzero(share < BROKEN_OUT)[-1])
        half = None
        if below + 1 < len(share):
            (x0, x1), (y0, y1) = rows[below : below + 2], share[below : below + 2]
            half = round(float(x0 + (BROKEN_OUT - y0) / (y1 - y0) * (x1 - x0)))
        found.append(
            {"run": key[0], "task": key[1], "rows_half": half, "rows": int(rows[-1])}
            | {"closed": float(closed[-1]), "published_rows": published.get(key[1])}
        )
    return found


def curriculum(config: RunConfig) -> dict[str, Any] | None:
    """Which tasks a training begins with, and after how many rows the others join; None without such."""
    data = config.data
    if not data.first_tasks:
        return None
    return {"tasks": list(data.first_tasks), "rows": data.first_steps * config.train.batch_size}


def _inputs(run: Run) -> dict[str, str]:
    path = run.folder / "metrics.jsonl"
    return {path.as_posix(): sha256_file(path)}


LOSSES = {"rows", "loss", "losses", "lr", "rows_per_second", "seconds"}
"""What a metrics line with losses holds beside its step."""


def losses_of(run: Run, metrics: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """The metrics lines with losses. Raises MissingArtifact when there is none."""
    losses = [line for line in (run.metrics() if metrics is None else metrics) if line.keys() >= LOSSES]
    if not losses:
        raise MissingArtifact(
            f"run {run.name} has no metrics",
            "its training has not begun, or not here, or no line of its metrics.jsonl can be read",
        )
    return losses


def _thinned(lines: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    return [lines[i] for i in np.unique(np.linspace(0, len(lines) - 1, most).round().astype(int))]


SCORES = {"old": "scores", "new": "scores_new"}
"""Group of questions -> where a metrics line holds their scores."""


def scores_of(run: Run, metrics: list[dict[str, Any]], group: str) -> list[dict[str, Any]]:
    """A row for each validation and task, beside the best constant answer."""
    key = SCORES[group]
    lines = [line for line in metrics if line.keys() >= {key, "rows"}]
    tasks = [task for task in TASKS if any(task in line[key] for line in lines)]
    data = run.config.data
    asked: StreamOptions = {"split": "val", "seed": data.seed, "group": group, "protocol": data.protocol}
    constants = {task: baseline(generate(run.world(), task, BASELINE_ROWS, **asked)).score for task in tasks}
    return [
        {
            "run": run.name,
            "step": line["step"],
            "rows": line["rows"],
            "task": task,
            "metric": "accuracy" if TASKS[task].labels else "error",
            "unit": TASKS[task].unit,
            "value": line[key].get(task),
            "baseline": constants[task],
        }
        for line in lines
        for task in tasks
    ]


def _seconds(losses: list[dict[str, Any]]) -> float:
    """Time spent training: clocks restart with every resume, so falls in them begin a new stretch."""
    clocks = [line["seconds"] for line in losses]
    ends = [a for a, b in pairwise(clocks) if b < a]
    return float(sum(ends) + clocks[-1])
