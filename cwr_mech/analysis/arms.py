"""The causal arms: the frames they need, fitted on ordinary cities of the model before fine-tuning.

arm            gradient that flows back into mentions of the routed cities
none           as it is
manifold       its projection onto the directions in which ordinary cities differ because of their place
complement     what is left without these directions
random         its projection onto as many random directions: the placebo of `manifold`
random-complement  what is left without as many random directions: the placebo of `complement`
pull           as it is, and a penalty on the distance from the affine space of the manifold's directions

All arms see the same rows in the same order, start from the same weights, take the same steps, and their
routed gradients keep their norm.
"""

from collections.abc import Sequence
from typing import get_args

import numpy as np

from cwr_mech.analysis.bases import Basis, fit_basis, random_basis
from cwr_mech.analysis.gradients import at_mentions
from cwr_mech.config import RouteConfig
from cwr_mech.dataset import generate
from cwr_mech.errors import AnalysisError
from cwr_mech.model import HookedQwen2
from cwr_mech.routes import Frame, Frames, Keep, Place, RowsHook, pull, route
from cwr_mech.tasks import get_task
from cwr_mech.world import World

ARMS: tuple[str, ...] = get_args(RouteConfig.model_fields["arm"].annotation)
ROUTED = {"new-cities": "new", "all": "all"}
"""Whose gradients are routed: the words of the command line -> the settings'."""
SITES = ("last_digit", "delimiter")
ROWS = 3000


def fit_frames(
    model: HookedQwen2,
    world: World,
    tasks: Sequence[str],
    layers: Sequence[int],
    *,
    sites: Sequence[str] = SITES,
    kind: str = "manifold",
    rank: int = 8,
    n_rows: int = ROWS,
    seed: int = 0,
) -> dict[Place, Frame]:
    """A frame for every layer, site, task and slot, fitted on old cities read from training questions.

    `kind` is one of `bases.KINDS`, or "random" for uniformly random directions around the same centre. Each
    city counts once, with its mean activation over the questions that name it in that slot.
    Raises AnalysisError for a layer without a gradient, and for fewer cities than `rank` needs.
    """
    frames: dict[Place, Frame] = {}
    for index, task in enumerate(tasks):
        rows = generate(world, task, n_rows, split="train", seed=seed, group="old")
        rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
        for site in sites:
            found = at_mentions(model, rows, site, id_digits=world.config.id_digits)
            for slot in range(get_task(task).n_max):
                here = found.take(found.mentions.slot == slot)
                for layer in layers:
                    ids, x = here.city_means(layer, "activations")
                    if len(ids) <= rank:
                        raise AnalysisError(
                            f"{len(ids)} cities are too few for rank {rank} ({task}, city {slot + 1})",
                            "ask for a smaller rank or use a world of more cities",
                        )
                    basis = _fit(kind, x, world.xy_of(ids).astype(np.float64), rank, rng)
                    frames[Place(layer, site, task, slot)] = _frame(basis, x)
    return frames


def _fit(kind: str, x: np.ndarray, xy: np.ndarray, rank: int, rng: np.random.Generator) -> Basis:
    if kind == "random":
        return random_basis(x.shape[1], rank, rng)
    return fit_basis(kind, x, xy, rank=2 if kind == "probe" else rank)


def _frame(basis: Basis, x: np.ndarray) -> Frame:
    centre = x.mean(axis=0)
    off = (x - centre) - (x - centre) @ basis.columns @ basis.columns.T
    return Frame(basis.columns, centre, float(np.sqrt(np.mean(np.sum(off**2, axis=1)))))


def arm_hook(
    route_config: RouteConfig, model: HookedQwen2, world: World, tasks: Sequence[str]
) -> RowsHook | None:
    """The training hook of an arm for a fine-tuning that starts from `model`; None for arm "none".

    tasks: all tasks of which the fine-tuning has rows. Raises AnalysisError without layers or without new
    cities, and as `fit_frames` does.
    """
    if route_config.arm == "none":
        return None
    if not route_config.layers:
        raise AnalysisError("no layer to route at", "name them, as in --route-layers 1,2")
    ids = world.ids[world.new()] if route_config.cities == "new" else None
    if ids is not None and not len(ids):
        raise AnalysisError("this world has no new cities whose gradients could be routed")
    kind = "random" if route_config.arm.startswith("random") else "manifold"
    frames: Frames = fit_frames(model, world, tasks, route_config.layers, kind=kind, rank=route_config.rank)
    digits = world.config.id_digits
    if route_config.arm == "pull":
        return pull(frames, route_config.weight, ids, id_digits=digits)
    keep: Keep = "outside" if route_config.arm.endswith("complement") else "inside"
    return route(frames, keep, ids, id_digits=digits)
