"""Where new cities are put during a fine-tuning: along the map (misplaced) and off it, against steps.

At every checkpoint the map is fitted anew on the ordinary cities as the model then holds them, and ordinary
cities are placed on maps they took no part in, so that a map that moves as a whole is no displacement. One
place in the model is read for each prompt: where the map of the base is clearest.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from cwr_mech.activations.site import Site
from cwr_mech.analysis.manifold.manifold import fit_manifold
from cwr_mech.analysis.manifold.placement import place_all
from cwr_mech.analysis.probing.probe import place_errors, random_folds
from cwr_mech.analysis.routing.displacement import Origin, displaced
from cwr_mech.analysis.routing.updates import Reader
from cwr_mech.analysis.similarity.cka import linear_cka
from cwr_mech.analysis.stats.ridge import fit_linear
from cwr_mech.errors import AnalysisError
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.world.cities import World

SITES = ("last_digit", "delimiter")


@dataclass(frozen=True)
class Spot:
    """Where a prompt's cities are read: after block `layer`, at a site; `variance`: of the map there."""

    task: str
    layer: int
    site: str
    variance: float

    @property
    def hook(self) -> str:
        """TransformerLens name of the place."""
        return Site.parse(self.layer).hook


@threadpool_limits.wrap(limits=1, user_api="blas")
def clearest(
    model: HookedQwen2,
    world: World,
    task: str,
    *,
    sites: Sequence[str] = SITES,
    layers: Iterable[int] | None = None,
) -> Spot:
    """The layer and site at which place explains the largest share of old cities' variance, left out one by
    one, in a task's prompt. Only layers that an answer can read are tried: all but the last.
    """
    old, xy = world.old(), world.xy[world.old()].astype(np.float64)
    found = []
    for site in sites:
        x = Reader(task, world.ids[old], site, world.config.id_digits).read(model)
        for layer in range(model.cfg.n_layers - 1) if layers is None else layers:
            if np.ptp(x[layer + 1], axis=0).max() > 0:
                found.append(Spot(task, layer, site, fit_manifold(x[layer + 1], xy).variance))
    if not found:
        raise AnalysisError(f"cities cannot be told apart anywhere in a {task} prompt")
    return max(found, key=lambda spot: spot.variance)


@threadpool_limits.wrap(limits=1, user_api="blas")
def placed(
    x: Float[np.ndarray, "city d_model"], world: World, rng: np.random.Generator, *, folds: int = 3
) -> dict[str, Any]:
    """New and ordinary cities on the map of the activations `x` of all cities.

    Errors in tenths of a degree: `along_*` of the nearest point of the map, `probe_*` by a linear probe (the
    paper's measure). `off_new`: distance off the map in units of the median ordinary city. `excess_*`: the
    typical displacement beyond ordinary cities, with intervals over cities: along the map, and off it in
    units of the ordinary cities' root mean square distance. `cka_new`: debiased linear CKA over new cities
    between their activations and what a map of all ordinary cities gives to their true places.
    """
    old, xy = world.old(), world.xy.astype(np.float64)
    is_new = np.asarray(world.is_new, dtype=bool)
    fold = random_folds(len(old), np.random.default_rng(0), k=folds)
    found = place_all(x, xy, is_new, fold)
    decoded = fit_linear(x[~is_new], xy[~is_new]).predict(x[is_new])
    crossed = np.empty((len(old), 2))
    for held in range(folds):
        test = fold == held
        crossed[test] = fit_linear(x[old][~test], xy[old][~test]).predict(x[old][test])
    along, off = found.excess_along(rng), found.excess_off(rng)
    unit = float(np.sqrt(np.mean(found.ordinary.off**2)))
    ideal = fit_manifold(x[~is_new], xy[~is_new]).map(xy[is_new])
    return {
        "n_new": int(is_new.sum()),
        "along_new": float(np.mean(found.along())),
        "along_old": float(np.mean(found.ordinary.along)),
        "off_new": float(np.mean(found.off_ratio())),
        "off_old": float(np.mean(found.ordinary.off) / np.median(found.ordinary.off)),
        "excess_along": along.value,
        "excess_along_lo": along.lo,
        "excess_along_hi": along.hi,
        "excess_off": off.value / unit,
        "excess_off_lo": off.lo / unit,
        "excess_off_hi": off.hi / unit,
        "cka_new": linear_cka(x[is_new], ideal),
        "probe_new": float(place_errors(decoded, xy[is_new]).mean()),
        "probe_old": float(place_errors(crossed, xy[old]).mean()),
    }


def read(model: HookedQwen2, world: World, spot: Spot) -> Float[np.ndarray, "city d_model"]:
    """Activations of all cities at a spot."""
    return Reader(spot.task, world.ids, spot.site, world.config.id_digits).read(model)[spot.layer + 1]


def trajectory(
    models: Mapping[int, Callable[[], HookedQwen2]],
    world: World,
    spots: Sequence[Spot],
    *,
    origins: Mapping[str, Origin] = MappingProxyType({}),
    followed: Sequence[str] | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Rows of `placed` for checkpoints (step -> loader) and spots.

    `origins`: prompt -> where cities stood before, for the columns of `displaced`. `followed`: the prompts
    that are read at every checkpoint (all by default), the others are read at the last one only.
    Raises AnalysisError for a world without new cities.
    """
    if not len(world.new()):
        raise AnalysisError("this world has no new cities: there is no way of theirs to follow")
    rows = []
    for step, load in models.items():
        here = [
            (index, spot)
            for index, spot in enumerate(spots)
            if followed is None or spot.task in followed or step == max(models)
        ]
        if not here:
            continue
        model = load()
        for index, spot in here:
            x = read(model, world, spot)
            rng = np.random.default_rng(np.random.SeedSequence([seed, step, index]))
            place = {"step": step, "prompt": spot.task, "layer": spot.layer, "site": spot.site}
            place |= placed(x, world, rng)
            rows.append(place | displaced(origins.get(spot.task), x, world, rng))
    return rows
