"""What an answer is worth that never looked at the cities: the control beside every task score."""

from dataclasses import dataclass

import numpy as np

from cwr_mech.data.rows import Rows
from cwr_mech.errors import AnalysisError
from cwr_mech.tasks.registry import TASKS, Task


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


def baseline(fit: Rows, score: Rows | None = None) -> Baseline:
    """The best constant answers chosen on the rows `fit` and scored on the rows `score` (`fit` when None).

    Raises AnalysisError when the rows are none or of more than one task.
    """
    score = fit if score is None else score
    found = np.unique(np.concatenate([fit.task, score.task]))
    if len(found) != 1 or not len(fit) or not len(score):
        raise AnalysisError(
            f"a baseline needs rows of one task, got {len(fit)} and {len(score)} rows of {len(found)} tasks"
        )
    task = TASKS.at(int(found[0]))
    constant = _best(task, fit.values)
    scores = _scores(task, score.values, np.full(len(score), constant))
    sizes_fit, sizes_score = ((rows.cities >= 0).sum(axis=1) for rows in (fit, score))
    by_size = np.full(len(score), constant)
    for size in np.unique(sizes_fit):
        by_size[sizes_score == size] = _best(task, fit.values[sizes_fit == size])
    return Baseline(
        task=task.name,
        kind=task.kind,
        answer=task.format(constant),
        score=float(scores.mean()),
        median_error=None if task.labels else float(np.median(scores)),
        score_by_size=float(_scores(task, score.values, by_size).mean()),
    )


def _best(task: Task, values: np.ndarray) -> int:
    return int(np.bincount(values).argmax() if task.labels else np.rint(np.median(values)))


def _scores(task: Task, values: np.ndarray, answers: np.ndarray) -> np.ndarray:
    return (values == answers).astype(float) if task.labels else np.abs(values - answers).astype(float)


def gain(metric: str, value: float, baseline: float) -> float:
    """Share of the gap between the best constant answer and a perfect one: errors 1 - value / baseline,
    accuracies (value - baseline) / (1 - baseline). Below 0: worse than the constant.
    """
    if metric == "error":
        return 1 - value / baseline
    return (value - baseline) / (1 - baseline) if baseline < 1 else 0.0
