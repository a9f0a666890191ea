"""Where models' own answers put cities, task by task; result of kind "locate".

Controls in every result: as many training cities as new ones, asked and located in the same way; the same
questions answered from the true coordinates (the resolution of the method); and these answers dealt to other
questions (answers that know nothing: the error is that of chance, and resampled coordinates lie everywhere).
A linear probe fitted on the partners shows where the cities stand for a reader of the residual stream.

Partners are training cities that are not asked about themselves. A city stands at every position of a
question in turn, and questions have every size that their task takes. The questions follow from the world,
the task, the number asked and a seed, so that all models of one world are asked the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from cwr_mech.activations.cities import city_prompts, residual_stream
from cwr_mech.analysis.locating.implied import Implied, Questions, first_grid, fit_noise, implied_coordinates
from cwr_mech.analysis.locating.tables import (
    DEALT,
    TRUE,
    curve_rows,
    divergence_rows,
    error_rows,
    group_rows,
    pair_rows,
)
from cwr_mech.analysis.stats.ridge import fit_linear
from cwr_mech.analysis.study import uses
from cwr_mech.errors import AnalysisError
from cwr_mech.experiments.finetuning import PLAIN, condition_of, in_order
from cwr_mech.experiments.zoo import family
from cwr_mech.model.decoding import decode_text
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.render.numbers import layer_name
from cwr_mech.results import Result, Row
from cwr_mech.tasks.registry import get_task
from cwr_mech.training.runs import Run
from cwr_mech.world.cities import World

LOCATING = ("distance", "trianglearea", "angle", "compass", "perimeter")
"""Tasks whose answers determine coordinates well; those of inside and crossing can be asked for, too."""
QUESTIONS = 64
DRAWS = 200
FEWER = (4, 8, 16, 32, 64, 128)
"""Numbers of questions of the curve of error against questions; those below the number asked are used."""
FEWEST_CONTROLS, FEWEST_PARTNERS = 16, 12
"""Training cities asked in a world without new cities; partners that must be left."""
BATCH = 2048
"""Questions decoded at once."""
_CITIES, _QUESTIONS, _PLACES, _CONTROLS, _DIVERGENCE = 0, 1, 2, 10, 11
"""Streams of random numbers of one seed."""


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


def draw_questions(world: World, cities: Cities, task: str, n: int, seed: int) -> Questions:
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
    return Questions(definition, rows, world.xy[rows], slot, sizes)


def _distinct(
    partners: Int[np.ndarray, " partner"], n: int, k: int, rng: np.random.Generator
) -> Int[np.ndarray, "question k"]:
    """k different partners for each of n questions: the first of a random order of all."""
    order = rng.random((n, len(partners)))
    return partners[np.argpartition(order, k, axis=1)[:, :k]]


@dataclass(frozen=True, eq=False)
class Located:
    """Where one source of answers (a model, or a control) puts the cities, for the tasks it can answer."""

    implied: Mapping[str, Implied]
    read: Mapping[str, Float[np.ndarray, " city"]]
    true: Float[np.ndarray, "city 2"]

    def errors(self, task: str) -> Float[np.ndarray, " city"]:
        """Distance of the implied from the true coordinates, in tenths of a degree."""
        return np.linalg.norm(self.implied[task].xy - self.true, axis=1)

    def radius(self, task: str) -> Float[np.ndarray, " city"]:
        """Distance from the implied coordinates within which 95 % of those of resampled questions lie."""
        found = self.implied[task]
        return np.quantile(np.linalg.norm(found.resampled - found.xy, axis=2), 0.95, axis=0)


class Survey:
    """Cities and questions of one world, put to any number of models and controls."""

    def __init__(
        self,
        world: World,
        tasks: Sequence[str],
        questions: int = QUESTIONS,
        seed: int = 0,
        draws: int = DRAWS,
    ) -> None:
        """Raises UnknownName for a task, AnalysisError for too few questions or cities."""
        if questions < 4:
            raise AnalysisError(f"{questions} questions cannot locate a city", "ask 4 or more")
        self.world, self.questions, self.seed, self.draws = world, questions, seed, draws
        self.cities = choose_cities(world, seed)
        self.asked = {
            task: draw_questions(world, self.cities, task, questions, seed) for task in in_order(tasks)
        }

    @property
    def answers(self) -> int:
        """How many answers `model` asks for."""
        return len(self.cities.rows) * self.questions * len(self.asked)

    def locate(self, answer: Callable[[Questions], Float[np.ndarray, "city question"]]) -> Located:
        """Put every city where `answer` says; tasks with too few readable answers are left out."""
        implied, read = {}, {}
        for task, asked in self.asked.items():
            given = answer(asked)
            try:
                implied[task] = self.implied(asked, given)
            except AnalysisError:
                continue
            read[task] = np.isfinite(given).mean(axis=1)
        return Located(implied, read, self.world.xy[self.cities.rows].astype(np.float64))

    def implied(self, asked: Questions, answers: Float[np.ndarray, "city question"]) -> Implied:
        """Implied coordinates from answers, with the noise of the answers about training cities.

        Raises AnalysisError when too few of those can be read.
        """
        true, training = self.true(asked), ~self.cities.is_new
        noise = fit_noise(asked.task, true[training].ravel(), answers[training].ravel())
        rng = np.random.default_rng([self.seed, _PLACES, asked.task.key])
        fewer = [k for k in FEWER if k < len(asked)]
        first = first_grid(self.world.xy[self.world.old()])
        return implied_coordinates(asked, answers, noise, first, rng, draws=self.draws, fewer=fewer)

    def true(self, asked: Questions) -> Int[np.ndarray, "city question"]:
        """What geometry answers."""
        return asked.answers_for(self.world.xy[self.cities.rows])

    def model(self, model: HookedQwen2, advance: Callable[[int], object] = lambda n: None) -> Located:
        """`locate` by a model's greedy answers, NaN where one cannot be read; `advance(n)` is called after
        every n answers.
        """

        def answer(asked: Questions) -> Float[np.ndarray, "city question"]:
            texts = decode_text(model, asked.prompts(self.world), asked.task.max_answer_tokens, batch=BATCH)
            advance(len(texts))
            values = np.array([asked.task.parse(text) for text in texts], dtype=np.float64)
            return values.reshape(asked.rows.shape[:2])

        return self.locate(answer)

    def controls(self) -> dict[str, Located]:
        """The same questions answered from the true coordinates, and with these answers dealt at random."""
        rng = np.random.default_rng([self.seed, _CONTROLS])

        def dealt(asked: Questions) -> Float[np.ndarray, "city question"]:
            true = self.true(asked).astype(np.float64)
            return rng.permuted(true.ravel()).reshape(true.shape)

        return {
            TRUE: self.locate(lambda asked: self.true(asked).astype(np.float64)),
            DEALT: self.locate(dealt),
        }

    @torch.no_grad()
    def probe(self, model: HookedQwen2) -> tuple[str, Float[np.ndarray, "city 2"]]:
        """Layer, and the cities' coordinates by a linear probe fitted on the partners.

        Read at the last digit and the delimiter of the city in a prompt of the first task, after the block
        where training cities that were asked about are decoded best.
        """
        rows = np.concatenate([self.cities.partners, self.cities.rows])
        task, digits = next(iter(self.asked)), self.world.config.id_digits
        tokens, last = city_prompts(task, self.world.ids[rows], id_digits=digits)
        xy, n = self.world.xy[rows].astype(np.float64), len(self.cities.partners)
        best, label, decoded = np.inf, "", np.empty((len(self.cities.rows), 2))
        on_device = torch.from_numpy(tokens).to(model.W_E.device)
        for layer, resid in residual_stream(model, on_device, range(model.cfg.n_layers)):
            x = resid[:, last : last + 2].flatten(1).double().cpu().numpy()
            found = fit_linear(x[:n], xy[:n]).predict(x[n:])
            error = np.linalg.norm(found - xy[n:], axis=1)[~self.cities.is_new].mean()
            if error < best:
                best, label, decoded = error, layer_name(layer), found
        return label, decoded


def label_of(run: Run) -> str:
    """What kind of model a run is: its tasks, and for a fine-tuned one its condition."""
    if run.parent is None:
        return family(run.config, tuned=False)
    condition = condition_of(run.config).removeprefix(PLAIN).removeprefix(", ")
    return f"fine-tuned on {'+'.join(run.config.data.tasks)}" + (f"; {condition}" if condition else "")


def locate_result(
    runs: Sequence[Run], survey: Survey, *, advance: Callable[[int], object] = lambda n: None
) -> Result:
    """Ask runs of one world the same questions and find where their answers put the cities.

    Tables: `errors` (run x task x kind of city; `answers` names the source: model, probe, or a control),
    `curve` (error against number of questions), `pairs` (distance between the coordinates that two tasks
    imply), `divergence` (index of fine-tuned runs), `models`, and `groups`, `divergence_groups` (means over
    runs of a kind, 95 % over runs). Arrays: `implied` [run task city 2], `radius` [run task city], `probe`
    [run city 2], `true` [city 2], `is_new`, `ids` [city], `partners` [partner 2], `runs`, `tasks`.
    Raises AnalysisError when a run has another world, is named twice, or no answer can be read.
    """
    worlds = {survey.world.sha256, *(run.world().sha256 for run in runs)}
    if len(worlds) != 1 or len({run.name for run in runs}) != len(runs):
        raise AnalysisError(
            f"{len(runs)} runs with {len(worlds)} different worlds cannot be asked the same questions",
            "name each run once, and runs of one world only",
        )
    found: dict[str, Located] = {}
    probes = {}
    for run in runs:
        uses(run.checkpoint().as_posix(), run.sha256())
        model = run.model()
        found[run.name] = survey.model(model, advance)
        probes[run.name] = survey.probe(model)
    if not any(one.implied for one in found.values()):
        raise AnalysisError("no answer can be read", "ask for tasks that the runs were trained on")
    is_new, partners = survey.cities.is_new, len(survey.cities.partners)
    return Result(
        kind="locate",
        params={"runs": [run.name for run in runs], "tasks": list(survey.asked)}
        | {name: getattr(survey, name) for name in ("questions", "seed", "draws")},
        values={"n_new": int(is_new.sum()), "n_training": int((~is_new).sum()), "n_partners": partners},
        tables=_tables(runs, survey, found, probes),
        arrays=_arrays(survey, found) | {"probe": np.stack([xy for _, xy in probes.values()])},
        notes=_notes(survey, found),
    )


def _tables(
    runs: Sequence[Run],
    survey: Survey,
    found: Mapping[str, Located],
    probes: Mapping[str, tuple[str, np.ndarray]],
) -> dict[str, list[Row]]:
    rng = np.random.default_rng([survey.seed, _DIVERGENCE])
    tables: dict[str, list[Row]] = {"errors": [], "curve": [], "pairs": [], "divergence": []}
    for name, located in found.items():
        _add(tables, {"run": name, "answers": "model"}, survey, located)
    for name, located in survey.controls().items():
        _add(tables, {"run": None, "answers": name}, survey, located)
    for run in runs:
        layer, decoded = probes[run.name]
        about = {"run": run.name, "answers": "probe", "task": "probe", "layer": layer, "read": None}
        distance = np.linalg.norm(decoded - found[run.name].true, axis=1)
        tables["errors"] += error_rows(about, distance, None, survey.cities.is_new)
        if run.parent is not None:
            errors = {task: found[run.name].errors(task) for task in found[run.name].implied}
            head, trained = {"run": run.name}, run.config.data.tasks
            tables["divergence"] += divergence_rows(head, errors, trained, survey.cities.is_new, rng)
    labels = {run.name: label_of(run) for run in runs}
    tables["models"] = [
        {"run": run.name, "models": labels[run.name], "base": run.parent, "seed": run.config.train.seed}
        | {"parameters": run.config.model.n_parameters, "label_noise": run.config.data.label_noise}
        for run in runs
    ]
    tables["groups"] = group_rows(tables["errors"], labels, ("task", "cities"), "error", geometric=True)
    tables["divergence_groups"] = [
        {"measure": value} | row
        for value in ("index", "control", "excess")
        for row in group_rows(tables["divergence"], labels, ("trained", "task"), value, name="value")
    ]
    return tables


def _add(tables: dict[str, list[Row]], about: Row, survey: Survey, located: Located) -> None:
    """Rows of one source of answers."""
    is_new = survey.cities.is_new
    for task, implied in located.implied.items():
        errors, mine = located.errors(task), about | {"task": task}
        read = {"layer": None, "read": float(located.read[task].mean())}
        tables["errors"] += error_rows(mine | read, errors, located.radius(task), is_new)
        sets = {k: np.linalg.norm(xy - located.true, axis=2).mean(axis=0) for k, xy in implied.fewer.items()}
        tables["curve"] += curve_rows(mine, sets | {survey.questions: errors}, is_new)
    places = {task: implied.xy for task, implied in located.implied.items()}
    tables["pairs"] += pair_rows(about, places, is_new)


def _arrays(survey: Survey, found: Mapping[str, Located]) -> dict[str, np.ndarray]:
    cities, world = survey.cities, survey.world
    shape = (len(found), len(survey.asked), len(cities.rows))
    implied, radius = np.full((*shape, 2), np.nan), np.full(shape, np.nan)
    for (i, located), (j, task) in product(enumerate(found.values()), enumerate(survey.asked)):
        if task in located.implied:
            implied[i, j], radius[i, j] = located.implied[task].xy, located.radius(task)
    return {
        "implied": implied,
        "radius": radius,
        "true": world.xy[cities.rows],
        "is_new": cities.is_new,
        "ids": world.ids[cities.rows],
        "partners": world.xy[cities.partners],
        "runs": np.array(list(found)),
        "tasks": np.array(list(survey.asked)),
    }


def _notes(survey: Survey, found: Mapping[str, Located]) -> list[str]:
    unread = [
        f"{run} cannot answer {', '.join(left)}: too few answers about training cities can be read."
        for run, located in found.items()
        if (left := [task for task in survey.asked if task not in located.implied])
    ]
    return [
        f"{survey.questions} questions of each task about each city, the city at every position in turn, "
        f"with {len(survey.cities.partners)} other training cities as partners. Greedy answers.",
        "The implied coordinates are those of largest likelihood. The noise of answers (Laplace for numbers, "
        "confusion of labels) is each model's own on training cities. Error: distance to the true "
        "coordinates, tenths of a degree, 95 % over cities. Radius: 95 % of the coordinates implied by "
        "resampled questions lie within it.",
        "Controls: training cities; the same questions answered from the true coordinates (resolution of "
        "the method), and with these answers dealt to other questions (chance).",
        "Divergence index: ln(error by other tasks / error by trained tasks) of new cities. Control: the "
        "same ratio for training cities, where tasks differ only in what their answers can tell. Excess: "
        "index minus control. 95 % over cities.",
        "Questions are of all splits: with one new city and one partner, hardly any query is held out.",
        *unread,
    ]
