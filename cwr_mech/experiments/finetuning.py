"""Fine-tuning sets: what a trained model is shown so that it learns new cities.

A set holds, for every trained task, rows that name at least one new city, and replay: rows of training
cities. It may hold elicitation rows: a few rows of all seven tasks. In the paper these keep the model from
forgetting how the other tasks are asked; it says that they hold no new city, its settings say that every one
does, so untrained tasks were taught about new cities directly. Here they are a choice, and the default is
none.

Replay covers the trained tasks or all tasks with the same number of rows in total, and the number of steps
does not depend on the set, so that the conditions of a comparison differ in one thing only. The paper's own
sets (RECIPES), whose steps grow with the set, are there by name.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np

from cwr_mech.config import PAPER, Part, Protocol, RunConfig, WorldConfig, parse
from cwr_mech.errors import AnalysisError, ConfigError, one_of
from cwr_mech.tasks.registry import PAPER_TASKS, get_task, ordered
from cwr_mech.world.cities import load_world

Replay = Literal["none", "trained", "all"]
Elicitation = Literal["none", "world", "new"]
REPLAYS: tuple[Replay, ...] = get_args(Replay)
ELICITATIONS: tuple[Elicitation, ...] = get_args(Elicitation)

NEW_ROWS, REPLAY_ROWS, ELICITATION_ROWS = 100_000, 20_000, 256
"""Rows a trained task with new cities and of replay, and rows a task of elicitation, as in the paper."""
PAPER_LR = 1e-5
PLAIN = "replay trained, elicitation none"
"""How `condition_of` calls the usual fine-tuning, to which it adds what is done to the update."""
REHEARSED = "replay all, elicitation none"
"""How it calls one whose replay covers all tasks, so that the others' answers are not forgotten."""
HALF_REHEARSED = "replay all (half of the rows), elicitation none"
"""How it calls one that replays all tasks in as many rows as it has about new cities."""
STEP_SHARE = 0.087
"""Steps of a fine-tuning as a share of its base's: the paper's 28,560 of 328,128."""
LR_SHARE = 1 / 30
"""Peak rate of a fine-tuning as a share of its base's: the paper's 1e-5 of 3e-4."""


@dataclass(frozen=True)
class Recipe:
    """One of the paper's kinds of fine-tuning set."""

    n_tasks: int
    elicitation: Elicitation
    epochs: int


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "ft1": Recipe(1, "none", 30),
        "ft2": Recipe(2, "none", 30),
        "ft3": Recipe(3, "none", 20),
        "ftwb1": Recipe(1, "new", 30),
        "ftwb2": Recipe(2, "new", 30),
        "ftwb3": Recipe(3, "new", 20),
    }
)


def _sets(table: str) -> tuple[tuple[str, ...], ...]:
    by_letter = {get_task(name).letter: name for name in PAPER_TASKS}
    return tuple(tuple(by_letter[letter] for letter in entry.split("+")) for entry in table.split())


PAIRS = _sets(
    "D+T A+Co I+P Cr+D T+A Co+I P+Cr D+A T+Co A+I Co+P I+Cr P+D Cr+T D+Co T+I A+P Co+Cr I+D P+T Cr+A"
)
"""The paper's 21 pairs in its numbering from 1; the first 8 are also its two-task pretraining sets."""
DISTANCE_PAIRS = tuple(pair for pair in PAIRS if "distance" in pair)
OTHER_PAIRS = tuple(pair for pair in PAIRS if "distance" not in pair)
TRIPLES = _sets("D+T+A Co+I+P Cr+D+T A+Co+I P+Cr+D T+A+Co I+P+Cr D+T+Co")
"""The paper's 8 three-task pretraining sets in its numbering from 1."""


def finetuning_parts(
    tasks: Sequence[str],
    *,
    replay: Replay = "trained",
    elicitation: Elicitation = "none",
    new_rows: int = NEW_ROWS,
    replay_rows: int = REPLAY_ROWS,
    repeat_rows: bool = False,
) -> tuple[Part, ...]:
    """The parts of a fine-tuning set for `tasks`.

    Elicitation rows with new cities come after the trained rows of the same stream; with `repeat_rows` they
    are the first of them once more, as in the paper.
    """
    tasks = in_order(tasks)
    every = ordered((*PAPER_TASKS, *tasks))
    parts = [Part(task=task, group="new", rows=new_rows) for task in tasks]
    if replay != "none":
        covered = tasks if replay == "trained" else every
        each = math.ceil(replay_rows * len(tasks) / len(covered))
        parts += [Part(task=task, group="old", rows=each) for task in covered]
    if elicitation != "none":
        group: Literal["new", "old"] = "new" if elicitation == "new" else "old"
        start = 0 if repeat_rows else max(new_rows, replay_rows)
        parts += [Part(task=task, group=group, rows=ELICITATION_ROWS, start=start) for task in every]
    return tuple(parts)


def in_order(tasks: Sequence[str]) -> tuple[str, ...]:
    """The tasks in the order used everywhere. Raises UnknownName, or ConfigError when one is named twice."""
    for task in tasks:
        get_task(task)
    if not tasks or len(set(tasks)) != len(tasks):
        raise ConfigError(f"tasks must be given once each, got {', '.join(tasks) or 'none'}")
    return ordered(tasks)


def world_with_new(base: RunConfig, new_cities: str | None) -> WorldConfig:
    """The base's world with these new cities (None: those it held back).

    Raises ConfigError when there are none, or when the training cities would not be those the base was
    trained on.
    """
    settings = base.world.model_dump() | ({} if new_cities is None else {"new": new_cities})
    config = parse(WorldConfig, settings)
    if config.new == "none":
        raise ConfigError(f"the world of run {base.name} holds no new cities", "say which: --new atlantis")
    if config == base.world:
        return config
    world, before = load_world(config), load_world(base.world)
    if not np.array_equal(world.ids[world.old()], before.ids[before.old()]):
        raise ConfigError(
            f"new cities '{config.new}' are not new to run {base.name}, which was trained on them",
            f"its own are '{base.world.new}'; train a base with --set world.new={config.new}",
        )
    return config


def finetuning_config(
    base: RunConfig,
    tasks: Sequence[str],
    *,
    new_cities: str | None = None,
    replay: Replay = "trained",
    elicitation: Elicitation = "none",
    protocol: Protocol | None = None,
    steps: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    new_rows: int = NEW_ROWS,
    replay_rows: int = REPLAY_ROWS,
) -> RunConfig:
    """Settings of a fine-tuning of the run whose settings are `base`.

    By default it keeps the base's protocol, seed and schedule and takes fixed shares of its steps and rate,
    whatever the tasks. Raises ConfigError or UnknownName.
    """
    tasks = in_order(tasks)
    world = world_with_new(base, new_cities)
    parts = finetuning_parts(
        tasks, replay=replay, elicitation=elicitation, new_rows=new_rows, replay_rows=replay_rows
    )
    train = {
        "steps": max(1, round(base.train.steps * STEP_SHARE)) if steps is None else steps,
        "lr": base.train.lr * LR_SHARE if lr is None else lr,
        "seed": base.train.seed if seed is None else seed,
    }
    half = replay == "all" and replay_rows >= new_rows
    differs = {
        "replay": ("all-half" if half else replay, "trained"),
        "elicit": (elicitation, "none"),
        "new": (world.new, base.world.new),
        "seed": (train["seed"], base.train.seed),
    }
    kind = "ft-" + "+".join(tasks)
    kind += "".join(f"-{what}-{value}" for what, (value, usual) in differs.items() if value != usual)
    return _assemble(base, kind, world, tasks, parts, protocol or base.data.protocol, train)


def paper_config(
    base: RunConfig,
    recipe: str,
    tasks: Sequence[str],
    *,
    new_cities: str | None = None,
    seed: int | None = None,
) -> RunConfig:
    """Settings of one of the paper's fine-tunings: its set, its steps, its rate. Raises UnknownName."""
    one_of("recipe", recipe, RECIPES)
    kind, tasks = RECIPES[recipe], in_order(tasks)
    if len(tasks) != kind.n_tasks:
        raise ConfigError(f"recipe {recipe} trains {kind.n_tasks} task(s), got {', '.join(tasks)}")
    world = world_with_new(base, new_cities)
    parts = finetuning_parts(tasks, elicitation=kind.elicitation, repeat_rows=True)
    batch = 128
    train = {
        "steps": kind.epochs * math.ceil(total_rows(parts) / batch),
        "batch_size": batch,
        "lr": PAPER_LR,
        "schedule": "linear",
        "warmup": 50,
        "weight_decay": 0.01,
        "seed": base.train.seed if seed is None else seed,
    }
    other = f"-seed-{train['seed']}" if train["seed"] != base.train.seed else ""
    return _assemble(base, f"{recipe}-{'+'.join(tasks)}{other}", world, tasks, parts, PAPER, train)


def _assemble(
    base: RunConfig,
    kind: str,
    world: WorldConfig,
    tasks: tuple[str, ...],
    parts: tuple[Part, ...],
    protocol: Protocol,
    train: Mapping[str, object],
) -> RunConfig:
    """The base's settings with these in their place; what cities and gradients were trained is not kept."""
    own = base.data
    noise = {"label_noise": own.label_noise, "label_noise_kind": own.label_noise_kind, "seed": own.seed}
    usual = {"optimizer": "adamw", "train_only": ()}
    return parse(
        RunConfig,
        {
            "name": re.sub(r"[^A-Za-z0-9._+-]+", "-", f"{base.name}-{kind}"),
            "world": world,
            "data": {"tasks": tasks, "parts": parts, "protocol": protocol, **noise},
            "model": base.model,
            "train": {**base.train.model_dump(), **usual, **train},
        },
    )


def total_rows(parts: Sequence[Part]) -> int:
    """Rows of a set all of whose parts are finite."""
    return sum(part.rows or 0 for part in parts)


def check_recipes(configs: Mapping[str, RunConfig]) -> None:
    """Run -> settings of fine-tunings that are to be averaged over bases.

    Raises AnalysisError when two of one set and condition differ in steps, rows a step, rate or optimizer:
    that difference would be taken for one of bases.
    """
    first: dict[tuple[object, ...], str] = {}
    for name, config in configs.items():
        other = first.setdefault((config.data.tasks, condition_of(config)), name)
        ours, theirs = recipe_text(config), recipe_text(configs[other])
        if ours != theirs:
            raise AnalysisError(
                f"{other} and {name} cannot be averaged: {theirs} and {ours}", "analyse them apart"
            )


def recipe_text(config: RunConfig) -> str:
    """How long and at which rate a model was trained, in words."""
    train = config.train
    return f"{train.steps} steps of {train.batch_size} rows at {train.lr:g} ({train.optimizer})"


def condition_of(config: RunConfig) -> str:
    """What distinguishes a fine-tuning from others besides its tasks: replay, elicitation rows, what is done
    to the gradient, modules that are trained, label noise.
    """
    data = config.data
    others = [part for part in data.parts if part.task not in data.tasks]
    own_old = [part for part in data.parts if part.task in data.tasks and part.group == "old"]
    replay = "none"
    if any(part.group == "old" and part.start == 0 for part in others):
        replay = "all"
        old, new = (total_rows([p for p in data.parts if p.group == group]) for group in ("old", "new"))
        replay += " (half of the rows)" if old >= new else ""
    elif any(part.start == 0 for part in own_old):
        replay = "trained"
    elicitation = "none"
    if any(part.group == "new" for part in others):
        elicitation = "new"
    elif any(part.group == "old" and part.start > 0 for part in others):
        elicitation = "world"
    route = f", {config.route.name}" if config.route.changes else ""
    only = f", only {'+'.join(config.train.train_only)}" if config.train.train_only else ""
    return f"replay {replay}, elicitation {elicitation}{route}{only}{noise_of(config)}"


def noise_of(config: RunConfig) -> str:
    """ ", 20 % of answers wrong" of a run with label noise, otherwise ""."""
    data = config.data
    kind = "" if data.label_noise_kind == "uniform" else f" ({data.label_noise_kind})"
    return f", {100 * data.label_noise:g} % of answers wrong{kind}" if data.label_noise else ""
