"""Where new cities are put during a fine-tuning: along the manifold (misplaced) and off it, against steps.

At every checkpoint the map is fitted anew on the training cities as the model then holds them, and training
cities are placed on maps they took no part in, so that a map that moves as a whole is no displacement. Each
prompt is read at two sites of the base: `cause`, where interchange interventions say that its answers read a
city (`analysis/patching/sites.py`), and `decodability`, where the map is clearest, whether answers read it or
not. A site whose interchange moves less than half of the answers is marked weak.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Literal

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from cwr_mech.activations.cities import city_states
from cwr_mech.activations.site import POSITIONS, Site
from cwr_mech.analysis.best import EXPLAINED, HALF, best
from cwr_mech.analysis.manifold.manifold import fit_manifold
from cwr_mech.analysis.manifold.placement import place_each
from cwr_mech.analysis.patching.sites import CausalSites, first_read, known_sites
from cwr_mech.analysis.probing.probe import place_errors, random_folds
from cwr_mech.analysis.routing.displacement import Origin, displaced
from cwr_mech.analysis.similarity.cka import linear_cka
from cwr_mech.analysis.stats.ridge import fit_linear
from cwr_mech.analysis.study import each
from cwr_mech.errors import AnalysisError
from cwr_mech.experiments.finetuning import condition_of
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.results import Result, Row
from cwr_mech.training.runs import Run
from cwr_mech.world.cities import World

Chosen = Literal["cause", "decodability"]
SITES_NOTE = (
    "Each prompt is read at two sites: by cause, where interchanging the base's state moves the answers, and "
    "by decodability, where its map is clearest. Weak: interchange moves less than half of the answers, or "
    "the base answers too few; no measure of the task is taken from there."
)


@dataclass(frozen=True)
class ChosenSite:
    """The site at which a prompt's cities are read, and why there.

    `variance`: share of the activations' variance that the map explains; `iia`: share of answers that follow
    when the state there is interchanged, None where the base answers too few questions of the task for that.
    """

    task: str
    at: Site
    variance: float
    chosen: Chosen = "decodability"
    iia: float | None = None

    @property
    def weak(self) -> bool:
        """Whether interchanging the site moves less than half of the answers, or was not possible."""
        return self.iia is None or self.iia < HALF

    @property
    def layer(self) -> int:
        """The layer as a number: -1 for the embedding."""
        return self.at.number()

    @property
    def columns(self) -> Row:
        """The spot in a row of a table."""
        where = {"prompt": self.task, "layer": self.layer, "site": self.at.position}
        return where | {"chosen": self.chosen, "iia": self.iia, "weak": self.weak}


@threadpool_limits.wrap(limits=1, user_api="blas")
def clearest(model: HookedQwen2, world: World, task: str, positions: Sequence[str] = POSITIONS) -> ChosenSite:
    """The layer and site at which place explains the largest share of training cities' variance, left out
    one by one, in a task's prompt. Only layers that an answer can read are tried: all but the last.
    """
    old, xy = world.old(), world.xy[world.old()].astype(np.float64)
    found: list[Row] = []
    for position in positions:
        x = city_states(model, task, world.ids[old], position, world.config.id_digits)
        for layer in range(model.cfg.n_layers - 1):
            if np.ptp(x[layer + 1], axis=0).max() > 0:
                at = Site.parse(layer, position=position)
                found.append({"at": at, EXPLAINED: fit_manifold(x[layer + 1], xy).variance})
    if not found:
        raise AnalysisError(f"cities cannot be told apart anywhere in a {task} prompt")
    clear = best(found, EXPLAINED)
    return ChosenSite(task, clear["at"], clear[EXPLAINED])


@threadpool_limits.wrap(limits=1, user_api="blas")
def chosen_sites(model: HookedQwen2, world: World, task: str, known: Sequence[str]) -> tuple[ChosenSite, ...]:
    """The sites of a task's prompt in a base: chosen by cause, then by decodability.

    A task that the base answers too seldom to be interchanged is read where the first of the tasks `known`
    that it does answer is; a base that reads a city at one site in none of them has no site by cause.
    """
    found, site = None, None
    with suppress(AnalysisError):
        found = known_sites(model, world, task)
    with suppress(AnalysisError):
        site = (found or first_read(model, world, known)).primary
    clear = clearest(model, world, task)
    clear = replace(clear, iia=_iia(found, clear.at))
    if site is None:
        return (clear,)
    old, spot = world.old(), ChosenSite(task, site, 0.0, "cause", _iia(found, site))
    x = read(model, world, spot)[old]
    if np.ptp(x, axis=0).max():
        spot = replace(spot, variance=fit_manifold(x, world.xy[old].astype(np.float64)).variance)
    return spot, clear


def _iia(found: CausalSites | None, site: Site) -> float | None:
    return None if found is None else float(found.row(site)["iia"])


FOLDS = 3
"""Maps and probes on which a training city is placed by cities that were not fitted on it."""


@threadpool_limits.wrap(limits=1, user_api="blas")
def placed(x: Float[np.ndarray, "city d_model"], world: World, rng: np.random.Generator) -> Row:
    """New and training cities on the map of the activations `x` of all cities.

    Errors in tenths of a degree: `along_*` of the nearest point of the map, `probe_*` by a linear probe (the
    paper's measure). `off_new`: distance off the manifold in units of the median training city. `excess_*`:
    the typical displacement beyond training cities, with intervals over cities: along the manifold, and off
    it in units of the training cities' root mean square distance. `cka_new`: debiased linear CKA over new
    cities between their activations and what a map of all training cities gives to their true coordinates.
    Raises AnalysisError for a world without new cities.
    """
    if not len(world.new()):
        raise AnalysisError("this world has no new cities: no trajectory can be computed")
    old, xy = world.old(), world.xy.astype(np.float64)
    is_new = np.asarray(world.is_new, dtype=bool)
    fold = random_folds(len(old), np.random.default_rng(0), k=FOLDS)
    (found,) = place_each([x], xy, is_new, fold)
    decoded = fit_linear(x[~is_new], xy[~is_new]).predict(x[is_new])
    crossed = np.empty((len(old), 2))
    for held in range(FOLDS):
        test = fold == held
        crossed[test] = fit_linear(x[old][~test], xy[old][~test]).predict(x[old][test])
    along, off = found.excess_along(rng), found.excess_off(rng)
    unit = float(np.sqrt(np.mean(found.off**2)))
    ideal = fit_manifold(x[~is_new], xy[~is_new]).map(xy[is_new])
    return {
        "n_new": int(is_new.sum()),
        "along_new": float(np.mean(found.rms_along())),
        "along_old": float(np.mean(found.along)),
        "off_new": float(np.mean(found.off_ratio())),
        "off_old": float(np.mean(found.off) / np.median(found.off)),
        **along.columns("excess_along"),
        "excess_off": off.value / unit,
        "excess_off_lo": off.lo / unit,
        "excess_off_hi": off.hi / unit,
        "cka_new": linear_cka(x[is_new], ideal),
        "probe_new": float(place_errors(decoded, xy[is_new]).mean()),
        "probe_old": float(place_errors(crossed, xy[old]).mean()),
    }


def read(model: HookedQwen2, world: World, spot: ChosenSite) -> Float[np.ndarray, "city d_model"]:
    """Activations of all cities at a spot."""
    at = spot.at.position, world.config.id_digits
    return city_states(model, spot.task, world.ids, *at, layers=[spot.layer])[0]


def trajectory(
    models: Mapping[int, Callable[[], HookedQwen2]],
    world: World,
    spots: Sequence[ChosenSite],
    *,
    origins: Mapping[ChosenSite, Origin] = MappingProxyType({}),
    followed: Sequence[str] | None = None,
    seed: int = 0,
) -> list[Row]:
    """Rows of `placed` for checkpoints (step -> loader) and spots.

    `origins`: where cities stood before at a spot, for the columns of `displaced`. `followed`: the prompts
    that are read at every checkpoint (all by default), the others are read at the last one only.
    Raises AnalysisError for a world without new cities.
    """
    rows = []
    for step, load in models.items():
        every = followed is None or step == max(models)
        here = [(k, spot) for k, spot in enumerate(spots) if every or spot.task in (followed or ())]
        if not here:
            continue
        model = load()
        for index, spot in here:
            x, rng = read(model, world, spot), np.random.default_rng([seed, step, index])
            rows.append(_row(step, x, world, spot, origins.get(spot), rng))
    return rows


def _row(
    step: int,
    x: Float[np.ndarray, "city d_model"],
    world: World,
    spot: ChosenSite,
    origin: Origin | None,
    rng: np.random.Generator,
) -> Row:
    return {"step": step} | spot.columns | placed(x, world, rng) | displaced(origin, x, world, rng)


def trajectory_result(
    runs: Sequence[Run], prompts: Sequence[str] | None = None, *, last: bool = False, seed: int = 0
) -> Result:
    """Fine-tuned runs followed from their base to their end; what several share is computed once.

    `prompts`: tasks whose prompts are read, by default those that a run was trained on. `last`: only the
    first and the last checkpoint. A run of which the end alone is kept begins with its base. Kind
    "trajectory": table `trajectory` (rows of `trajectory` with the run's) and `spots`.
    """
    chosen: dict[tuple[str, str], tuple[ChosenSite, ...]] = {}
    starts: dict[tuple[str, str, ChosenSite], tuple[Row, Origin]] = {}
    rows: list[Row] = []
    for run in each(runs, "placing", "models"):
        base, world, own = run.base(), run.world(), run.config.data.tasks
        asked = [(base.name, task) for task in prompts or own]
        for key in asked:
            if key not in chosen:
                chosen[key] = chosen_sites(base.model(), world, key[1], base.config.data.tasks)
        spots = [spot for key in asked for spot in chosen[key]]
        first, *later = run.steps
        source, at = run, first
        if not later:
            first, later, source, at = 0, [run.last_step], base, base.last_step
        weights = source.sha256(at)
        known = {spot: (weights, world.sha256, spot) for spot in spots}
        if unknown := [spot for spot in spots if known[spot] not in starts]:
            model = source.model(at)
            for spot in unknown:
                x, rng = read(model, world, spot), np.random.default_rng([seed, first, 0])
                row = _row(first, x, world, spot, None, rng)
                starts[known[spot]] = row, Origin.fit(x, world, seed)
        origins = {spot: starts[key][1] for spot, key in known.items()}
        models = {step: partial(run.model, step) for step in (later[-1:] if last else later)}
        ends = trajectory(models, world, spots, origins=origins, followed=own, seed=seed)
        about = {"run": run.name, "base": base.name, "set": "+".join(own)}
        about |= {"condition": condition_of(run.config), "route": run.config.route.name}
        rows += [about | row for row in (*(starts[known[spot]][0] for spot in spots), *ends)]
    bases = list(dict.fromkeys(str(run.parent) for run in runs))
    spot_rows = [
        {"base": base} | spot.columns | {"hook": spot.at.hook, "map_variance": spot.variance}
        for (base, _), several in chosen.items()
        for spot in several
    ]
    return Result(
        kind="trajectory",
        params={"runs": [run.name for run in runs], "bases": bases, "last": last}
        | {"prompts": list(prompts or ["own"]), "seed": seed},
        values={"n_models": len(runs), "n_bases": len(bases)},
        tables={"trajectory": rows, "spots": spot_rows},
        notes=[
            "Along: distance of the nearest point of the map from the true coordinates, tenths of a "
            "degree. Off: distance from the map, in units of the median training city. The map is fitted "
            "on training cities of the same checkpoint; training cities on maps they took no part in.",
            SITES_NOTE,
        ],
    )
