"""Do tasks pull the weights the same way? Cosines, subspaces and overlaps of parameter gradients.

Per weight matrix and task: small-batch gradients, flattened; their effective number of directions; the share
of one half's energy in the leading directions of the other half (of the same task, and of other tasks); the
overlap of tasks' leading subspaces with its analytic null, and their principal angles; cosines between tasks'
expected gradients, with the noise of batches taken out. For matrices that write into the residual stream, the
share of the gradient's energy whose output lies in the map's directions.
Cosine as conflict: Yu et al., PCGrad, arXiv 2001.06782.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float

from cwr_mech.activations.cities import city_states
from cwr_mech.analysis.manifold.bases import leading_directions, map_directions, random_bases_like
from cwr_mech.analysis.manifold.manifold import fit_manifold
from cwr_mech.analysis.routing.gradients import gradient_set, parts, writing
from cwr_mech.analysis.stats.means import mean_of
from cwr_mech.analysis.stats.subspaces import (
    cosine_interval,
    effective_directions,
    energy,
    null_of,
    null_share,
    principal_angles,
    projection_kernel,
)
from cwr_mech.analysis.study import stage
from cwr_mech.data.rows import generate
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.results import Result, Row, where
from cwr_mech.world.cities import World

LIKE_DRAWS = 20


def conflict_result(
    model: HookedQwen2,
    world: World,
    tasks: Sequence[str],
    *,
    run: str,
    n_batches: int = 16,
    batch: int = 32,
    rank: int = 4,
    seed: int = 0,
) -> Result:
    """Compare the parameter gradients of `tasks` at one model state, on questions that name new cities.

    Raises AnalysisError for fewer than 2 * rank batches.
    """
    n = n_batches * batch
    rows = {task: generate(world, task, n, split="train", seed=seed, group="new") for task in tasks}
    with stage("weights", len(tasks), "tasks") as advance:
        found = gradient_set(model, rows, batch, advance=advance)
    written: list[Row] = []
    for index, task in enumerate(tasks):
        x = city_states(model, task, world.ids, id_digits=world.config.id_digits)[:, world.old()]
        rng = np.random.default_rng([seed, index])
        written += [{"task": task} | row for row in _written(found.moments[task], x, world, rank, rng)]
    cosines: list[Row] = []
    spaces: list[Row] = []
    overlaps: list[Row] = []
    for name, size in found.sizes.items():
        mine = parts(found.vectors(name), tasks)
        bases = {task: leading_directions(g[::2], rank) for task, g in mine.items()}
        for task in tasks:
            fitted, held_out = mine[task][::2], mine[task][1::2]
            null = null_share(held_out, rank, size)
            others = [energy(held_out, bases[other]).share for other in tasks if other != task]
            spaces.append(
                {"matrix": name, "task": task, "effective_directions": effective_directions(mine[task])}
                | {"own": energy(held_out, bases[task]).share}
                | {"own_in_sample": energy(fitted, bases[task]).share}
                | {"others": mean_of(others), "null": null.mean, "null_hi": null.hi}
            )
        for a, b in combinations(tasks, 2):
            cosine = cosine_interval(mine[a], mine[b])
            cosines.append({"matrix": name, "task_a": a, "task_b": b, "cosine": cosine.value, **cosine.ends})
            null, angles = null_share(bases[b].T, rank, size), principal_angles(bases[a], bases[b])
            overlaps.append(
                {"matrix": name, "task_a": a, "task_b": b, "overlap": projection_kernel(bases[a], bases[b])}
                | {"null": null.mean, "null_hi": null.hi}
                | {"least_angle": float(angles[0]), "largest_angle": float(angles[-1])}
            )
    grid = np.eye(len(tasks))
    for row in where(cosines, matrix="all"):
        i, j = tasks.index(row["task_a"]), tasks.index(row["task_b"])
        grid[i, j] = grid[j, i] = row["cosine"]
    return Result(
        kind="conflict",
        params={"runs": [run], "tasks": list(tasks), "group": "new", "batches": n_batches, "batch": batch}
        | {"rank": rank, "seed": seed},
        values={"n_parameters": found.sizes["all"]},
        tables={"cosines": cosines, "spaces": spaces, "overlaps": overlaps, "written": written},
        arrays={"cosine": grid, "tasks": np.array(tasks)},
        notes=[
            f"{n_batches} batches of {batch} questions about new cities for each task, loss on every "
            "token. Cosines are between expected gradients: the noise of batches is taken out, so they may "
            "leave -1 to 1; intervals by the jackknife over batches of one model.",
            f"Subspaces: {rank} leading directions of every other batch; shares are measured on the rest. "
            "Angles in degrees.",
            "written: share of the energy of the gradients of a matrix that writes into the residual stream "
            f"whose output lies in the map's {rank} leading directions after that block.",
        ],
    )


def _written(
    moments: Mapping[str, Float[np.ndarray, "d_model d_model"]],
    x: Float[np.ndarray, "layer city d_model"],
    world: World,
    rank: int,
    rng: np.random.Generator,
) -> list[Row]:
    """For each matrix that writes into the residual stream, how much of the gradient's energy writes into the
    map's directions after that block, in the task's own prompt; and into random ones.
    """
    xy = world.xy[world.old()].astype(np.float64)
    found = []
    for name in writing(len(x) - 1):
        here = x[int(name.split(".")[0]) + 1]
        columns = map_directions(fit_manifold(here, xy), xy, rank)
        moment = moments[name] / np.trace(moments[name])
        null = null_of(float(np.sum(moment**2)), len(moment), rank)
        like = [_inside(moment, columns) for columns in random_bases_like(here, rank, LIKE_DRAWS, rng)]
        found.append(
            {"matrix": name, "layer": int(name.split(".")[0]), "share": _inside(moment, columns)}
            | {"null": null.mean, "null_hi": null.hi, "like": float(np.mean(like))}
            | {"like_hi": float(np.quantile(like, 0.975))}
        )
    return found


def _inside(moment: Float[np.ndarray, "d d"], columns: Float[np.ndarray, "d rank"]) -> float:
    """Share of a second moment of trace 1 inside the span of orthonormal columns."""
    return float(np.sum(columns * (moment @ columns)))
