"""Claims about fine-tuned models, the mechanism, and what can be told before training; units are bases."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cwr_mech.analysis.stats.intervals import Interval
from cwr_mech.analysis.stats.testing import benjamini_hochberg
from cwr_mech.experiments.finetuning import PLAIN
from cwr_mech.findings.claims import (
    Saved,
    claim,
    mean_of,
    of_models,
)
from cwr_mech.results import Row
from cwr_mech.tasks.registry import PAPER_TASKS

ELICITED = "replay trained, elicitation new"
"""The paper's fine-tunings: some rows of every task about new cities beside those of the trained task."""


def transfer_claims(saved: Saved, paper: Mapping[str, Any]) -> Iterator[Row]:
    """What fine-tuning on one task teaches about new cities in the others."""
    found, theirs = saved.improvements(), np.array(paper["ft1"]["ni"])
    for index, task in enumerate(PAPER_TASKS):
        text = f"fine-tuning on {task} teaches {task} about new cities (improvement)"
        own = found.get((task, task), {}).values()
        yield claim("fine-tuning", text, float(theirs[index, index]), of_models(own))
    means = {
        task: float(np.delete(line, index).mean())
        for index, (task, line) in enumerate(zip(PAPER_TASKS, theirs, strict=True))
    }
    taught = {task: to_others(found, task) for task in PAPER_TASKS}
    for task in PAPER_TASKS:
        text = f"fine-tuning on {task} teaches the other tasks (mean improvement)"
        yield claim("fine-tuning", text, means[task], of_models(taught[task].values()))
    others = [task for task in PAPER_TASKS if task != "distance"]
    gaps = [
        mean_of(taught[task][base] for task in others if base in taught[task]) - value
        for base, value in taught["distance"].items()
    ]
    text = "distance teaches the other tasks less than they teach (difference of mean improvement)"
    yield claim(
        "fine-tuning", text, mean_of(means[task] for task in others) - means["distance"], of_models(gaps)
    )
    text = "with elicitation rows the other tasks gain more than without (difference of mean improvement)"
    without, elicited = paper["ft1_no_elicitation"]["transfer"], saved.improvements(ELICITED)
    more = _mean_by_base(to_others(elicited, task) for task in PAPER_TASKS), _mean_by_base(taught.values())
    gained = [more[0][base] - more[1][base] for base in more[0] if base in more[1]]
    yield claim("fine-tuning", text, paper["ft1"]["transfer"] - without, of_models(gained))
    kept = [row for row in saved.transfer if row["arm"] == PLAIN and not row["trained"]]
    forgotten = of_models(_by_base(kept, "retention").values())
    text = "old cities are still answered in tasks that are not trained (retention, 0 is kept)"
    yield claim("fine-tuning", text, None, forgotten, null=-0.1, against="-0.1")
    yield from _interference(saved, paper)


def _interference(saved: Saved, paper: Mapping[str, Any]) -> Iterator[Row]:
    """What distance does to the task beside it, and other tasks to each other."""
    untrained = [
        row for row in saved.deviation if row["arm"] == PLAIN and row["task"] not in row["set"].split("+")
    ]
    lines = zip(paper["ft2"]["sets"], paper["ft2"]["deviation"], strict=True)
    theirs = [
        ("distance" in tasks, value)
        for tasks, line in lines
        for task, value in zip(PAPER_TASKS, line, strict=True)
        if task not in tasks
    ]
    for with_distance, text, sign in (
        (True, "distance beside another task makes untrained tasks worse than the better teacher alone", -1),
        (False, "two other tasks together make untrained tasks no worse than the better teacher alone", 1),
    ):
        rows = [row for row in untrained if ("distance" in row["set"].split("+")) == with_distance]
        published = sign * mean_of(value for inside, value in theirs if inside == with_distance)
        ours = of_models(sign * value for value in _by_base(rows, "deviation").values())
        null = 0.0 if with_distance else -0.1
        yield claim("fine-tuning", text, published, ours, null=null, against=f"{null:g}")


def to_others(found: Mapping[tuple[str, str], Mapping[str, float]], task: str) -> dict[str, float]:
    """Base -> mean improvement of the tasks that a fine-tuning on `task` did not train."""
    by_base: dict[str, list[float]] = {}
    for (trained, asked), values in found.items():
        if trained == task and asked != task:
            for base, value in values.items():
                by_base.setdefault(base, []).append(value)
    return {base: mean_of(values) for base, values in by_base.items()}


def _mean_by_base(tasks: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Base -> mean over tasks."""
    by_base: dict[str, list[float]] = {}
    for values in tasks:
        for base, value in values.items():
            by_base.setdefault(base, []).append(value)
    return {base: mean_of(values) for base, values in by_base.items()}


def _by_base(rows: Iterable[Row], column: str) -> dict[str, float]:
    by_base: dict[str, list[float]] = {}
    for row in rows:
        if row[column] is not None:
            by_base.setdefault(row["base"], []).append(row[column])
    return {base: mean_of(values) for base, values in by_base.items()}


def place_claims(saved: Saved, paper: Mapping[str, Any]) -> Iterator[Row]:
    """Where new cities lie after fine-tuning, by a probe fitted on old ones."""
    errors = new_city_errors(saved)
    ratios = [
        math.log(groups[True] / groups[False]) for groups in errors.values() if groups[True] and groups[False]
    ]
    theirs = math.log(paper["new_cities"]["with_distance"] / paper["new_cities"]["without_distance"])
    text = "new cities are put further from their places when distance is trained (log ratio of errors)"
    yield claim("fine-tuning", text, theirs, of_models(ratios))


def new_city_errors(saved: Saved) -> dict[str, dict[bool, float]]:
    """Base -> mean error of new cities over its fine-tunings with distance (True) and without (False), each
    at the layer and prompt where its map is best; NaN without such a fine-tuning. Arms are left out.
    """
    best = {row["run"]: row for row in sorted(saved.maps, key=lambda row: row["r2"])}
    plain = {row["run"]: row["base"] for row in saved.models if row["base"] and row["route"] == "unprojected"}
    found: dict[str, dict[bool, list[float]]] = {}
    for row in saved.new:
        place, base = best[row["run"]], plain.get(row["run"])
        if base and (row["task"], row["hook"]) == (place["task"], place["hook"]):
            groups = found.setdefault(base, {True: [], False: []})
            groups["distance" in saved.tasks_of[row["run"]]].append(row["error_mean"])
    return {base: {key: mean_of(v) for key, v in groups.items()} for base, groups in found.items()}


def relation_claims(saved: Saved, paper: Mapping[str, Any]) -> Iterator[Row]:
    """Does similarity predict transfer? Tasks are relabelled, so intervals are ranges over left-out tasks."""
    published = {(r["pairs"], r["similarity"]): r for r in saved.relation if r["transfer"] == "published"}
    for row in saved.relation:
        if row["transfer"] == "published":
            continue
        before = published.get((row["pairs"], "published"))
        for column, how in (("r", ""), ("r_adjusted", ", within the asked task")):
            if row[column] is None:  # one side does not vary
                continue
            text = f"{row['similarity']} similarity goes with transfer here{how}: {row['pairs']}"
            found = Interval(row[column], math.nan, math.nan, row["tasks"], "task", "relabelling")
            made = claim("similarity and transfer", text, before[column] if before else None, found)
            if column == "r":
                judged = "supported" if row["p"] < 0.05 else "undecided"
                made |= {"against": f"relabelled tasks, p = {row['p']:.2f}", "verdict": judged}
            yield made


def routing_claims(saved: Saved, paper: Mapping[str, Any]) -> Iterator[Row]:
    """The predictions about routing, as they were judged, and what answers follow."""
    for row in saved.routing:
        text = f"{row['prediction']}: {row['says']} ({row['measure']})"
        if row["effect"] is None:
            yield claim("routing and patching", text, None, None)
            continue
        side, threshold = row["predicted"].split()
        low, high = (math.nan if row[end] is None else row[end] for end in ("lo", "hi"))
        found = Interval(row["effect"], low, high, row["models"], "model", "t")
        above = (row["effect"] > float(threshold)) == (side == "above")
        yield claim("routing and patching", text, None, found) | {
            "against": row["predicted"],
            "direction": "same" if above else "opposite",
            "verdict": row["verdict"],
        }
    for task in dict.fromkeys(row["task"] for row in saved.patched):
        mine = [row for row in saved.patched if row["task"] == task]
        runs = dict.fromkeys(row["run"] for row in mine)
        shares = of_models(followed([row for row in mine if row["run"] == run]) for run in runs)
        text = f"{task}: answers follow the map's directions of a swapped city more than random ones (share)"
        yield claim("routing and patching", text, None, shares)


def followed(rows: Sequence[Row]) -> float:
    """Share of answers that follow the donor when the map's directions are swapped minus when random ones
    are, at the layer where the whole state carries most.
    """
    by_place = {(row["subspace"], row["layer"]): row["follow"] for row in rows}
    layer = max((layer for kind, layer in by_place if kind is None), key=lambda layer: by_place[None, layer])
    return float(by_place["manifold", layer] - by_place["random", layer])


def prediction_claims(saved: Saved, paper: Mapping[str, Any]) -> Iterator[Row]:
    """Can transfer be told from what is there before training?"""
    early = [
        row for row in saved.predictors if row["r"] is not None and row["from"] in ("untrained", "the tasks")
    ]
    for outcome in dict.fromkeys(row["outcome"] for row in early):
        rows = [row for row in early if row["outcome"] == outcome]
        without = rows[0]["left_out"]  # none, or the tasks for which there is no outcome
        rows = [row for row in rows if row["left_out"] == without]
        n_tasks = len(PAPER_TASKS) - (0 if without == "none" else len(without.split(",")))
        adjusted = benjamini_hochberg(np.array([row["p"] for row in rows]))
        best = int(np.argmin(adjusted))
        text = (
            f"{outcome} can be told before training (r of the best of {len(rows)}, {rows[best]['predictor']})"
        )
        row = rows[best]
        found = Interval(row["r"], row["r_lo"], row["r_hi"], n_tasks, "task", "left out")
        yield claim("prediction", text, None, found) | {
            "against": f"relabelled tasks, adjusted p = {adjusted[best]:.2f}",
            "verdict": "supported" if adjusted[best] < 0.05 else "undecided",
        }
