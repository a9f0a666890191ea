"""Every measure between models at each layer, with controls, ceilings and claims over models, as a Result."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from cwr_mech.analysis.items import Item, bag_of_digits, digits_in_place, shared_ids
from cwr_mech.analysis.measures import Measure, compare, sample_cities
from cwr_mech.analysis.models import Member, consistency, trend
from cwr_mech.analysis.paper_values import SIMILARITY
from cwr_mech.errors import AnalysisError
from cwr_mech.results import Result

Row = dict[str, Any]
MOST = 1000


@threadpool_limits.wrap(limits=1, user_api="blas")
def similarity_result(
    layers: Mapping[int, Sequence[Item]],
    measures: Sequence[Measure],
    members: Mapping[str, Member],
    untrained: Mapping[str, Item] | None = None,
    *,
    cities: str = "old",
    draws: int = 50,
    seed: int = 0,
    command: str = "",
    inputs: dict[str, str] | None = None,
    advance: Callable[[int], object] = lambda n: None,
) -> Result:
    """`layers`: layer -> one item a model; `members`: run -> how it was trained; `untrained`: "run layer"
    -> the same place of the untrained model. At most 1,000 cities are used, drawn by `seed`.

    Tables: `pairs` (value, interval over cities, shuffled null), `references` (each model against the true
    map, the digits of the id and its untrained self), `groups` (means over pairs of models with intervals
    over models: same tasks = ceiling, disjoint tasks, by number of tasks; with and without failed models),
    `published`. Raises AnalysisError without a pair of models or for too few cities.
    """
    everything = [item for items in layers.values() for item in items]
    if len(members) < 2:
        raise AnalysisError("similarity compares models", "give at least two runs")
    ids = shared_ids([item.store for item in everything], cities)
    ids = ids[sample_cities(len(ids), MOST, np.random.default_rng([seed, 0]))]
    first = everything[0].store
    xy = first.xy[first.rows(ids)]
    fixed = {
        "true map": xy,
        "bag of id digits": bag_of_digits(ids),
        "id digits in place": digits_in_place(ids),
    }
    pairs: list[Row] = []
    references: list[Row] = []
    groups: list[Row] = []
    rng = np.random.default_rng([seed, 1])
    for layer, items in layers.items():
        arrays = [item.get(ids) for item in items]
        for measure in measures:
            matrix = np.full((len(items), len(items)), np.nan)
            for i, j in combinations(range(len(items)), 2):
                row, matrix[i, j] = _pair(
                    measure, layer, items[i], items[j], arrays[i], arrays[j], rng, draws
                )
                matrix[j, i] = matrix[i, j]
                pairs.append(row)
                advance(1)
            for item, x in zip(items, arrays, strict=True):
                others = dict(fixed)
                start = (untrained or {}).get(f"{item.run} {layer}")
                if start is not None:
                    others["itself untrained"] = start.get(ids)
                references += [_reference(measure, layer, item, x, name, y) for name, y in others.items()]
            known = [members[item.run] for item in items]
            groups += _groups(measure, layer, matrix, known, rng)
    return Result(
        kind="similarity",
        command=command,
        inputs=inputs or {},
        params={
            "runs": list(members),
            "layers": list(layers),
            "measures": [measure.name for measure in measures],
            "prompts": {item.run: item.task for item in everything},
            "site": everything[0].site,
            "cities": cities,
            "draws": draws,
            "seed": seed,
        },
        values={"n": int(ids.size), "models": len(members)},
        tables={
            "pairs": pairs,
            "references": references,
            "groups": groups,
            "models": [_member(member) for member in members.values()],
            "published": list(SIMILARITY),
        },
        notes=_notes(members, ids.size),
    )


def _pair(
    measure: Measure,
    layer: int,
    a: Item,
    b: Item,
    x: Float[np.ndarray, "city p"],
    y: Float[np.ndarray, "city q"],
    rng: np.random.Generator,
    draws: int,
) -> tuple[Row, float]:
    found = compare(measure, x, y, rng, draws=draws)
    row = {
        "measure": measure.name,
        "layer": layer,
        "run_a": a.run,
        "run_b": b.run,
        "prompt_a": a.task,
        "prompt_b": b.task,
        "value": found.interval.value,
        "ci_lo": found.interval.low,
        "ci_hi": found.interval.high,
        "null_mean": found.null_mean,
        "null_best": found.null_best,
        "alike": measure.alike,
        "reason": found.reason,
    }
    return row, found.interval.value


def _reference(
    measure: Measure,
    layer: int,
    item: Item,
    x: Float[np.ndarray, "city p"],
    name: str,
    y: Float[np.ndarray, "city q"],
) -> Row:
    try:
        value = measure.function(x, y)
    except AnalysisError:
        value = float("nan")
    return {"measure": measure.name, "layer": layer, "run": item.run, "reference": name, "value": value}


def _groups(
    measure: Measure,
    layer: int,
    matrix: Float[np.ndarray, "model model"],
    members: list[Member],
    rng: np.random.Generator,
) -> list[Row]:
    """Means over pairs of models, with all models and, where some failed, without those."""
    rows: list[Row] = []
    good = [k for k, member in enumerate(members) if not member.failed]
    choices = {"all models": list(range(len(members)))}
    if len(good) < len(members):
        choices["without failed models"] = good
    for which, kept in choices.items():
        mine, cells = [members[k] for k in kept], matrix[np.ix_(kept, kept)]
        if len(mine) < 2:
            continue
        found = consistency(cells, mine, rng)
        parts = [("same tasks, other seed", found.same, None), ("disjoint tasks", found.cross, found.test)]
        common = {"measure": measure.name, "layer": layer, "models": which}
        for name, interval, test in parts:
            if interval is not None:
                rows.append(
                    common
                    | {"group": name, "value": interval.value, "ci_lo": interval.low, "ci_hi": interval.high}
                    | {"n": interval.n, "p": None if test is None else test.p, "held_fixed": None}
                )
        if np.isfinite(found.ratio) and measure.alike == 1:
            rows.append(
                common
                | {"group": "disjoint, of the ceiling", "value": found.ratio, "ci_lo": None, "ci_hi": None}
                | {"n": len(mine), "p": None, "held_fixed": None}
            )
        if len({len(member.tasks) for member in mine}) > 1:
            rows += _trend(common, cells, mine, rng)
    return rows


def _trend(
    common: Row, cells: Float[np.ndarray, "model model"], members: list[Member], rng: np.random.Generator
) -> list[Row]:
    try:
        found = trend(cells, members, rng)
    except AnalysisError:
        return []
    return [
        common
        | {"group": f"disjoint, {group.name} task(s) each", "value": group.interval.value}
        | {"ci_lo": group.interval.low, "ci_hi": group.interval.high, "n": group.interval.n}
        | {"p": None if found.test is None else found.test.p, "held_fixed": found.held_fixed}
        for group in found.groups
    ]


def _member(member: Member) -> Row:
    return {
        "run": member.run,
        "tasks": "+".join(member.tasks),
        "seed": member.seed,
        "rows": member.rows,
        "exposure": member.exposure,
        "least_gain": None if member.gain is None else min(member.gain.values(), default=0.0),
        "failed": member.failed,
    }


def _notes(members: Mapping[str, Member], n: int) -> list[str]:
    failed = [run for run, member in members.items() if member.failed]
    unknown = [run for run, member in members.items() if member.failed is None]
    notes = [
        f"{n} cities. Intervals of pairs are over cities; intervals of groups are over models (jackknife).",
        "Controls: cities shuffled (null), the digits of the id, the untrained model; ceiling: models of the "
        "same tasks and another seed.",
        "A model has failed when it closes less than half of the gap between the best constant answer and a "
        "perfect one on a task it was trained on; failed: " + (", ".join(failed) or "none") + ".",
    ]
    if unknown:
        notes.append("Not judged, because nothing was scored during training: " + ", ".join(unknown) + ".")
    return notes
