"""Implied coordinates: where a city must lie for the answers about it to be explained best.

Ask K questions q about a city at unknown coordinates p, all other cities of a question (its partners) at
known coordinates. With f_q(p) the answer that geometry gives and a_q the answer received,

    implied(p) = argmax_p  sum_q log P(a_q | f_q(p)).

P is a noise model with parameters fitted by maximum likelihood to answers about cities whose coordinates are
known (`fit_noise`), so that a task's errors on training cities set the weight of every answer:

    numbers  a ~ Laplace(f, s(f)),  s(f) = max(1/2, exp(u + v log(1 + f))): robust as an absolute error is,
             and wider where larger answers are less exact (areas); 1/2 is the rounding of the answers
    labels   P(a | f) from counts of right and wrong labels; for compass they depend on a - f only

An answer that cannot be read carries no information. The maximum is sought on a grid over a box and then on
finer and finer windows, down to whole tenths of a degree; nothing is assumed about where the city is.
Intervals resample the questions (Efron 1979): of each resample the best candidate is taken, at random among
equals, so that answers that determine nothing give places all over the box. No model is needed here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import circulant
from scipy.optimize import minimize

from cwr_mech.errors import AnalysisError
from cwr_mech.tasks.registry import COMPASS, Task
from cwr_mech.world.cities import World

ROUNDING = 0.5
"""Answers are whole numbers: no Laplace scale is smaller."""
CELLS = 64
"""Grid cells along the longer side of the box."""
WINDOW, ZOOM = 8, 4
"""A window reaches WINDOW of its steps to each side; its steps are ZOOM times smaller than those before."""
MARGIN, FEWER_DRAWS = 0.25, 10
"""Reach of the box beyond the cities, in longer sides of theirs; random sets of each smaller number."""


@dataclass(frozen=True, eq=False)
class Questions:
    """Questions of one task, as many about each city, which is at position `slot` of each question.

    `rows` are world rows, -1 where there is no city; `xy` holds their coordinates in tenths of a degree.
    Those of the city asked about are replaced by candidates and never read. Question r has `sizes[r]`
    cities, that one included.
    """

    task: Task
    rows: Int[np.ndarray, "city question k"]
    xy: Int[np.ndarray, "city question k 2"]
    slot: Int[np.ndarray, " question"]
    sizes: Int[np.ndarray, " question"]

    def __len__(self) -> int:
        return len(self.slot)

    def prompts(self, world: World) -> list[str]:
        """The questions as text, city by city."""
        rows = self.rows.reshape(-1, self.rows.shape[2])
        return self.task.prompt(np.where(rows >= 0, world.ids[rows], -1), world.config.id_digits)

    def answers_at(self, city: int, points: Int[np.ndarray, "point 2"]) -> Int[np.ndarray, "point question"]:
        """f_q(p): what geometry answers to the questions about row `city` if it lies at each of `points`."""
        xy = np.repeat(self.xy[None, city], len(points), axis=0)
        xy[:, np.arange(len(self)), self.slot] = points[:, None]
        sizes = np.tile(self.sizes, len(points))
        return self.task.answer_value(xy.reshape(-1, *xy.shape[2:]), sizes).reshape(-1, len(self))

    def answers_for(self, points: Int[np.ndarray, "city 2"]) -> Int[np.ndarray, "city question"]:
        """What geometry answers if each city lies at its row of `points`."""
        return np.concatenate([self.answers_at(city, point[None]) for city, point in enumerate(points)])


@dataclass(frozen=True)
class NumberNoise:
    """Laplace noise of scale max(1/2, exp(u + v log(1 + f)))."""

    u: float
    v: float

    def scale(self, predicted: np.ndarray) -> np.ndarray:
        """Mean absolute error expected where geometry answers `predicted`."""
        return np.maximum(ROUNDING, np.exp(self.u + self.v * np.log1p(predicted)))

    def log_prob(
        self, answers: Float[np.ndarray, " question"], predicted: Int[np.ndarray, "point question"]
    ) -> Float[np.ndarray, "point question"]:
        """log P(answer | geometry's answer); 0 for NaN, an answer that could not be read."""
        scale = self.scale(predicted)
        return np.nan_to_num(-np.abs(answers - predicted) / scale - np.log(2 * scale))


@dataclass(frozen=True, eq=False)
class LabelNoise:
    """`table[f, a]`: log-probability of label a where geometry says f."""

    table: Float[np.ndarray, "label label"]

    def log_prob(
        self, answers: Float[np.ndarray, " question"], predicted: Int[np.ndarray, "point question"]
    ) -> Float[np.ndarray, "point question"]:
        """log P(answer | geometry's answer); 0 for NaN, an answer that could not be read."""
        read = np.isfinite(answers)
        label = np.where(read, answers, 0).astype(np.int64)
        return np.where(read, self.table[predicted, label], 0.0)


Noise = NumberNoise | LabelNoise


def fit_noise(task: Task, predicted: Int[np.ndarray, " row"], answers: Float[np.ndarray, " row"]) -> Noise:
    """The noise model of a task from answers about cities at known coordinates.

    predicted: what geometry answers; answers: what was answered, NaN where unreadable. Raises AnalysisError
    when hardly anything can be read.
    """
    read = np.isfinite(answers)
    if read.sum() < 8:
        raise AnalysisError(
            f"only {read.sum()} of {len(answers)} {task.name} answers about training cities can be read",
            "take a model that was trained on this task, or leave the task out",
        )
    predicted, answers = predicted[read], answers[read]
    return _label_noise(task, predicted, answers) if task.labels else _number_noise(predicted, answers)


def _number_noise(predicted: np.ndarray, answers: np.ndarray) -> NumberNoise:
    residual = np.abs(answers - predicted)
    start = np.array([np.log(max(residual.mean(), ROUNDING)), 0.0])

    def negative_log_likelihood(at: np.ndarray) -> float:
        scale = NumberNoise(*at).scale(predicted)
        return float(np.mean(residual / scale + np.log(scale)))

    found = minimize(negative_log_likelihood, start, method="Nelder-Mead", options={"xatol": 1e-3})
    return NumberNoise(*map(float, found.x))


def _label_noise(task: Task, predicted: np.ndarray, answers: np.ndarray) -> LabelNoise:
    n = len(task.labels)
    # Half a count for every pair of labels (Jeffreys): no answer is ever impossible.
    counts = np.full((n, n), 0.5)
    np.add.at(counts, (predicted, answers.astype(np.int64)), 1)
    if task.labels == COMPASS:  # a turn of the world turns geometry's and the model's answers alike
        turned = [np.trace(np.roll(counts, -turn, axis=1)) for turn in range(n)]
        counts = circulant(turned).T
    return LabelNoise(np.log(counts / counts.sum(axis=1, keepdims=True)))


@dataclass(frozen=True, eq=False)
class Implied:
    """Coordinates that explain the answers best, in tenths of a degree.

    `xy` from all questions; `resampled[d]` from questions drawn with replacement; `fewer[k]` from random sets
    of k of the questions.
    """

    xy: Float[np.ndarray, "city 2"]
    resampled: Float[np.ndarray, "draw city 2"]
    fewer: dict[int, Float[np.ndarray, "set city 2"]]


Grid = tuple[Int[np.ndarray, "point 2"], int]
"""Points in tenths of a degree, and their step."""


def first_grid(xy: Int[np.ndarray, "city 2"]) -> Grid:
    """A grid over the bounding box of cities, MARGIN of its longer side wider on every side."""
    low, high = xy.min(axis=0), xy.max(axis=0)
    reach = max(1, round(MARGIN * float((high - low).max())))
    low, high = low - reach, high + reach
    step = max(1, round(int((high - low).max()) / CELLS))
    axes = [np.arange(a, b + 1, step) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2), step


def implied_coordinates(
    questions: Questions,
    answers: Float[np.ndarray, "city question"],
    noise: Noise,
    first: Grid,
    rng: np.random.Generator,
    *,
    draws: int = 200,
    fewer: Sequence[int] = (),
) -> Implied:
    """Implied coordinates of every city that was asked about.

    answers: numbers, or indices of labels; NaN where unreadable. `first`: where a city may lie, see
    `first_grid`. See `Implied` for `draws` and `fewer`.
    """
    n = len(questions)
    sets = {k: np.stack([rng.permutation(n) < k for _ in range(FEWER_DRAWS)]) for k in fewer}
    weights = np.concatenate([rng.multinomial(n, np.full(n, 1 / n), size=draws), *sets.values()])
    xy = np.empty((len(answers), 2))
    sampled = np.empty((len(weights), len(answers), 2))
    for city, given in enumerate(answers):
        xy[city], points, log_prob = _search(questions, city, given, noise, first)
        total = weights @ log_prob.T
        total += rng.uniform(0, 1e-6, total.shape)  # equals in random order
        sampled[:, city] = points[total.argmax(axis=1)]
    ends = np.cumsum([draws, *(len(rows) for rows in sets.values())])[:-1]
    resampled, *parts = np.split(sampled, ends)
    return Implied(xy, resampled, dict(zip(sets, parts, strict=True)))


def _search(
    questions: Questions, city: int, answers: Float[np.ndarray, " question"], noise: Noise, first: Grid
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best coordinates [2], and all candidates [point 2] with their log-probabilities [point question].

    Equal maxima are common where answers are labels: of the first grid's the one nearest to their mean is
    taken, of a window's their mean.
    """
    points, step = first
    log_prob = noise.log_prob(answers, questions.answers_at(city, points))
    tied = _best(points, log_prob)
    best = tied[np.argmin(((tied - tied.mean(axis=0)) ** 2).sum(axis=1))].astype(np.float64)
    found = [(points, log_prob)]
    side = np.arange(-WINDOW, WINDOW + 1)
    offsets = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    while step > 1:
        step = -(-step // ZOOM)
        points = np.rint(best).astype(np.int64) + step * offsets
        found.append((points, noise.log_prob(answers, questions.answers_at(city, points))))
        best = _best(*found[-1]).mean(axis=0)
    return best, np.concatenate([p for p, _ in found]), np.concatenate([q for _, q in found])


def _best(
    points: Int[np.ndarray, "point 2"], log_prob: Float[np.ndarray, "point question"]
) -> Int[np.ndarray, "tied 2"]:
    """All points of the largest likelihood, to rounding of the sum."""
    total = log_prob.sum(axis=1)
    return points[total >= total.max() - 1e-9 * (1 + np.abs(total).max())]
