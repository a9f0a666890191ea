"""What a task's rows look like: answers, what answers that ignore the cities score, overlap of the splits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Unpack

import numpy as np

from cwr_mech.data.baselines import Baseline, baseline
from cwr_mech.data.rows import Rows, StreamOptions, generate
from cwr_mech.data.splits import SPLITS, query_hash
from cwr_mech.tasks.registry import Task, get_task
from cwr_mech.world.cities import World

QUANTILES = {"min": 0.0, "5%": 0.05, "median": 0.5, "95%": 0.95, "max": 1.0}


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
    """Statistics of `n` rows of a split, and the overlap of `n` rows of every two splits.

    Raises what `generate` raises.
    """
    definition, split = get_task(task), options.get("split", "train")
    drawn: dict[str, Rows] = {}
    for name in dict.fromkeys((split, *SPLITS)):
        options["split"] = name
        drawn[name] = generate(world, task, n, **options)
    rows = drawn[split]
    sizes = (rows.cities >= 0).sum(axis=1)
    asked = {name: _queries(definition, part) for name, part in drawn.items()}
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


def _queries(task: Task, rows: Rows) -> np.ndarray:
    return query_hash(task, rows.cities[:, : task.n_max].astype(np.int64))


def _answers(task: Task, values: np.ndarray) -> dict[str, float]:
    if task.labels:
        shares = np.bincount(values, minlength=len(task.labels)) / len(values)
        return dict(zip(task.labels, shares.tolist(), strict=True))
    return dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values())).tolist(), strict=True))
