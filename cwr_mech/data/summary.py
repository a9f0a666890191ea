"""What a task's rows look like: answers, what the best constant answers score, overlap of the splits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Unpack

import numpy as np

from cwr_mech.data.rows import Rows, StreamOptions, generate
from cwr_mech.data.splits import SPLITS, query_hash
from cwr_mech.errors import AnalysisError
from cwr_mech.tasks.registry import TASKS, Task, get_task
from cwr_mech.world.cities import World

QUANTILES = {"min": 0.0, "5%": 0.05, "median": 0.5, "95%": 0.95, "max": 1.0}


@dataclass(frozen=True)
class Baseline:
    """Scores of the best constant answers to one task: mean absolute error in its unit, or accuracy.

    answer: the best constant, as text: the median for numbers, the most frequent label. score: its score.
    median_error: its median absolute error (None for labels). score_by_size: the score when the constant may
    depend on the number of cities in the question, which any model can count.
    """

    task: str
    kind: str
    answer: str
    score: float
    median_error: float | None
    score_by_size: float


@dataclass(frozen=True)
class TaskStats:
    """A sample of rows in numbers.

    distinct: different questions among the rows. mean_tokens: tokens a row, `<bos>` and `<eos>` included.
    answers: share of each label, or QUANTILES of the numbers. by_size: the same for the rows with that many
    cities. overlap: for each pair of splits, how many rows of the second ask what a row of the first asks.
    """

    task: Task
    rows: int
    distinct: int
    mean_tokens: float
    answers: Mapping[str, float]
    by_size: Mapping[int, Mapping[str, float]]
    baseline: Baseline
    overlap: Mapping[tuple[str, str], int]


def task_stats(world: World, task: str, n: int, **options: Unpack[StreamOptions]) -> TaskStats:
    """Statistics of `n` rows of a split, and overlaps of `n` rows of the splits; raises as `generate`."""
    definition, split = get_task(task), options.get("split", "train")
    drawn: dict[str, Rows] = {}
    for name in dict.fromkeys((split, *SPLITS)):
        options["split"] = name
        drawn[name] = generate(world, task, n, **options)
    rows = drawn[split]
    sizes = (rows.cities >= 0).sum(axis=1)
    asked = {
        name: query_hash(definition, part.cities[:, : definition.n_max].astype(np.int64))
        for name, part in drawn.items()
    }
    return TaskStats(
        task=definition,
        rows=len(rows),
        distinct=len(np.unique(asked[split])),
        mean_tokens=float(rows.lengths.mean()),
        answers=_answers(definition, rows.values),
        by_size={int(size): _answers(definition, rows.values[sizes == size]) for size in np.unique(sizes)},
        baseline=baseline(rows),
        overlap={
            (first, second): int(np.isin(asked[second], asked[first]).sum())
            for i, first in enumerate(SPLITS)
            for second in SPLITS[i + 1 :]
        },
    )


def _answers(task: Task, values: np.ndarray) -> dict[str, float]:
    if task.labels:
        shares = np.bincount(values, minlength=len(task.labels)) / len(values)
        return dict(zip(task.labels, shares.tolist(), strict=True))
    return dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values())).tolist(), strict=True))


def baseline(rows: Rows) -> Baseline:
    """The best constant answers to these rows, and their scores.

    Raises AnalysisError when the rows are none or of more than one task.
    """
    found = np.unique(rows.task)
    if len(found) != 1:
        raise AnalysisError(f"a baseline needs rows of one task, got {len(rows)} rows of {len(found)} tasks")
    task = TASKS.at(int(found[0]))
    constant = _best(task, rows.values)
    scores = _scores(task, rows.values, np.full(len(rows), constant))
    sizes = (rows.cities >= 0).sum(axis=1)
    by_size = np.full(len(rows), constant)
    for size in np.unique(sizes):
        by_size[sizes == size] = _best(task, rows.values[sizes == size])
    return Baseline(
        task=task.name,
        kind=task.kind,
        answer=task.format(constant),
        score=float(scores.mean()),
        median_error=None if task.labels else float(np.median(scores)),
        score_by_size=float(_scores(task, rows.values, by_size).mean()),
    )


def _best(task: Task, values: np.ndarray) -> int:
    return int(np.bincount(values).argmax() if task.labels else np.rint(np.median(values)))


def _scores(task: Task, values: np.ndarray, answers: np.ndarray) -> np.ndarray:
    return (values == answers).astype(float) if task.labels else np.abs(values - answers).astype(float)


def gain(metric: str, value: float, baseline: float) -> float:
    """Share of the gap between the best constant answer and a perfect one: errors 1 - value / baseline,
    accuracies (value - baseline) / (1 - baseline). Below 0: worse than the constant.

    Where the constant is perfect (one question, or labels that are all the same) there is no gap: 1 for a
    perfect score, 0 for any other.
    """
    perfect = 0.0 if metric == "error" else 1.0
    if baseline == perfect:
        return float(value == perfect)
    return 1 - value / baseline if metric == "error" else (value - baseline) / (1 - baseline)
