"""Do tasks pull the weights the same way? Cosines, subspaces and overlaps of parameter gradients.

Per weight matrix and task: small-batch gradients, flattened; their effective number of directions; the share
of one half's energy in the leading directions of the other half (of the same task, and of other tasks); the
overlap of tasks' leading subspaces with its analytic null, and their principal angles; cosines between tasks'
expected gradients, with the noise of batches taken out. For matrices that write into the residual stream, the
share of the gradient's energy whose output lies in the map's directions.
Cosine as conflict: Yu et al., PCGrad, arXiv 2001.06782.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float

from cwr_mech.analysis.bases import fit_basis, leading_directions, random_basis_like
from cwr_mech.analysis.gradients import parameter_gradients
from cwr_mech.analysis.steps import Reader
from cwr_mech.analysis.subspaces import (
    cosine_interval,
    effective_directions,
    energy,
    null_share,
    principal_angles,
    projection_kernel,
)
from cwr_mech.dataset import generate
from cwr_mech.model import HookedQwen2
from cwr_mech.results import Result
from cwr_mech.world import World

LIKE_DRAWS = 20
Gradients = Mapping[str, Float[np.ndarray, "batch ..."]]


def flattened(gradients: Gradients, matrix: str) -> Float[np.ndarray, "batch p"]:
    """Gradients of one matrix, or of "all" weight matrices side by side, in float64."""
    names = matrices(gradients) if matrix == "all" else [matrix]
    return np.concatenate([gradients[name].reshape(len(gradients[name]), -1) for name in names], 1).astype(
        np.float64
    )


def matrices(gradients: Gradients) -> list[str]:
    """Names of the weight matrices, without gains and biases."""
    return [name for name, gradient in gradients.items() if gradient.ndim == 3]


def conflict_result(
    model: HookedQwen2,
    world: World,
    tasks: Sequence[str],
    *,
    run: str,
    group: str = "new",
    n_batches: int = 16,
    batch: int = 32,
    rank: int = 4,
    seed: int = 0,
    command: str = "",
    inputs: Mapping[str, str] | None = None,
    advance: Callable[[int], object] = lambda n: None,
) -> Result:
    """Compare the parameter gradients of `tasks` at one model state, on questions of one group of cities.

    `advance(1)` is called after each task. Raises AnalysisError for fewer than 2 * rank batches.
    """
    by_task: dict[str, Gradients] = {}
    written: list[dict[str, Any]] = []
    for index, task in enumerate(tasks):
        rows = generate(world, task, n_batches * batch, split="train", seed=seed, group=group)
        by_task[task] = parameter_gradients(model, rows, batch)
        reader = Reader(task, world.ids, id_digits=world.config.id_digits)
        rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
        written += [{"task": task} | row for row in _written(by_task[task], reader, model, world, rank, rng)]
        advance(1)
    names = [*matrices(by_task[tasks[0]]), "all"]
    cosines: list[dict[str, Any]] = []
    spaces: list[dict[str, Any]] = []
    overlaps: list[dict[str, Any]] = []
    for name in names:
        flat = {task: flattened(by_task[task], name) for task in tasks}
        bases = {task: leading_directions(g[::2], rank)[0] for task, g in flat.items()}
        for task in tasks:
            spaces.append({"matrix": name, "task": task} | _space(task, flat, bases, rank))
        for a, b in combinations(tasks, 2):
            found = cosine_interval(flat[a], flat[b])
            cosines.append(
                {"matrix": name, "task_a": a, "task_b": b, "cosine": found.value}
                | {"lo": found.low, "hi": found.high}
            )
            null, angles = null_share(bases[b].T, rank), principal_angles(bases[a], bases[b])
            overlaps.append(
                {"matrix": name, "task_a": a, "task_b": b, "overlap": projection_kernel(bases[a], bases[b])}
                | {"null": null.mean, "null_hi": null.high}
                | {"least_angle": float(angles[0]), "largest_angle": float(angles[-1])}
            )
    whole = {(row["task_a"], row["task_b"]): row["cosine"] for row in cosines if row["matrix"] == "all"}
    grid = np.array([[1.0 if a == b else whole.get((a, b), whole.get((b, a))) for b in tasks] for a in tasks])
    return Result(
        kind="conflict",
        command=command,
        inputs=dict(inputs or {}),
        params={"runs": [run], "tasks": list(tasks), "group": group, "batches": n_batches, "batch": batch}
        | {"rank": rank, "seed": seed},
        values={"n_parameters": int(flattened(by_task[tasks[0]], "all").shape[1])},
        tables={"cosines": cosines, "spaces": spaces, "overlaps": overlaps, "written": written},
        arrays={"cosine": grid, "tasks": np.array(tasks)},
        notes=[
            f"{n_batches} batches of {batch} questions about {group} cities for each task, loss on every "
            "token. Cosines are between expected gradients: the noise of batches is taken out, so they may "
            "leave -1 to 1; intervals by the jackknife over batches of one model.",
            f"Subspaces: {rank} leading directions of every other batch; shares are measured on the rest. "
            "Angles in degrees.",
            "written: share of the energy of the gradients of a matrix that writes into the residual stream "
            f"whose output lies in the map's {rank} leading directions after that block.",
        ],
    )


def _space(
    task: str,
    flat: Mapping[str, Float[np.ndarray, "batch p"]],
    bases: Mapping[str, Float[np.ndarray, "p rank"]],
    rank: int,
) -> dict[str, Any]:
    held_out, null = flat[task][1::2], null_share(flat[task][1::2], rank)
    others = [energy(held_out, bases[other]).share for other in flat if other != task]
    return {
        "effective_directions": effective_directions(flat[task]),
        "own": energy(held_out, bases[task]).share,
        "own_in_sample": energy(flat[task][::2], bases[task]).share,
        "others": float(np.mean(others)) if others else None,
        "null": null.mean,
        "null_hi": null.high,
    }


def _written(
    gradients: Gradients,
    reader: Reader,
    model: HookedQwen2,
    world: World,
    rank: int,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """For each matrix that writes into the residual stream, how much of the gradient's energy writes into the
    map's directions after that block, in the task's own prompt; and into random ones.
    """
    old = world.old()
    x = reader.read(model)[:, old]
    found = []
    for layer in range(model.cfg.n_layers):
        columns = fit_basis("manifold", x[layer + 1], world.xy[old].astype(np.float64), rank=rank).columns
        for name in (f"{layer}.o", f"{layer}.down"):
            outputs = gradients[name].reshape(-1, model.cfg.d_model).astype(np.float64)
            null = null_share(outputs, rank)
            like = [
                energy(outputs, random_basis_like(x[layer + 1], rank, rng).columns).share
                for _ in range(LIKE_DRAWS)
            ]
            found.append(
                {"matrix": name, "layer": layer, "share": energy(outputs, columns).share, "null": null.mean}
                | {"null_hi": null.high, "like": float(np.mean(like))}
                | {"like_hi": float(np.quantile(like, 0.975))}
            )
    return found
