"""Questions about cities whose coordinates are to be found, and where the answers put these cities.

Partners are training cities that are not asked about themselves. A city stands at every position of a
question in turn, and questions have every size that their task takes. The questions follow from the world,
the task, the number asked and a seed, so that all models of one world are asked the same.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from cwr_mech.analysis.locating.implied import Box, Implied, Questions, fit_noise, implied_coordinates
from cwr_mech.errors import AnalysisError
from cwr_mech.model.decoding import decode_text
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.registry import Task, get_task
from cwr_mech.world.cities import World

_CITIES, _QUESTIONS, _PLACES = range(3)
"""Streams of random numbers of one seed."""
FEWER = (4, 8, 16, 32, 64, 128)
"""Numbers of questions of the curve of error against questions; those below the number asked are used."""
FEWEST_CONTROLS, FEWEST_PARTNERS = 16, 12
"""Training cities asked in a world without new cities; partners that must be left."""
BATCH = 2048
"""Questions decoded at once."""


@dataclass(frozen=True, eq=False)
class Asked:
    """Questions of one task: `rows` [city question k] are world rows, -1 where there is no city."""

    task: Task
    rows: Int[np.ndarray, "city question k"]
    questions: Questions

    def prompts(self, world: World) -> list[str]:
        """The questions as text, city by city."""
        rows = self.rows.reshape(-1, self.rows.shape[2])
        return self.task.prompt(np.where(rows >= 0, world.ids[rows], -1), world.config.id_digits)


@dataclass(frozen=True, eq=False)
class Cities:
    """World rows of the cities asked about, new ones first, and of the partners, none of them."""

    rows: Int[np.ndarray, " city"]
    is_new: Bool[np.ndarray, " city"]
    partners: Int[np.ndarray, " partner"]


def choose_cities(world: World, seed: int) -> Cities:
    """All new cities and as many training cities (FEWEST_CONTROLS where there are none), drawn by `seed`.

    Raises AnalysisError for a world too small to leave partners.
    """
    old = np.random.default_rng([seed, _CITIES]).permutation(world.old())
    n = min(len(world.new()) or FEWEST_CONTROLS, len(old) - FEWEST_PARTNERS)
    if n < 2:
        raise AnalysisError(f"{len(old)} training cities are too few to locate others by", "14 are needed")
    rows = np.concatenate([world.new(), old[:n]])
    return Cities(rows, world.is_new[rows], old[n:])


def draw_questions(world: World, cities: Cities, task: str, n: int, seed: int) -> Asked:
    """`n` questions of `task` about every city, of all its sizes, with the city at every position in turn."""
    definition = get_task(task)
    rng = np.random.default_rng([seed, _QUESTIONS, definition.key])
    sizes = rng.integers(definition.n_min, definition.n_max + 1, n)
    slot = np.zeros(n, dtype=np.int64)
    for size in np.unique(sizes):
        same = np.flatnonzero(sizes == size)
        slot[same] = np.arange(len(same)) % size
    rows = np.stack([_distinct(cities.partners, n, definition.n_max, rng) for _ in cities.rows])
    rows[:, np.arange(n), slot] = cities.rows[:, None]
    rows[:, np.arange(definition.n_max) >= sizes[:, None]] = -1
    return Asked(definition, rows, Questions(definition, world.xy[rows], slot, sizes))


def _distinct(
    partners: Int[np.ndarray, " partner"], n: int, k: int, rng: np.random.Generator
) -> Int[np.ndarray, "question k"]:
    """k different partners for each of n questions: the first of a random order of all."""
    order = rng.random((n, len(partners)))
    return partners[np.argpartition(order, k, axis=1)[:, :k]]


def ask(model: HookedQwen2, world: World, asked: Asked) -> Float[np.ndarray, "city question"]:
    """The model's greedy answers; NaN where an answer cannot be read."""
    task = asked.task
    texts = decode_text(model, asked.prompts(world), task.max_answer_tokens, batch=BATCH)
    values = np.array([task.parse(text) for text in texts], dtype=np.float64)
    return values.reshape(asked.rows.shape[:2])


def implied_by(
    world: World,
    cities: Cities,
    asked: Asked,
    answers: Float[np.ndarray, "city question"],
    seed: int,
    draws: int,
) -> Implied:
    """Implied coordinates from answers, with the noise of the answers about training cities.

    Raises AnalysisError when too few of those can be read.
    """
    questions, training = asked.questions, ~cities.is_new
    true = questions.answers_for(world.xy[cities.rows])
    noise = fit_noise(asked.task, true[training].ravel(), answers[training].ravel())
    rng = np.random.default_rng([seed, _PLACES, asked.task.key])
    fewer = [k for k in FEWER if k < len(questions)]
    box = Box.around(world.xy[world.old()])
    return implied_coordinates(questions, answers, noise, box, rng, draws=draws, fewer=fewer)
