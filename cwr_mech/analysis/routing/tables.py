"""Shares and directions of every kind of update of one model, as a Result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
from jaxtyping import Float, Int

from cwr_mech.activations.cities import city_states
from cwr_mech.activations.reader import ActivationStore
from cwr_mech.activations.site import Site
from cwr_mech.analysis.routing.fields import UPDATES, Field, Ground, directions, halves, shares, unit_fields
from cwr_mech.analysis.routing.gradients import city_gradients
from cwr_mech.analysis.routing.trajectory import ChosenSite, chosen_sites
from cwr_mech.analysis.routing.updates import STEPS, step_direction, stepped
from cwr_mech.analysis.study import each
from cwr_mech.data.rows import generate
from cwr_mech.errors import AnalysisError
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.results import Result, Row
from cwr_mech.world.cities import World

GROUPS = ("new", "old")
Key = tuple[str, str, str, str, int]
"""(task, update, group, site, layer)."""


@dataclass(frozen=True)
class Asked:
    """What is measured.

    layers: -1 for the embedding, L for after block L. sites: token positions. rank: directions of the
    manifold and principal bases (see `fit_space`). n_rows: questions drawn for each task and group, `batch`
    of them for one gradient. lr: rate of the one step.
    """

    layers: Sequence[int]
    sites: Sequence[str] = ("last_digit", "delimiter")
    rank: int | None = None
    n_rows: int = 768
    batch: int = 56
    lr: float = 1e-4
    seed: int = 0


def subspace_result(
    model: HookedQwen2,
    world: World,
    tasks: Sequence[str],
    asked: Asked,
    *,
    run: str,
    store: ActivationStore | None = None,
) -> Result:
    """Measure the updates that `tasks` ask of new and of training cities at one model state.

    To the sites asked those are added at which interchange says that the tasks read a city. store:
    activations of the same weights to fit the bases on instead of new ones.
    Raises AnalysisError without new cities, for too few old ones, and for a rank the cities cannot give.
    """
    spots = {task: chosen_sites(model, world, task, tasks) for task in tasks}
    read_at = [spot.at.position for several in spots.values() for spot in several if spot.chosen == "cause"]
    asked = replace(asked, layers=list(asked.layers), sites=list(dict.fromkeys([*asked.sites, *read_at])))
    grounds, fields = measured(model, world, tasks, asked, store)
    share_rows: list[Row] = []
    direction_rows: list[Row] = []
    for index, (key, field) in enumerate(fields.items()):
        task, kind, group, site, layer = key
        if not np.any(field.updates):
            continue  # nothing below the embedding answers to a city: its last digit is every city's
        rng = np.random.default_rng([asked.seed, 1, index])
        place = {"run": run, "task": task, "update": kind, "group": group, "site": site, "layer": layer}
        place["hook"] = Site.parse(layer).hook
        ground, others = grounds[task, site, layer], _others(fields, key, tasks)
        share_rows += [place | row for row in shares(field, ground, others, rng)]
        direction_rows.append(place | directions(field, ground, rng))
    spaces = [
        {"task": t, "site": s, "layer": layer, "rank": g.whole.rank}
        | {"map_variance": g.whole.manifold.variance, **_chosen(spots[t], s, layer)}
        for (t, s, layer), g in grounds.items()
    ]
    n_old = len(world.old())
    return Result(
        kind="subspace",
        params=vars(asked) | {"runs": [run], "tasks": list(tasks), "updates": list(UPDATES)},
        values={"n_new": len(world.new()), "n_old": n_old, "d_model": model.cfg.d_model},
        tables={"shares": share_rows, "directions": direction_rows, "spaces": spaces},
        notes=[
            f"Bases are fitted on {n_old} training cities in the task's own prompt; a training city is "
            "measured in the basis of the half it is not in. Intervals: 95 %, bootstrap over cities of one "
            "model; they say nothing about other models.",
            "gradient: minus the gradient of the answer's loss at a first-named city, mean over questions. "
            f"adam, plain: change of the activation by one step of rate {asked.lr:g} on questions that name "
            "new cities, Adam with settled averages and plain gradient of the same length.",
            "null: uniformly random subspaces of the same rank (exact mean and variance); like: random "
            "subspaces with the activations' own covariance, which rise and fall with the share itself.",
            "The outcome is the share at the site at which interchange says that the task reads a city "
            "(`cause`); the best-decodable site stands beside it.",
        ],
    )


def measured(
    model: HookedQwen2, world: World, tasks: Sequence[str], asked: Asked, store: ActivationStore | None = None
) -> tuple[dict[tuple[str, str, int], Ground], dict[Key, Field]]:
    """The bases of each (task, site, layer), and the updates of all kinds that `tasks` ask of new and of
    training cities, which are held against them.

    Raises AnalysisError without new cities, for too few old ones, and for a rank the cities cannot give.
    """
    if not len(world.new()):
        raise AnalysisError("this world has no new cities: their updates cannot be measured")
    at, places = {"new": world.new(), "old": world.old()}, world.xy.astype(np.float64)
    half, digits = halves(len(at["old"]), asked.seed), world.config.id_digits
    half_of = {"new": None, "old": half}
    grounds: dict[tuple[str, str, int], Ground] = {}
    fields: dict[Key, Field] = {}
    for task in each(tasks, "updates", "tasks"):
        draw = partial(generate, world, task, asked.n_rows, split="train", seed=asked.seed)
        rows = {group: draw(group=group) for group in GROUPS}
        steps = {kind: step_direction(model, rows["new"], asked.batch, kind) for kind in STEPS}
        after = {kind: stepped(model, step, asked.lr) for kind, step in steps.items()}
        positions = list(dict.fromkeys(name for site in asked.sites for name in site.split("+")))
        everywhere = "+".join(positions)  # a pass reads all positions; sites are made of them
        read = partial(city_states, task=task, ids=world.ids, position=everywhere, id_digits=digits)
        states = read(model)
        changes = {kind: read(one) - states for kind, one in after.items()}
        asks = {
            group: city_gradients(model, rows[group], everywhere, world.ids[cities], id_digits=digits)
            for group, cities in at.items()
        }
        for site in asked.sites:
            part = partial(_part, site=site, positions=positions)
            before, moved = part(states), {kind: part(change) for kind, change in changes.items()}
            x = {layer: before[layer + 1] for layer in asked.layers}
            if store is not None:
                x = {layer: _stored(store, task, world.ids, site, layer) for layer in asked.layers}
            for layer in asked.layers:
                here, old = x[layer], at["old"]
                ground = Ground.fit(here[old], places[old], half, asked.rank, asked.seed)
                grounds[task, site, layer] = ground
                for group, step in product(GROUPS, STEPS):
                    mine, of = at[group], half_of[group]
                    new = Field(moved[step][layer + 1, mine], here[mine], places[mine], True, of)
                    fields[task, step, group, site, layer] = new
            # Minus the gradient of the loss at a city that is the first of a question.
            for group, (ids, every) in asks.items():
                mine, gradients = world.rows(ids), part(every)
                of = None if group == "new" else half[np.searchsorted(at[group], mine)]
                for layer in (one for one in x if one < model.cfg.n_layers - 1):
                    new = Field(-gradients[layer + 1], x[layer][mine], places[mine], False, of)
                    fields[task, "gradient", group, site, layer] = new
    return grounds, fields


def _part(
    values: Float[np.ndarray, "layer city all"], site: str, positions: Sequence[str]
) -> Float[np.ndarray, "layer city p"]:
    """What is read at a site (positions joined by "+"), of values read at `positions`, side by side."""
    pieces = np.split(values, len(positions), axis=-1)
    return np.concatenate([pieces[positions.index(name)] for name in site.split("+")], axis=-1)


def _chosen(spots: Sequence[ChosenSite], site: str, layer: int) -> Row:
    """Whether a site was chosen by cause or decodability, and its interchange intervention accuracy if so."""
    here = [spot for spot in spots if (spot.at.position, spot.layer) == (site, layer)]
    by = {spot.chosen for spot in here}
    return {"cause": "cause" in by, "decodable": "decodability" in by, "iia": here[0].iia if here else None}


def _stored(
    store: ActivationStore, task: str, ids: Int[np.ndarray, " city"], site: str, layer: int
) -> Float[np.ndarray, "city d_model"]:
    """What `city_states` would read of the model whose activations these are."""
    parts = [store.get(Site.parse(layer).hook, task, position, ids) for position in site.split("+")]
    return np.concatenate(parts, axis=-1)


def _others(
    fields: Mapping[Key, Field], key: Key, tasks: Sequence[str]
) -> Float[np.ndarray, "other p"] | None:
    """The other tasks' updates at the same place, where they are about the same cities."""
    mine = fields[key].xy
    found = [fields[task, *key[1:]] for task in tasks if task != key[0] and (task, *key[1:]) in fields]
    kept = [field.updates for field in found if np.array_equal(field.xy, mine) and np.any(field.updates)]
    return unit_fields(kept) if kept else None
