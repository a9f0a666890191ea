"""The causal arms: the frames they need, fitted on ordinary cities of the model before fine-tuning.

arm            gradient that flows back into mentions of the routed cities
none           as it is
manifold       its projection onto the directions in which ordinary cities differ because of their place
complement     what is left without these directions
random         its projection onto as many random directions: the placebo of `manifold`
random-complement  what is left without as many random directions: the placebo of `complement`
pull           as it is, and a penalty on the distance from the affine space of the manifold's directions

All arms see the same rows in the same order, start from the same weights, take the same steps, route at the
same places, and their routed gradients keep their norm. A place (layer, site, task, slot) is routed only if
there is a map: elsewhere "the manifold's directions" would be a fit to noise.
"""

from collections.abc import Sequence
from typing import get_args

import numpy as np
from jaxtyping import Float

from cwr_mech.analysis.bases import leading_directions, random_basis
from cwr_mech.analysis.gradients import at_mentions
from cwr_mech.analysis.manifold import fit_manifold
from cwr_mech.config import RouteConfig
from cwr_mech.dataset import generate
from cwr_mech.errors import AnalysisError
from cwr_mech.model import HookedQwen2
from cwr_mech.routes import Frame, Keep, Place, RowsHook, pull, route
from cwr_mech.tasks import get_task
from cwr_mech.world import World

ARMS: tuple[str, ...] = get_args(RouteConfig.model_fields["arm"].annotation)
ROUTED = {"new-cities": "new", "all": "all"}
"""Whose gradients are routed: the words of the command line -> the settings'."""
SITES = ("last_digit", "delimiter")
ROWS = 3000
LEAST_MAP = 0.3
"""Share of the activations' variance that place must explain, by leave-one-out error, where one routes."""


def fit_frames(
    model: HookedQwen2,
    world: World,
    tasks: Sequence[str],
    layers: Sequence[int],
    *,
    sites: Sequence[str] = SITES,
    rank: int,
    at_random: bool = False,
    least_map: float = LEAST_MAP,
    n_rows: int = ROWS,
    seed: int = 0,
) -> dict[Place, Frame]:
    """A frame for each layer, site, task and slot with a map, fitted on old cities in training questions.

    Each city counts once, with its mean activation over the questions that name it in that slot. `at_random`
    puts uniformly random directions around the same centres. Raises AnalysisError for a layer without a
    gradient, for too few cities, for a rank they cannot give, and when there is a map nowhere.
    """
    frames: dict[Place, Frame] = {}
    best = -np.inf
    for index, task in enumerate(tasks):
        rows = generate(world, task, n_rows, split="train", seed=seed, group="old")
        rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
        for site in sites:
            found = at_mentions(model, rows, site, id_digits=world.config.id_digits)
            for slot in range(get_task(task).n_max):
                here = found.take(found.mentions.slot == slot)
                for layer in layers:
                    ids, x = here.city_means(layer, "activations")
                    xy = world.xy_of(ids).astype(np.float64)
                    manifold = fit_manifold(x, xy)
                    best = max(best, manifold.variance)
                    if manifold.variance >= least_map:
                        mapped = manifold.map(xy)
                        columns, _ = leading_directions(mapped - mapped.mean(axis=0), rank)
                        if at_random:
                            columns = random_basis(x.shape[1], rank, rng).columns
                        frames[Place(layer, site, task, slot)] = _frame(columns, x)
    if not frames:
        raise AnalysisError(
            f"there is no map to route along: place explains at most {best:.2f} of the activations' variance "
            f"at the layers chosen, {least_map} is needed",
            "choose other layers, or train the base for longer",
        )
    return frames


def _frame(columns: Float[np.ndarray, "p rank"], x: Float[np.ndarray, "city p"]) -> Frame:
    centre = x.mean(axis=0)
    off = (x - centre) - (x - centre) @ columns @ columns.T
    return Frame(columns, centre, float(np.sqrt(np.mean(np.sum(off**2, axis=1)))))


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
    frames = fit_frames(
        model,
        world,
        tasks,
        route_config.layers,
        rank=route_config.rank,
        at_random=route_config.arm.startswith("random"),
    )
    digits = world.config.id_digits
    if route_config.arm == "pull":
        return pull(frames, route_config.weight, ids, id_digits=digits)
    keep: Keep = "outside" if route_config.arm.endswith("complement") else "inside"
    return route(frames, keep, ids, id_digits=digits)
