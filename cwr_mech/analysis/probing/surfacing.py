"""Does the map surface in the leading components, more so with more tasks (the paper's open question 2)?"""

from collections.abc import Mapping, Sequence

import numpy as np

from cwr_mech.analysis.probing.dimension import surfacing
from cwr_mech.analysis.probing.probe import TrainingCities
from cwr_mech.analysis.selection import Item
from cwr_mech.analysis.stats.intervals import mean_interval
from cwr_mech.analysis.stats.models import Member
from cwr_mech.analysis.stats.testing import permutation_test
from cwr_mech.analysis.study import each
from cwr_mech.errors import AnalysisError
from cwr_mech.results import Result, Row, groups

MEASURED = ("variance", "r2", "alignment")
CONTROLS = ("r2_shuffled", "alignment_random")


def surfacing_result(
    items: Sequence[Item], members: Mapping[str, Member], *, folds: int = 5, seed: int = 0
) -> Result:
    """`items`: places in models, one a model, layer and prompt; `members`: run -> how it was trained.

    Tables: `components` (each model, layer, prompt and number of components k: `surfacing`), `by_model`
    (means over a model's prompts), `by_tasks` (means over models of equally many tasks, intervals over
    models), `trend` (slope of R2 with the number of tasks for each layer and k; null: numbers of tasks
    shuffled among models). Raises AnalysisError for too few cities.
    """
    known = TrainingCities.of([item.store for item in items], folds=folds, seed=seed)
    rows: list[Row] = []
    for index, item in enumerate(each(items, "components", "layers")):
        member = members[item.run]
        place = {"run": item.run, "tasks": "+".join(member.tasks), "n_tasks": len(member.tasks)}
        place |= {"failed": member.failed, "layer": item.layer, "hook": item.hook, "task": item.task}
        rng = np.random.default_rng([seed, 1, index])
        rows += [place | row for row in surfacing(item.get(known.ids), known.xy, known.fold, rng)]
    models = by_model(rows)
    return Result(
        kind="surfacing",
        params={"runs": list(members), "site": items[0].site} | known.params,
        values={"n": len(known.ids), "models": len(members)},
        tables={"components": rows, "by_model": models}
        | {"by_tasks": _by_tasks(models), "trend": _trends(models, seed)},
        notes=[
            f"{len(known.ids)} training cities. R2 of a ridge probe on the first k principal components "
            "alone, on held-out cities; control: places shuffled. Alignment: share of the full probe's two "
            "directions inside the components; control: random directions, k of the space's dimensions.",
            "Intervals of one model are over cities; means and trends have models as units.",
        ],
    )


def by_model(rows: Sequence[Row]) -> list[Row]:
    """One row for each model, layer and k: means over its prompts. The interval of one prompt is over cities;
    several have none."""
    means: list[Row] = []
    for mine in groups(rows, "run", "layer", "k").values():
        mean = {name: sum(one[name] for one in mine) / len(mine) for name in (*MEASURED, *CONTROLS)}
        prompts = {"task": "+".join(str(one["task"]) for one in mine), "r2_lo": None, "r2_hi": None}
        means.append(mine[0] | (prompts | mean if len(mine) > 1 else {}))
    return means


def _by_tasks(rows: Sequence[Row]) -> list[Row]:
    means: list[Row] = []
    for (layer, n_tasks, k), mine in groups(rows, "layer", "n_tasks", "k").items():
        row: Row = {"layer": layer, "n_tasks": n_tasks, "k": k, "models": len(mine)}
        for name in MEASURED:
            interval = mean_interval(np.array([one[name] for one in mine]))
            row |= interval.columns(name)
        means.append(row)
    return means


def _trends(rows: Sequence[Row], seed: int) -> list[Row]:
    """Slope of R2 with the number of tasks; nothing where all models have equally many."""
    found: list[Row] = []
    for (layer, k), mine in groups(rows, "layer", "k").items():
        tasks, r2 = np.array([row["n_tasks"] for row in mine]), np.array([row["r2"] for row in mine])
        if np.ptp(tasks) == 0:
            continue

        def slope(order: np.ndarray, tasks: np.ndarray = tasks, r2: np.ndarray = r2) -> float:
            return float(np.polyfit(tasks[order], r2, 1)[0])

        rng = np.random.default_rng([seed, 2, layer + 1, k])
        try:
            test = permutation_test(slope, len(mine), rng, alternative="two-sided")
        except AnalysisError:
            continue
        found.append({"layer": layer, "k": k, "slope": test.value, "p": test.p, "models": len(mine)})
    return found
