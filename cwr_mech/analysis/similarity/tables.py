"""Every measure between models at each layer, with controls, ceilings and claims over models, as a Result."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from cwr_mech.analysis.probing.dimension import spectrum
from cwr_mech.analysis.published import published_pair, published_rank
from cwr_mech.analysis.selection import Item, shared_ids, token_features
from cwr_mech.analysis.similarity.measures import Measure, compare_all, prepared, sample_cities
from cwr_mech.analysis.similarity.model_groups import group_rows, sets_and_seeds
from cwr_mech.analysis.stats.models import Member, ceilings
from cwr_mech.errors import AnalysisError
from cwr_mech.results import Result, Row

MOST = 1000


def one_model() -> AnalysisError:
    """The refusal to compare one model with nothing."""
    return AnalysisError("similarity compares models", "give at least two runs")


@threadpool_limits.wrap(limits=1)  # scikit-learn's too, which a study's own limit came before
def similarity_result(
    layers: Mapping[int, Sequence[Item]],
    measures: Sequence[Measure],
    members: Mapping[str, Member],
    untrained: Mapping[str, Item] | None = None,
    *,
    cities: str = "old",
    draws: int = 50,
    seed: int = 0,
    advance: Callable[[int], object] = lambda n: None,
) -> Result:
    """`layers`: layer -> one item a model; `members`: run -> how it was trained; `untrained`: "run layer"
    -> the same place of the untrained model. At most 1,000 cities are used, drawn by `seed`.

    Tables: `pairs` (value, interval over cities, shuffled null, ceiling and share of it), `references` (each
    model against the true map, the digits of the id and its untrained self), `groups` (`group_rows`),
    `dimensions` of each model. Raises AnalysisError without a pair of models or for too few cities.
    """
    everything = [item for items in layers.values() for item in items]
    if len(members) < 2:
        raise one_model()
    ids = shared_ids([item.store for item in everything], cities)
    ids = ids[sample_cities(len(ids), MOST, np.random.default_rng([seed, 0]))]
    first = everything[0].store
    xy = first.xy[first.rows(ids)]
    fixed = {"true map": xy, **token_features(first, ids)}
    tables: dict[str, list[Row]] = {name: [] for name in ("pairs", "references", "groups", "dimensions")}
    rng = np.random.default_rng([seed, 1])
    for layer, items in layers.items():
        arrays = [item.get(ids) for item in items]
        starts = [(untrained or {}).get(f"{item.run} {layer}") for item in items]
        before = [None if start is None else start.get(ids) for start in starts]
        known = [members[item.run] for item in items]
        tables["dimensions"] += [
            _dimensions(layer, member, x) for member, x in zip(known, arrays, strict=True)
        ]
        for measure in measures:
            matrix, null = np.full((2, len(items), len(items)), np.nan)
            whole = [prepared(measure, x, len(ids)) for x in arrays]
            found = compare_all(measure, arrays, rng, draws=draws, whole=whole)
            for (i, j), row in found.items():
                matrix[i, j] = matrix[j, i] = row["value"]
                null[i, j] = null[j, i] = row["null_mean"]
            advance(1)
            most = ceilings(matrix, *sets_and_seeds(known))
            for (i, j), row in found.items():
                a, b, top = items[i], items[j], most[i, j]
                has = measure.alike and np.isfinite(top)
                tables["pairs"].append(
                    {"measure": measure.name, "layer": layer, "run_a": a.run, "run_b": b.run}
                    | {"prompt_a": a.task, "prompt_b": b.task}
                    | row
                    | {"ceiling": float(top) if has else None}
                    | {"of_ceiling": float(matrix[i, j] / top) if has else None}
                    | {"published": published_pair(measure.name, known[i].tasks, known[j].tasks)}
                )
            common = {name: prepared(measure, y, len(ids)) for name, y in fixed.items()}
            for item, x, start in zip(items, whole, before, strict=True):
                own = {} if start is None else {"itself untrained": prepared(measure, start, len(ids))}
                beside = (common | own).items()
                for name, y in beside:
                    ways, reason = measure.told(x, y)
                    about = {"measure": measure.name, "layer": layer, "run": item.run, "reference": name}
                    tables["references"].append(about | {"value": sum(ways) / 2, "reason": reason})
            found_groups = group_rows(measure.name, matrix, null, known, rng, has_ceiling=bool(measure.alike))
            tables["groups"] += [{"layer": layer, **row} for row in found_groups]
    return Result(
        kind="similarity",
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
        tables=tables | {"models": [_member(member) for member in members.values()]},
        notes=_notes(members, ids.size),
    )


def _dimensions(layer: int, member: Member, x: Float[np.ndarray, "city p"]) -> Row:
    row: Row = {"run": member.run, "layer": layer, "published": published_rank(member.tasks)}
    try:
        return row | spectrum(x) | {"p": x.shape[1]}
    except AnalysisError as error:
        return row | {"reason": error.message}


def _member(member: Member) -> Row:
    return {
        "run": member.run,
        "tasks": "+".join(member.tasks),
        "seed": member.seed,
        "rows": member.rows,
        "exposure": member.exposure,
        "least_gain": None if member.gain is None else min(member.gain.values(), default=0.0),
        "failed": member.failed,
        "label_noise": member.noise,
    }


def _notes(members: Mapping[str, Member], n: int) -> list[str]:
    failed = [run for run, member in members.items() if member.failed]
    unknown = [run for run, member in members.items() if member.failed is None]
    notes = [
        f"{n} cities. Intervals of pairs are over cities; intervals of groups are over models (jackknife).",
        "Controls: cities shuffled (null), the digits of the id, the untrained model. Ceiling of two models: "
        "the geometric mean of what each shares with models of its own tasks and another seed.",
        "Published: the paper's and its rebuttal's values for the same measure and kind of models, which are "
        "larger (6 layers of width 128, 5,075 cities): neighbours, not targets.",
        "A model has failed when it closes less than half of the gap between the best constant answer and a "
        "perfect one on a task it was trained on; failed: " + (", ".join(failed) or "none") + ".",
    ]
    if unknown:
        notes.append("Not judged, because nothing was scored during training: " + ", ".join(unknown) + ".")
    return notes
