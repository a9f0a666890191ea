"""Conditions of a fine-tuning, and the subspaces they need, fitted on training cities of the base model.

condition           gradient that flows back into mentions of the cities chosen
unprojected         as it is
on-manifold         its projection onto the directions in which training cities differ because of their place
off-manifold        what is left without these directions
random              its projection onto the same subspaces turned at random: the control of `on-manifold`
random-complement   what is left without the turned subspaces: the control of `off-manifold`
covariance-matched  its projection onto random combinations of training cities' activations, which have the
                    activations' own covariance: the stricter control of `on-manifold`
matched-complement  what is left without these: the stricter control of `off-manifold`
penalty             as it is, and a penalty on the distance from the affine space of the manifold's directions

Projecting leaves other ways for what a question about new cities teaches: parameters above the site, and
tokens beside the city's. `train_only` closes the first, `elsewhere` "cut" the second.

A gradient passes the subspaces of several layers in turn. The manifold's lie close together (0.81 of one in
the next); random ones drawn for each layer alone would each stop what the one above let through, and differ
from the manifold's in more than direction. So one random rotation turns all subspaces of a model, and the
covariance-matched ones take the same combinations of cities everywhere. `draw` says which ones.

All conditions see the same rows in the same order, start from the same weights, take the same steps and
project at the same sites. A site (layer, token position, task, slot) is used only where there is a map:
elsewhere "the manifold's directions" would be a fit to noise.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from cwr_mech.activations.cities import residual_at
from cwr_mech.activations.site import POSITIONS
from cwr_mech.analysis.manifold.bases import map_directions, random_rotation
from cwr_mech.analysis.manifold.manifold import fit_manifold
from cwr_mech.analysis.routing.gradients import check_reached
from cwr_mech.analysis.routing.projection import Frame, Keep, Place, penalise, project
from cwr_mech.config import Part, RouteConfig
from cwr_mech.data.mentions import Mentions, means_by_city, mentions_of
from cwr_mech.data.rows import Rows, generate
from cwr_mech.errors import AnalysisError
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.registry import get_task
from cwr_mech.training.loop import RowsHook
from cwr_mech.world.cities import World

KEPT: Mapping[str, Keep] = MappingProxyType(
    {
        "unprojected": "all",
        "on-manifold": "inside",
        "random": "inside",
        "covariance-matched": "inside",
        "off-manifold": "outside",
        "random-complement": "outside",
        "matched-complement": "outside",
    }
)
"""Condition -> the part of the gradient that is kept of the condition's subspace."""
Choose = Callable[[Float[np.ndarray, "p rank"], Float[np.ndarray, "city p"]], Float[np.ndarray, "p rank"]]
"""(the manifold's directions at a site, training cities' activations there) -> directions to use."""
ROWS = 3000
LEAST_PROJECTED = 0.1
"""Share of the variance that coordinates must explain where a gradient is projected. Less than for a report
about directions (`cwr_mech.analysis.best.LEAST_MAP`): where a city is read from two tokens, either holds part
of it, and a token left unprojected is a way round."""


def fit_frames(
    model: HookedQwen2,
    world: World,
    tasks: Sequence[str],
    layers: Sequence[int],
    *,
    sites: Sequence[str] = POSITIONS,
    rank: int,
    choose: Choose | None = None,
    least_map: float = LEAST_PROJECTED,
    n_rows: int = ROWS,
) -> dict[Place, Frame]:
    """A frame for each layer, site, task and slot with a map, fitted on training cities in training
    questions.

    Each city counts once, with its mean activation over the questions that name it in that slot. `choose`
    gives other directions in place of the manifold's. Raises AnalysisError for a layer without a
    gradient, for too few cities, for a rank they cannot give, and when a slot has a map at none of the layers
    at some site: updates would pass there unprojected.
    """
    frames: dict[Place, Frame] = {}
    for task in tasks:
        rows = generate(world, task, n_rows, split="train", seed=0, group="old")
        for site in sites:
            found = mentions_of(rows, site, id_digits=world.config.id_digits)
            activations = read_mentions(model, rows, found, layers)
            for slot in range(get_task(task).n_max):
                here = found.slot == slot
                best = -np.inf
                for layer in layers:
                    ids, x = means_by_city(found.city[here], activations[layer][here])
                    xy = world.xy_of(ids).astype(np.float64)
                    manifold = fit_manifold(x, xy)
                    best = max(best, manifold.variance)
                    if manifold.variance >= least_map:
                        columns = map_directions(manifold, xy, rank)
                        columns = choose(columns, x) if choose else columns
                        frames[Place(layer, site, task, slot)] = _frame(columns, x)
                if best < least_map:
                    raise AnalysisError(
                        f"there is no map to project onto at {site} (city {slot + 1} of {task}): place "
                        f"explains at most {best:.2f} of the activations' variance at the layers chosen, "
                        f"{least_map} is needed",
                        "choose other layers or positions, or train the base for longer",
                    )
    return frames


def read_mentions(
    model: HookedQwen2, rows: Rows, found: Mentions, layers: Sequence[int], *, batch: int = 256
) -> dict[int, Float32[np.ndarray, "mention d_model"]]:
    """Activations of the residual stream at mentions in `rows`, after each of the blocks `layers`.

    Raises AnalysisError as `check_reached` does.
    """
    check_reached(layers, model.cfg.n_layers)
    return residual_at(model, rows.tokens, found.row, found.position, layers, batch=batch)


def _frame(columns: Float[np.ndarray, "p rank"], x: Float[np.ndarray, "city p"]) -> Frame:
    centre = x.mean(axis=0)
    off = (x - centre) - (x - centre) @ columns @ columns.T
    return Frame(columns, centre, float(np.sqrt(np.mean(np.sum(off**2, axis=1)))))


def random_directions(condition: str, d_model: int, world: World, draw: int) -> Choose | None:
    """What the random conditions put in place of the manifold's directions; None for the others.

    Draws are independent of each other. Draw 0 of the rotation is that of the zoo's models.
    """
    if condition.startswith("random"):
        turn = random_rotation(d_model, np.random.default_rng(draw))
        return lambda columns, _: turn @ columns
    if condition in ("covariance-matched", "matched-complement"):
        # The same cities in every slot, or nearly: a slot's rarest city may be missing from its rows.
        mix = np.random.default_rng([draw, 1]).standard_normal((len(world.old()), len(world.old())))
        return lambda columns, x: np.linalg.qr((x - x.mean(axis=0)).T @ mix[: len(x), : columns.shape[1]])[0]
    return None


def condition_hook(
    settings: RouteConfig, model: HookedQwen2, world: World, parts: Sequence[Part]
) -> RowsHook | None:
    """The training hook of a fine-tuning that starts from `model`; None where no gradient is changed.

    parts: the fine-tuning's mixture. Frames are fitted for the tasks whose rows name the cities chosen;
    replay that names none of them needs no map. Raises AnalysisError without layers, without new cities and
    without rows about them, and as `fit_frames` does.
    """
    if not settings.changes:
        return None
    if not settings.layers:
        raise AnalysisError("no layer to project at", "name them, as in --route-layers 1,2")
    ids = world.ids[world.new()] if settings.cities == "new" else None
    if ids is not None and not len(ids):
        raise AnalysisError("this world has no new cities whose gradients could be projected")
    tasks = list(dict.fromkeys(part.task for part in parts if ids is None or part.group != "old"))
    if not tasks:
        raise AnalysisError("no row of this fine-tuning names a new city, so no gradient would be projected")
    choose = random_directions(settings.condition, model.cfg.d_model, world, settings.draw)
    frames = fit_frames(
        model, world, tasks, settings.layers, sites=settings.positions, rank=settings.rank, choose=choose
    )
    also: dict[str, Any] = {"cut": settings.elsewhere == "cut", "id_digits": world.config.id_digits}
    if settings.condition == "penalty":
        return penalise(frames, settings.weight, ids, **also)
    return project(frames, KEPT[settings.condition], ids, rescale=settings.rescale, **also)
