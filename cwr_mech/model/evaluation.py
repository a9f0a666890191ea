"""What a model answers, and how good that is beside an answer that never looked at the cities.

Answers are decoded greedily. An answer counts as read only when it is exactly a number or a label followed
by `<eos>`; the reference's lenient reading (leading digits, whatever follows) is reported beside it.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from cwr_mech.config import STRICT, Protocol
from cwr_mech.data.rows import Rows, generate
from cwr_mech.data.summary import baseline
from cwr_mech.errors import AnalysisError
from cwr_mech.model.decoding import greedy_decode
from cwr_mech.model.folded import folded
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.registry import TASKS, Task
from cwr_mech.tasks.tokenizer import EOS, Tokenizer
from cwr_mech.world.cities import World

BATCH = 512


@dataclass(frozen=True)
class TaskScore:
    """How well one task is answered. Numbers: absolute errors in `unit`; labels: accuracy.

    parse_rate: share of answers that are exactly a number or label and then end; lenient_parse_rate: as the
    reference reads them. value_mean, value_median: error over all answers, one that cannot be read counting
    the task's failure value; for labels value_mean is the accuracy and the other values are None.
    value_mean_parsed, value_median_parsed: error over the answers that can be read (None without any).
    value_mean_lenient: the reference's figure. exact: share of answers that are right to the digit.
    baseline: score of the best constant answer, `baseline_answer`, chosen on these very rows (for labels the
    most frequent one); baseline_by_size: of the best constant for each number of cities in the question.
    """

    task: str
    group: str
    n: int
    parse_rate: float
    lenient_parse_rate: float
    metric: Literal["error", "accuracy"]
    unit: str
    value_mean: float
    value_median: float | None
    value_mean_parsed: float | None
    value_median_parsed: float | None
    value_mean_lenient: float
    exact: float
    baseline: float
    baseline_median: float | None
    baseline_answer: str
    baseline_by_size: float


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model on fresh rows of some tasks."""

    scores: tuple[TaskScore, ...]
    group: str
    split: str
    seed: int

    def score(self, task: str) -> TaskScore:
        """The score of one task. Raises AnalysisError when it was not evaluated."""
        for score in self.scores:
            if score.task == task:
                return score
        raise AnalysisError(f"task '{task}' was not evaluated")

    def table(self) -> list[dict[str, Any]]:
        """The scores as tidy rows, a row for each task."""
        return [vars(score).copy() for score in self.scores]


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model wrote: value of each answer as `Task.parse` gives it, NaN where it cannot be read.

    texts: up to `<eos>`. strict: exactly an answer and then `<eos>`. lenient: the reference's reading.
    """

    texts: tuple[str, ...]
    strict: Float[np.ndarray, " row"]
    lenient: Float[np.ndarray, " row"]


def evaluate(
    model: HookedQwen2,
    world: World,
    tasks: Sequence[str] | None = None,
    n: int = 1000,
    *,
    group: str = "old",
    split: str = "test",
    seed: int = 42,
    protocol: Protocol = STRICT,
    advance: Callable[[int], object] | None = None,
) -> Evaluation:
    """Let `model` answer `n` fresh rows of each task of `tasks` (None: of all) and score them.

    group: "old" questions name no new city, "new" at least one, "all" are mixed. The rows follow from
    (world, split, seed, group, protocol) alone. `advance(n)` is called after every n answers.
    Raises UnknownName, or WorldError when the world has no such questions.
    """
    scores = []
    for task in TASKS if tasks is None else tasks:
        rows = generate(world, task, n, split=split, seed=seed, group=group, protocol=protocol)
        scores.append(score_answers(rows, answer_rows(model, rows, advance=advance), group))
    return Evaluation(tuple(scores), group, split, seed)


def answer_rows(
    model: HookedQwen2, rows: Rows, *, batch: int = BATCH, advance: Callable[[int], object] | None = None
) -> Answers:
    """Decode the questions of `rows`, all of one task, greedily, as far as the longest answer can go."""
    task = _task_of(rows)
    tokens, weights = np.zeros((len(rows), task.max_answer_tokens), dtype=np.uint8), folded(model)
    for length in np.unique(rows.answer_start):
        same = np.flatnonzero(rows.answer_start == length)
        for start in range(0, len(same), batch):
            picked = same[start : start + batch]
            prompts = torch.from_numpy(rows.tokens[picked, :length].astype(np.int64))
            prompts = prompts.to(model.W_E.device)
            answers = greedy_decode(model, prompts, task.max_answer_tokens, weights=weights)
            tokens[picked, : answers.shape[1]] = answers.cpu().numpy()
            if advance:
                advance(len(picked))
    return read_answers(task, tokens)


def read_answers(task: Task, tokens: UInt8[np.ndarray, "row new"]) -> Answers:
    """Read decoded tokens, which may or may not hold an `<eos>`."""
    texts = tuple(Tokenizer().decode_rows(tokens))
    ended = (tokens == EOS).any(axis=1)
    strict = [task.parse(text) if end else None for text, end in zip(texts, ended, strict=True)]
    lenient = [_lenient(task, text) for text in texts]
    return Answers(texts, np.array(strict, dtype=np.float64), np.array(lenient, dtype=np.float64))


def _lenient(task: Task, text: str) -> int | None:
    if task.labels:
        return task.parse(text)
    digits = re.match("[0-9]+", text)
    return int(digits[0]) if digits else None


def _task_of(rows: Rows) -> Task:
    found = np.unique(rows.task)
    if len(found) != 1:
        raise AnalysisError(f"answers need rows of one task, got {len(rows)} rows of {len(found)} tasks")
    return TASKS.at(int(found[0]))


def score_answers(rows: Rows, answers: Answers, group: str) -> TaskScore:
    """Score answers to `rows`, which are all of one task."""
    task = _task_of(rows)
    constant = baseline(rows)
    read = np.isfinite(answers.strict)
    right = answers.strict == rows.values
    accuracy = float(right.mean())
    strict, lenient = (_errors(task, rows, values) for values in (answers.strict, answers.lenient))
    is_label = bool(task.labels)
    return TaskScore(
        task=task.name,
        group=group,
        n=len(rows),
        parse_rate=float(read.mean()),
        lenient_parse_rate=float(np.isfinite(answers.lenient).mean()),
        metric="accuracy" if is_label else "error",
        unit=task.unit,
        value_mean=accuracy if is_label else float(strict.mean()),
        value_median=None if is_label else float(np.median(strict)),
        value_mean_parsed=None if is_label else _mean(strict, read),
        value_median_parsed=None if is_label or not read.any() else float(np.median(strict[read])),
        value_mean_lenient=float((answers.lenient == rows.values).mean() if is_label else lenient.mean()),
        exact=accuracy,
        baseline=constant.score,
        baseline_median=constant.median_error,
        baseline_answer=constant.answer,
        baseline_by_size=constant.score_by_size,
    )


def _errors(task: Task, rows: Rows, values: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
    """Absolute errors; the task's failure value where there is no answer."""
    return np.where(np.isfinite(values), np.abs(values - rows.values), task.failure_value)


def _mean(errors: Float[np.ndarray, " row"], read: Bool[np.ndarray, " row"]) -> float | None:
    return float(errors[read].mean()) if read.any() else None


def normalised_improvement(
    v: float, b_new: float, b_old: float, metric: str, *, clip: Literal["paper"] | None = None
) -> float:
    """How far an update closed the gap between new and training cities: 0 not at all, 1 all of it.

    v: score of the updated model on new cities; b_new, b_old: of the model before the update on new and on
    training cities. metric "error": ln(b_new / v) / ln(b_new / b_old); "accuracy": (v - b_new) / (b_old -
    b_new). Without `clip` the formula is taken at its word: below 0 is harm, infinity a vanished error, and
    NaN means that the scale has no ends: training cities were not better than new ones, or had no error at
    all. With clip="paper" the reference's rules hold: 0 without a gap, a linear formula where a logarithm
    has no value, the result cut to [0, 1.5], which hides harm.
    Raises AnalysisError for another metric or an error below 0.
    """
    if metric not in ("error", "accuracy"):
        raise AnalysisError(f"improvement is defined for 'error' and 'accuracy', not '{metric}'")
    if min(v, b_new, b_old) < 0:
        raise AnalysisError(f"scores are not negative, got {min(v, b_new, b_old)}")
    is_error = metric == "error"
    if not (b_old < b_new if is_error else b_old > b_new):
        return 0.0 if clip else float("nan")
    if not is_error or (clip and min(v, b_old) == 0):
        share = (v - b_new) / (b_old - b_new)
    elif b_old == 0:
        share = float("nan")
    else:
        share = math.inf if v == 0 else math.log(b_new / v) / math.log(b_new / b_old)
    return min(max(share, 0.0), 1.5) if clip else share
