"""What fine-tuning on some tasks does to all of them: on the new cities, and on the old ones.

For every fine-tuned model and every task, three questions:

improvement  how much of the gap between new and training cities did it close (`normalised_improvement`,
             unclipped, and clipped as in the paper)? Averaged over models it is the generalisation matrix:
             rows are what was trained, columns what was asked.
retention    is the task still answered for training cities? ln(error before / error after), or the change of
             accuracy: 0 is kept, below 0 forgotten. The paper publishes no such table.
deviation    did training two tasks together do better or worse than the better of the two alone? The
             improvement minus the largest one of the single-task models of the same base (the paper's
             best-teacher expectation). A teacher counts only if it was trained for as many steps at the
             same rate; the paper's own two-task sets have twice the steps of their teachers.

A base that had not learned a task answers it for training cities hardly better than for new ones, and
improvement divides by that difference. A task counts as learned when its score on training cities closes at
least half of the gap between the best constant answer and a perfect one (`FAILED_BELOW`); averages are given
over all tasks and, in columns that end in `_learned`, over learned ones.

The units of all intervals are models (one for each seed of the base), never cities or questions.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cwr_mech.analysis.stats.means import finite, given, mean_of
from cwr_mech.analysis.stats.models import FAILED_BELOW
from cwr_mech.analysis.transfer.means import cell, set_row, share_learned
from cwr_mech.data.summary import gain
from cwr_mech.errors import AnalysisError
from cwr_mech.model.evaluation import Evaluation, TaskScore, normalised_improvement
from cwr_mech.render.numbers import number
from cwr_mech.results import Result, Row, groups, where
from cwr_mech.tasks.registry import PAPER_TASKS, TASKS, ordered


@dataclass(frozen=True, eq=False)
class Tuned:
    """A fine-tuned model's answers. `condition`: what it differs in from others besides its tasks."""

    run: str
    base: str
    seed: int
    trained: tuple[str, ...]
    condition: str
    steps: int
    lr: float
    old: Evaluation
    new: Evaluation

    @property
    def label(self) -> str:
        """The trained tasks in one word."""
        return "+".join(self.trained)


@dataclass(frozen=True, eq=False)
class Base:
    """A model before fine-tuning. `again`: new cities, other questions: how much scores vary by chance."""

    run: str
    old: Evaluation
    new: Evaluation
    again: Evaluation | None = None


@dataclass(frozen=True)
class Transfer:
    """Tidy tables: `scores` (model x task), `matrix` (condition, set x task), `deviation` (model x task) and
    `sets` (condition, set), in which values are averages over models with their intervals."""

    scores: tuple[Row, ...]
    matrix: tuple[Row, ...]
    deviation: tuple[Row, ...]
    sets: tuple[Row, ...]
    trajectory: tuple[Row, ...] = ()
    """Like `scores`, with a column `step`, for checkpoints on the way."""

    def to_result(self, params: Mapping[str, object]) -> Result:
        """The result of kind "transfer"; its arrays are the matrices of the condition with most models."""
        condition = self.sets[0]["condition"]
        labels = [row["set"] for row in where(self.sets, condition=condition)]
        first, scored = (where(rows, condition=condition) for rows in (self.matrix, self.scores))
        tasks = ordered((*PAPER_TASKS, *(row["task"] for row in self.scores)))

        def grid(column: str) -> np.ndarray:
            cells = {(row["set"], row["task"]): row[column] for row in first}
            return np.array([[cells.get((label, task)) for task in tasks] for label in labels], dtype=float)

        control = mean_of(abs(row["ni_control"]) for row in self.scores if given(row["ni_control"]))
        return Result(
            kind="transfer",
            params=dict(params),
            values={
                "condition": condition,
                "n_models": len(groups(scored, "run")),
                "n_bases": len(groups(scored, "base")),
                "ni_trained": mean_of(row["ni"] for row in first if row["trained"]),
                "ni_trained_learned": mean_of(row["ni_learned"] for row in first if row["trained"]),
                "ni_transfer": mean_of(row["ni"] for row in first if not row["trained"]),
                "ni_transfer_learned": mean_of(row["ni_learned"] for row in first if not row["trained"]),
                "ni_control": control,
            },
            tables={name: list(rows) for name, rows in vars(self).items()},
            arrays={
                "sets": np.array(labels),
                "tasks": np.array(tasks),
                "learned": np.array([share_learned(self.scores, task) for task in tasks]),
                **{name: grid(name) for name in ("ni", "retention", "deviation")},
            },
            notes=[
                "Improvement: 0 is no better on new cities than before, 1 as good as on old ones, below 0 "
                "worse than before. A dash: training cities were answered no better than new ones before, so "
                "the scale has no ends.",
                f"A base has learned a task when its score on training cities closes at least {FAILED_BELOW} "
                "of the gap between the best constant answer and a perfect one; elsewhere training cities "
                "are hardly better than new ones, and improvement divides by that difference.",
                "Control: the base itself on other questions about new cities, whose improvement would be 0 "
                f"but for chance: {number(control)} on average.",
                "Retention, on training cities: ln(error before / error after), or the change of accuracy; 0 "
                "is kept, below 0 forgotten.",
                "Intervals are over models, one for each seed of the base; one model has none.",
            ],
        )


def compared(tuned: Sequence[Tuned], bases: Sequence[Base], *, match_steps: bool = True) -> Transfer:
    """Compare fine-tuned models with their bases and with each other.

    match_steps: only teachers with the steps and the rate of their pupil count, which leaves the paper's own
    two-task sets without any. Raises AnalysisError without models, or when models of one set and
    condition were trained differently.
    """
    if not tuned:
        raise AnalysisError("no fine-tuned model given", "make one with: cwr-mech finetune RUN")
    known = {base.run: base for base in bases}
    if missing := sorted({model.base for model in tuned} - set(known)):
        raise AnalysisError(f"the answers of base {missing[0]} are not given")
    _check_alike(tuned)
    scores = [row for model in tuned for row in score_rows(model, known[model.base])]
    deviation = [row for model in tuned for row in _deviations(model, tuned, scores, match_steps)]
    models_of = Counter(model.condition for model in tuned)

    def rank(model: Tuned) -> tuple[int, str, int, list[int]]:
        tasks = [TASKS.index(task) for task in model.trained]
        return -models_of[model.condition], model.condition, len(tasks), tasks

    matrix, sets = [], []
    for condition, label in dict.fromkeys((one.condition, one.label) for one in sorted(tuned, key=rank)):
        mine, beside = (where(rows, condition=condition, set=label) for rows in (scores, deviation))
        for task in ordered(row["task"] for row in mine):
            matrix.append(cell(condition, label, task, where(mine, task=task), where(beside, task=task)))
        sets.append(set_row(condition, label, mine, beside))
    return Transfer(tuple(scores), tuple(matrix), tuple(deviation), tuple(sets))


def _check_alike(tuned: Sequence[Tuned]) -> None:
    first: dict[tuple[str, str], Tuned] = {}
    for model in tuned:
        other = first.setdefault((model.condition, model.label), model)
        if (other.steps, other.lr) != (model.steps, model.lr):
            raise AnalysisError(
                f"{other.run} and {model.run} cannot be averaged: {other.steps} steps at {other.lr:g} and "
                f"{model.steps} at {model.lr:g}",
                "name the runs to compare",
            )


def retention(before: TaskScore, after: TaskScore) -> float:
    """ln(error before / error after), or accuracy after - before: 0 kept, below 0 forgotten.

    Infinite, or NaN when both errors vanish, if an error is 0.
    """
    if before.metric == "accuracy":
        return after.value_mean - before.value_mean
    if before.value_mean == 0 or after.value_mean == 0:
        change = before.value_mean - after.value_mean
        return math.copysign(math.inf, change) if change else math.nan
    return math.log(before.value_mean / after.value_mean)


def score_rows(model: Tuned, base: Base) -> Iterator[Row]:
    """One row a task: scores before and after, improvement and retention."""
    for score in model.new.scores:
        task = score.task
        new, old = base.new.score(task), base.old.score(task)
        ends = (new.value_mean, old.value_mean, score.metric)
        known = gain(old.metric, old.value_mean, old.baseline)
        yield {
            "run": model.run,
            "base": model.base,
            "seed": model.seed,
            "condition": model.condition,
            "set": model.label,
            "task": task,
            "trained": task in model.trained,
            "metric": score.metric,
            "unit": score.unit,
            "n_questions": score.n,
            "new": score.value_mean,
            "new_read": score.parse_rate,
            "new_constant": score.baseline,
            "old": model.old.score(task).value_mean,
            "old_read": model.old.score(task).parse_rate,
            "base_new": new.value_mean,
            "base_new_read": new.parse_rate,
            "base_old": old.value_mean,
            "base_old_constant": old.baseline,
            "base_gain": known,
            "learned": known >= FAILED_BELOW,
            "ni": finite(normalised_improvement(score.value_mean, *ends)),
            "ni_paper": normalised_improvement(score.value_mean, *ends, clip="paper"),
            "ni_control": again(base, task, *ends),
            "retention": finite(retention(old, model.old.score(task))),
        }


def again(base: Base, task: str, *ends: Any) -> float | None:
    """Improvement of the base itself on its other questions: 0 but for chance; None where it had none."""
    if base.again is None:
        return None
    return finite(normalised_improvement(base.again.score(task).value_mean, *ends))


DEVIATION_KEYS = ("run", "base", "seed", "condition", "set", "task", "trained", "learned", "ni")
"""Columns that a row of `deviation` takes over from the row of `scores`."""


def _deviations(
    model: Tuned, tuned: Sequence[Tuned], scores: Sequence[Row], match_steps: bool
) -> Iterable[Row]:
    """Improvement beyond the best teacher, for a model of several tasks all of whose teachers are there."""
    if len(model.trained) < 2:
        return
    same = ("base", "seed", "condition", *(("steps", "lr") if match_steps else ()))
    alike = [one for one in tuned if all(getattr(one, name) == getattr(model, name) for name in same)]
    teachers = [teacher for task in model.trained for teacher in alike if teacher.trained == (task,)]
    if {teacher.trained[0] for teacher in teachers} != set(model.trained):
        return
    known = {(row["run"], row["task"]): row["ni"] for row in scores}
    for row in where(scores, run=model.run):
        values = {teacher.run: known[teacher.run, row["task"]] for teacher in teachers}
        best = max((name for name in values if given(values[name])), key=lambda n: values[n], default=None)
        expected = values[best] if best is not None else None
        yield {key: row[key] for key in DEVIATION_KEYS} | {
            "teacher": best,
            "step_matched": all(teacher.steps == model.steps for teacher in teachers),
            "teacher_ni": expected,
            "deviation": row["ni"] - expected if given(row["ni"]) and expected is not None else None,
        }
