"""Shares and directions of every kind of update of one model, as a Result."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from threadpoolctl import threadpool_limits

from cwr_mech.activations.reader import ActivationStore
from cwr_mech.activations.site import Site
from cwr_mech.analysis.routing.fields import (
    UPDATES,
    Field,
    Ground,
    directions,
    shares,
    unit_fields,
)
from cwr_mech.analysis.routing.gradients import at_mentions
from cwr_mech.analysis.routing.trajectory import Spot, spots_of
from cwr_mech.analysis.routing.updates import STEPS, Reader, step_direction
from cwr_mech.data.rows import generate
from cwr_mech.errors import AnalysisError, UnknownName
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.results import Result
from cwr_mech.world.cities import World

GROUPS = ("new", "old")
Key = tuple[str, str, str, str, int]
"""(task, update, group, site, layer)."""


@threadpool_limits.wrap(limits=1, user_api="blas")
def subspace_result(
    model: HookedQwen2,
    world: World,
    tasks: Sequence[str],
    *,
    run: str,
    layers: Sequence[int] | None = None,
    sites: Sequence[str] = ("last_digit", "delimiter"),
    rank: int | None = None,
    n_rows: int = 768,
    batch: int = 56,
    lr: float = 1e-4,
    seed: int = 0,
    store: ActivationStore | None = None,
    command: str = "",
    inputs: Mapping[str, str] | None = None,
    advance: Callable[[int], object] = lambda n: None,
) -> Result:
    """Measure the updates that `tasks` ask of new and of old cities at one model state.

    layers: -1 for the embedding, L for after block L; all blocks by default. rank: directions of the
    manifold and principal bases (see `routing.fit_space`). n_rows: questions drawn for each task and group.
    lr: rate of the one step. store: activations of the same weights to fit the bases on instead of new ones.
    `advance(1)` is called for every task and site.
    Raises AnalysisError without new cities, for too few old ones, and for a rank the cities cannot give.
    """
    if not len(world.new()):
        raise AnalysisError("this world has no new cities: their updates cannot be measured")
    layers = range(model.cfg.n_layers) if layers is None else layers
    old, new = world.ids[world.old()], world.ids[world.new()]
    half = np.random.default_rng(np.random.SeedSequence([seed, 0])).permutation(len(old)) % 2 == 0
    grounds: dict[tuple[str, str, int], Ground] = {}
    fields: dict[Key, Field] = {}
    halves: dict[Key, Bool[np.ndarray, "city"] | None] = {}
    for task in tasks:
        rows = {g: generate(world, task, n_rows, split="train", seed=seed, group=g) for g in GROUPS}
        steps = {kind: step_direction(model, rows["new"], batch, kind) for kind in STEPS}
        for site in sites:
            reader = Reader(task, world.ids, site, world.config.id_digits)
            x = _stored(store, reader, layers) if store else _read(reader, model, layers)
            moved = {kind: reader.change(model, steps[kind], lr) for kind in STEPS}
            for layer in layers:
                here, places = x[layer], world.xy.astype(np.float64)
                rows_of = {"old": world.old(), "new": world.new()}
                known = here[rows_of["old"]], places[rows_of["old"]]
                grounds[task, site, layer] = Ground.fit(*known, half, rank, seed)
                for group in GROUPS:
                    for step in STEPS:
                        key: Key = (task, step, group, site, layer)
                        at = rows_of[group]
                        fields[key] = Field(moved[step][layer + 1, at], here[at], places[at], True)
                        halves[key] = half if group == "old" else None
            for group, ids in (("new", new), ("old", old)):
                found = at_mentions(
                    model, rows[group], site, ids, slots=(0,), id_digits=world.config.id_digits
                )
                for layer in (one for one in layers if one < model.cfg.n_layers - 1):
                    cities, gradient = found.city_means(layer)
                    at = world.rows(cities)
                    key = (task, "gradient", group, site, layer)
                    fields[key] = Field(-gradient, x[layer][at], world.xy[at].astype(np.float64), False)
                    halves[key] = half[np.searchsorted(world.old(), at)] if group == "old" else None
            advance(1)
    share_rows: list[dict[str, Any]] = []
    direction_rows: list[dict[str, Any]] = []
    for index, (key, field) in enumerate(fields.items()):
        task, kind, group, site, layer = key
        if not np.any(field.updates):
            continue  # nothing below the embedding answers to a city: its last digit is every city's
        rng = np.random.default_rng(np.random.SeedSequence([seed, 1, index]))
        place = {"run": run, "task": task, "update": kind, "group": group, "site": site, "layer": layer}
        place["hook"] = Site.parse(layer).hook
        ground = grounds[task, site, layer]
        others = _others(fields, key, tasks)
        share_rows += [place | row for row in shares(field, ground, halves[key], others, rng)]
        direction_rows.append(place | directions(field, ground, halves[key], rng))
    return Result(
        kind="subspace",
        command=command,
        inputs=dict(inputs or {}),
        params={
            "runs": [run],
            "tasks": list(tasks),
            "updates": list(UPDATES),
            "sites": list(sites),
            "layers": list(layers),
            "rank": rank,
            "n_rows": n_rows,
            "batch": batch,
            "lr": lr,
            "seed": seed,
        },
        values={"n_new": len(new), "n_old": len(old), "d_model": model.cfg.d_model},
        tables={
            "shares": share_rows,
            "directions": direction_rows,
            "spaces": [
                {"task": t, "site": s, "layer": layer, "rank": g.whole.bases["manifold"].rank}
                | {"map_variance": g.whole.manifold.variance}
                | _chosen(spots_of(model, world, t, tasks), s, layer)
                for (t, s, layer), g in grounds.items()
            ],
        },
        notes=[
            f"Bases are fitted on {len(old)} old cities in the task's own prompt; an old city is measured in "
            "the basis of the half it is not in. Intervals: 95 %, bootstrap over cities of one model; they "
            "say nothing about other models.",
            "gradient: minus the gradient of the answer's loss at a first-named city, mean over questions. "
            f"adam, plain: change of the activation by one step of rate {lr:g} on questions that name new "
            "cities, Adam with settled averages and plain gradient of the same length.",
            "null: uniformly random subspaces of the same rank (exact mean and variance); like: random "
            "subspaces with the activations' own covariance, which rise and fall with the share itself.",
            "The outcome is the share at the site at which interchange says that the task reads a city "
            "(`cause`); the best-decodable site stands beside it.",
        ],
    )


def _chosen(spots: Sequence[Spot], site: str, layer: int) -> dict[str, Any]:
    """Whether a site was chosen by cause or decodability, and its interchange intervention accuracy if so."""
    here = [spot for spot in spots if (spot.site, spot.layer) == (site, layer)]
    by = {spot.chosen for spot in here}
    return {"cause": "cause" in by, "decodable": "decodability" in by, "iia": here[0].iia if here else None}


def _read(
    reader: Reader, model: HookedQwen2, layers: Sequence[int]
) -> dict[int, Float[np.ndarray, "city d_model"]]:
    values = reader.read(model)
    return {layer: values[layer + 1] for layer in layers}


def _stored(
    store: ActivationStore, reader: Reader, layers: Sequence[int]
) -> dict[int, Float[np.ndarray, "city d_model"]]:
    hooks = {layer: Site.parse(layer).hook for layer in layers}
    return {layer: store.get(hook, reader.task, reader.site, reader.ids) for layer, hook in hooks.items()}


def _others(
    fields: Mapping[Key, Field], key: Key, tasks: Sequence[str]
) -> Float[np.ndarray, "other p"] | None:
    """The other tasks' updates at the same place, where they are about the same cities."""
    mine = fields[key].xy
    found = [fields[task, *key[1:]] for task in tasks if task != key[0] and (task, *key[1:]) in fields]
    kept = [field.updates for field in found if np.array_equal(field.xy, mine) and np.any(field.updates)]
    return unit_fields(kept) if kept else None


def choose_layers(names: Sequence[str] | None, n_layers: int) -> list[int] | None:
    """Layers by name ("embed", "0", ...) as numbers; None for none given. Raises UnknownName."""
    if names is None:
        return None
    known = ["embed", *map(str, range(n_layers))]
    for name in names:
        if name not in known:
            raise UnknownName("layer", name, known)
    return [known.index(name) - 1 for name in names]
