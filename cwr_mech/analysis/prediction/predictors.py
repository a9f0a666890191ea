"""Can divergence be told before training? Similarity of tasks from what there is before, against what came.

Predictors, one symmetric matrix over tasks each:
- gradient fields at initialisation (or after the first steps): for each task the mean gradient of its loss at
  every city, [city d_model]; compared by cosine with noise taken out, by debiased CKA over cities (kernel
  alignment) and by the overlap of leading directions;
- from the tasks alone: shared invariances, number of cities in a question, entropy of the answers.
Outcomes: similarity of trained representations, and transfer. Cells of a matrix that share a task are not
independent, so the null relabels tasks (Mantel), exactly for 7 tasks.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from cwr_mech.analysis.manifold.bases import leading_directions
from cwr_mech.analysis.routing.gradients import city_gradients
from cwr_mech.analysis.similarity.cka import linear_cka
from cwr_mech.analysis.stats.subspaces import projection_kernel
from cwr_mech.analysis.stats.testing import mantel_test
from cwr_mech.data.rows import Rows, generate
from cwr_mech.errors import AnalysisError
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.registry import PAPER_TASKS, get_task
from cwr_mech.world.cities import World

EXACT_DRAWS = math.factorial(len(PAPER_TASKS))
"""As many orders as the paper's tasks have: enough for the Mantel test to be exact."""


Field = Float[np.ndarray, "half city d_model"]
"""A task's gradient field over cities, twice, from independent questions."""


def gradient_fields(
    model: HookedQwen2,
    world: World,
    tasks: Sequence[str],
    *,
    layer: int,
    site: str = "last_digit",
    n_rows: int = 2048,
    seed: int = 0,
) -> dict[str, Field]:
    """Each task's mean gradient at every training city named first, for cities that all halves have in
    common.

    Raises AnalysisError when fewer than 8 cities are named in all of them.
    """
    halves: dict[str, list[Rows]] = {}
    ids = world.ids[world.old()]
    for task in tasks:
        rows = generate(world, task, n_rows, split="train", seed=seed, group="old")
        halves[task] = [rows.take(slice(start, None, 2)) for start in (0, 1)]
        for half in halves[task]:
            ids = np.intersect1d(ids, half.cities[:, 0])
    if len(ids) < 8:  # told before the gradients, which take minutes in a large model
        raise AnalysisError(
            f"only {len(ids)} cities are named first by all tasks in {n_rows} questions each",
            "draw more questions: --rows",
        )
    ask = partial(city_gradients, model, site=site, ids=ids, id_digits=world.config.id_digits, layer=layer)
    return {task: np.stack([ask(half)[1][layer + 1] for half in both]) for task, both in halves.items()}


def field_cosine(a: Field, b: Field) -> float:
    """Cosine of two fields, the noise of questions taken out by the halves; NaN when one is all noise."""
    lengths = [float(np.sum(first * second)) for first, second in (a, b)]
    across = np.mean([np.sum(x * y) for x in a for y in b])
    return float(across / np.sqrt(lengths[0] * lengths[1])) if min(lengths) > 0 else float("nan")


RANK = 4
"""Leading directions of a field whose overlap is measured."""


def similarities(fields: Mapping[str, Field]) -> dict[str, Float[np.ndarray, "task task"]]:
    """Predictors from gradient fields: "cosine", "alignment" (debiased CKA over cities) and "overlap"."""
    pairs = list(fields.values())
    whole = [first + second for first, second in pairs]
    bases = [leading_directions(field, RANK) for field in whole]
    measures = {
        "cosine": [[field_cosine(a, b) for b in pairs] for a in pairs],
        "alignment": [[linear_cka(a, b) for b in whole] for a in whole],
        "overlap": [[projection_kernel(a, b) for b in bases] for a in bases],
    }
    return {name: np.array(values, dtype=np.float64) for name, values in measures.items()}


def task_properties(
    world: World, tasks: Sequence[str] = PAPER_TASKS, *, n: int = 4096
) -> dict[str, dict[str, float]]:
    """Invariance dimension, mean number of cities, and entropy of the answers (bits, numbers in 64 equally
    wide bins of their range) of each task.
    """
    found = {}
    for task in tasks:
        rows = generate(world, task, n, split="train", seed=0, group="old")
        values = rows.values.astype(np.float64)
        bins = len(get_task(task).labels) or 64
        counts, _ = np.histogram(values, bins=bins)
        share = counts[counts > 0] / counts.sum()
        found[task] = {
            "invariance": float(len(get_task(task).invariances)),
            "cities": float((rows.cities >= 0).sum(axis=1).mean()),
            "entropy": float(-np.sum(share * np.log2(share))),
        }
    return found


def property_similarities(
    properties: Mapping[str, Mapping[str, float]],
) -> dict[str, Float[np.ndarray, "task task"]]:
    """Predictors from the tasks alone: shared invariances (intersection over union of the generators), and
    minus the difference in number of cities and in entropy.
    """
    tasks = list(properties)
    kept = [get_task(task).invariances for task in tasks]
    shared = [[len(a & b) / max(len(a | b), 1) for b in kept] for a in kept]
    near = {
        name: [[-abs(properties[a][name] - properties[b][name]) for b in tasks] for a in tasks]
        for name in ("cities", "entropy")
    }
    return {
        name: np.array(values, dtype=np.float64) for name, values in ({"invariances": shared} | near).items()
    }


def try_prediction(
    predictor: Float[np.ndarray, "task task"],
    outcome: Float[np.ndarray, "task task"],
    tasks: Sequence[str],
    rng: np.random.Generator,
    *,
    leave_out: Sequence[str] = (),
) -> dict[str, Any]:
    """Correlation over pairs of tasks, its p by relabelling tasks, and its range when each task is left out.

    An outcome that is not symmetric is averaged with its transpose.
    """
    kept = [i for i, task in enumerate(tasks) if task not in leave_out]
    x, y = (m[np.ix_(kept, kept)] for m in (predictor, (outcome + outcome.T) / 2))
    upper = np.triu_indices(len(kept), 1)
    if not (np.isfinite(x[upper]).all() and np.ptp(x[upper]) > 0):
        return {"n": len(upper[0]), "r": None, "p": None, "r_lo": None, "r_hi": None, "without": None}
    found = mantel_test(x, y, rng, draws=EXACT_DRAWS)
    left = {}
    for out in range(len(kept)):
        rest = np.delete(np.arange(len(kept)), out)
        cells = np.triu_indices(len(rest), 1)
        a, b = (m[np.ix_(rest, rest)][cells] for m in (x, y))
        if min(np.ptp(a), np.ptp(b)) > 0:
            left[tasks[kept[out]]] = float(np.corrcoef(a, b)[0, 1])
    least = min(left, key=lambda task: left[task])
    return {
        "n": len(upper[0]),
        "r": found.value,
        "p": found.p,
        "r_lo": left[least],
        "r_hi": max(left.values()),
        "without": least,
    }
