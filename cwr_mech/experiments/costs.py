"""What a plan will cost, from a speed that was recorded or is measured now."""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from cwr_mech.config import ModelConfig, RunConfig, TrainConfig, WorldConfig
from cwr_mech.data.batches import parts_of
from cwr_mech.data.rows import concat, generate
from cwr_mech.errors import CwrError
from cwr_mech.experiments.presets import preset
from cwr_mech.tasks.registry import PAPER_TASKS, TASKS
from cwr_mech.training.runs import Run, load_run
from cwr_mech.world.cities import load_world

SECONDS = 1.0
"""How long a speed is measured."""
PAPERS_GPU_HOURS = 9.0
"""The paper's authors report 8 to 10 hours for a seven-task run of 42 million rows on their GPU."""


def row_lengths(id_digits: int = 4, rows: int = 600) -> dict[str, float]:
    """Mean tokens a row of each task; they hardly depend on the world."""
    world = load_world(WorldConfig(n_cities=64, id_digits=id_digits))
    return {task: float(generate(world, task, rows).lengths.mean()) for task in TASKS}


def recorded_speed(
    config: RunConfig, lengths: Mapping[str, float], folders: Iterable[Path]
) -> tuple[float, Run] | None:
    """Tokens a second at which the first run among `folders` of the same model, batch and optimiser was
    trained, whatever else its machine did then, and that run; None where there is none.
    """
    wanted = (config.model, config.train.batch_size, config.train.optimizer)
    for folder in folders:
        try:
            run = load_run(folder)
            if (run.config.model, run.config.train.batch_size, run.config.train.optimizer) != wanted:
                continue
            rates = [line["rows_per_second"] for line in run.metrics() if "rows_per_second" in line]
        except CwrError:
            continue
        if rates:
            return rates[-1] * tokens_a_row(run.config, lengths), run
    return None


def tokens_per_second(
    model: ModelConfig, train: TrainConfig, clock: Callable[[], float] = time.process_time
) -> float:
    """Tokens a second of training steps on all seven tasks, for one thread that has a core to itself.

    Of `train` the size of a batch and the optimiser matter. The clock counts the time of this process only,
    so a busy machine does not spoil the estimate.
    """
    from cwr_mech.model.qwen2 import HookedQwen2
    from cwr_mech.training.engine import Engine
    from cwr_mech.training.optimizer import Optimizer
    from cwr_mech.training.parameters import FlatParameters

    world = load_world(WorldConfig(n_cities=64))
    each = max(1, train.batch_size // len(PAPER_TASKS))
    rows = concat([generate(world, task, each) for task in PAPER_TASKS])
    flat = FlatParameters(model)
    flat.load(HookedQwen2(model, seed=0))
    engine, optimizer = Engine(flat), Optimizer(flat, train)
    first = np.ones_like(rows.lengths)
    steps, start = -1, clock()
    while steps < 1 or clock() - start < SECONDS:  # the first step warms up and is not counted
        engine.batch(rows.tokens, rows.lengths, first, 1.0)
        optimizer.step(0, optimizer.norm())
        steps += 1
        if steps == 0:
            start = clock()
    return steps * float(rows.lengths.sum()) / (clock() - start)


def tokens_a_row(config: RunConfig, lengths: Mapping[str, float]) -> float:
    """Mean tokens of a row of a run's mixture; a user's own task counts as the longest of the others."""
    parts = parts_of(config.data)
    weights = np.array([part.rows or part.weight for part in parts], dtype=float)
    longest = max(lengths.values())
    return float(weights @ [lengths.get(part.task, longest) for part in parts] / weights.sum())


def tokens_of(config: RunConfig, lengths: Mapping[str, float]) -> float:
    """Tokens a run reads in training."""
    return config.train.steps * config.train.batch_size * tokens_a_row(config, lengths)


def seconds_of(config: RunConfig, speed: float, lengths: Mapping[str, float]) -> float:
    """Time to train a run at `speed` tokens a second, without the answers scored on the way."""
    return tokens_of(config, lengths) / speed


def papers_gpu_seconds(config: RunConfig, lengths: Mapping[str, float]) -> float | None:
    """Time on the paper's GPU, from PAPERS_GPU_HOURS and the tokens of a run; None for other models."""
    if config.model != ModelConfig():
        return None
    speed = tokens_of(preset("paper"), lengths) / (3600 * PAPERS_GPU_HOURS)
    return seconds_of(config, speed, lengths)
