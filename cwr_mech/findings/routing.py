"""Numbers of the routing report: predictions against results, arms side by side, verdicts."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float

from cwr_mech.analysis.prediction.predictors import EXACT_DRAWS
from cwr_mech.analysis.prediction.study import published_rows
from cwr_mech.analysis.published import matrix, published_trend
from cwr_mech.analysis.stats.intervals import mean_interval
from cwr_mech.analysis.stats.testing import mantel_test
from cwr_mech.errors import AnalysisError
from cwr_mech.experiments.finetuning import PLAIN
from cwr_mech.experiments.plans import ROUTED
from cwr_mech.findings.hypotheses import (
    NEEDED,
    Evidence,
    integration,
    overall,
    try_predictions,
)
from cwr_mech.results import Result
from cwr_mech.tasks.registry import PAPER_TASKS

Row = dict[str, Any]
NULLS: Mapping[str, str] = MappingProxyType(
    {
        "1": "the other tasks, same base",
        "2a": "the other tasks; random directions with the activations' covariance are taken off",
        "2a'": "the other tasks; random directions with the activations' covariance are taken off",
        "2b": "the other tasks, same base",
        "2c": "random directions (placebo)",
        "2e": "random directions (placebo)",
    }
)
"""What a prediction's difference is against, where it is not the same fine-tuning untouched."""
PATH_COLUMNS = (
    *("along_new", "along_old", "off_new", "off_old"),
    *("moved_new", "moved_new_null", "moved_new_like", "moved_old"),
)


def routing_result(results: Mapping[str, Result], inputs: Mapping[str, str], command: str) -> Result:
    """The result of kind "routing" from a report's saved results of kinds "trajectory" and "subspace".

    Raises AnalysisError when there is no trajectory among them.
    """
    found = evidence(results)
    if not found.trajectory:
        raise AnalysisError(
            "a routing report needs fine-tuned models placed on the map",
            "run: cwr-mech finetune RUN --tasks distance, then cwr-mech trajectory RUN --prompts ...",
        )
    predictions = [
        row | {"null": NULLS.get(str(row["prediction"]), "the same fine-tuning, untouched")}
        for row in try_predictions(found)
    ]
    missing = missing_models(found)
    return Result(
        kind="routing",
        command=command,
        inputs=dict(inputs),
        params={"runs": sorted({str(row["run"]) for row in found.trajectory}), "bases": list(found.bases)},
        values={"n_bases": len(found.bases), "n_models": len({row["run"] for row in found.trajectory})}
        | {"n_missing": len(missing)},
        tables={
            "predictions": predictions,
            "hypotheses": [_convergence(), *_hypotheses(predictions), _published_hypothesis()],
            "missing": missing,
            "arms": arm_rows(found),
            "models": model_rows(found),
            "paths": path_rows(found),
            "published": published_rows(),
        },
        notes=[
            "Base models are the units: intervals are Student's t over them, one number each.",
            "Integration along the map: 0 as before fine-tuning, 1 as well placed as ordinary cities were; "
            "transfer is its mean over prompts of tasks that were not trained.",
        ],
    )


def missing_models(found: Evidence) -> list[Row]:
    """Fine-tunings of these bases that predictions need and that are not among the results."""
    here = {(row["base"], row["set"], row["route"]) for row in found.trajectory}
    return [
        {"base": base, "set": task, "route": route}
        for task, names in ROUTED.items()
        for route in ("unprojected", *names)
        for base in found.bases
        if (base, task, route) not in here
    ]


def evidence(results: Mapping[str, Result]) -> Evidence:
    """What the predictions are tested on; runs of the zoo go by their plain names.

    Fine-tunings with another replay, or with elicitation rows, are of another kind and are left out: they
    would stand for the plain ones of the same base and tasks.
    """
    trajectory: list[Row] = []
    shares: list[Row] = []
    for result in results.values():
        if result.kind == "trajectory":
            trajectory += [
                row | {"base": _plain(row["base"])}
                for row in result.tables["trajectory"]
                if str(row["arm"]).startswith(PLAIN)
            ]
        if result.kind == "subspace":
            clearest = _clearest(result)
            shares += [
                row
                | {
                    "run": _plain(row["run"]),
                    "clearest": clearest.get(row["task"]) == (row["site"], row["layer"]),
                }
                for row in result.tables["shares"]
            ]
    return Evidence(trajectory, shares)


def _plain(name: object) -> str:
    return str(name).removeprefix("zoo:")


def _clearest(result: Result) -> dict[str, tuple[str, int]]:
    """For each task the site and layer whose map is clearest, of the layers at which an answer reads cities:
    those with a gradient.
    """
    read = {row["layer"] for row in result.tables["shares"] if row["update"] == "gradient"}
    found: dict[str, Row] = {}
    for row in result.tables["spaces"]:
        best = found.get(row["task"])
        if row["layer"] in read and (best is None or row["map_variance"] > best["map_variance"]):
            found[row["task"]] = row
    return {task: (row["site"], row["layer"]) for task, row in found.items()}


def _convergence() -> Row:
    """More tasks, more alike: no model of this report bears on it."""
    trend = published_trend()
    return {
        "hypothesis": "multi-task convergence (published values)",
        "needs": "similarity of models of disjoint tasks that rises with the number of tasks",
        "effect": "CKA with 1, 2, 3 tasks: " + ", ".join(f"{value:.2f}" for value in trend["disjoint"]),
        "null": "other seeds of the same tasks: " + ", ".join(f"{value:.2f}" for value in trend["same"]),
        "verdict": "undecided",
        "reason": "rises from one task to two, not from two to three; means without models as units were "
        "published. Own models of one to seven tasks are tested in the report zoo",
    }


def _hypotheses(predictions: Sequence[Row]) -> list[Row]:
    rows = []
    for name, needed in NEEDED.items():
        verdict, reason = overall(predictions, needed)
        mine = [row for row in predictions if row["prediction"] in needed]
        rows.append(
            {
                "hypothesis": name,
                "needs": ", ".join(needed),
                "effect": "; ".join(f"{row['prediction']}: {_effect(row)}" for row in mine),
                "null": "; ".join(dict.fromkeys(str(row["null"]) for row in mine)),
                "verdict": verdict,
                "reason": reason,
            }
        )
    return rows


def _effect(row: Row) -> str:
    if row["effect"] is None:
        return "no model"
    if not np.isfinite([row["lo"], row["hi"]]).all():
        return f"{row['effect']:.2f}"
    return f"{row['effect']:.2f} ({row['lo']:.2f} to {row['hi']:.2f})"


def _published_hypothesis() -> Row:
    """CKA predicts transfer, judged on the published table without crossing: with and without distance."""
    p = {}
    for name, out in (("with", ("crossing",)), ("without", ("crossing", "distance"))):
        kept = [index for index, task in enumerate(PAPER_TASKS) if task not in out]
        cka, transfer = (values[np.ix_(kept, kept)] for values in (matrix("cka"), matrix("transfer")))
        rng = np.random.default_rng(0)
        p[name] = mantel_test(cka, (transfer + transfer.T) / 2, rng, draws=EXACT_DRAWS)
    passed = [found.p < 0.05 for found in p.values()]
    return {
        "hypothesis": "CKA predicts transfer (published table)",
        "needs": "a correlation over pairs of tasks, with and without distance",
        "effect": "; ".join(f"{name} distance r = {found.value:.2f}" for name, found in p.items()),
        "null": "tasks relabelled (Mantel): "
        + "; ".join(f"{name} distance p = {found.p:.2f}" for name, found in p.items()),
        "verdict": "supported" if all(passed) else "undecided" if any(passed) else "not supported",
        "reason": "transfer averaged over the two ways of a pair; no interval over models was published",
    }


def model_rows(found: Evidence) -> list[Row]:
    """One row for each fine-tuned model: integration in trained and in other prompts, distance off the map,
    similarity with it, how much of the new cities' displacement lies in its directions (and in random ones
    like the activations), and what became of ordinary cities.
    """
    models = dict.fromkeys((str(r["base"]), str(r["set"]), str(r["route"])) for r in found.trajectory)
    rows = []
    for base, tasks, route in models:
        ends = found.ends(base, tasks, route)
        own = [integration(*ends[prompt]) for prompt in ends if prompt in tasks.split("+")]
        other = [integration(*ends[prompt]) for prompt in ends if prompt not in tasks.split("+")]
        rows.append(
            {
                "base": base,
                "set": tasks,
                "route": route,
                "own": float(np.mean(own)) if own else None,
                "transfer": float(np.mean(other)) if other else None,
                "off": found.off(base, tasks, route),
                "similar": found.similarity(base, tasks, route),
                "moved": found.trained_end(base, tasks, route, "moved_new"),
                "moved_like": found.trained_end(base, tasks, route, "moved_new_like"),
                "retained": _mean(end["along_old"] / start["along_old"] for start, end in ends.values()),
            }
        )
    return rows


def arm_rows(found: Evidence) -> list[Row]:
    """Means over bases with intervals for every set and arm."""
    models = model_rows(found)
    rows = []
    for tasks, route in dict.fromkeys((row["set"], row["route"]) for row in models):
        mine = [row for row in models if (row["set"], row["route"]) == (tasks, route)]
        row: Row = {"set": tasks, "route": route, "models": len(mine)}
        for column in ("own", "transfer", "off", "similar", "moved", "moved_like", "retained"):
            values = np.array([one[column] for one in mine if one[column] is not None], dtype=np.float64)
            if len(values):
                interval = mean_interval(values)
                row |= {column: interval.value, f"{column}_lo": interval.lo, f"{column}_hi": interval.hi}
            else:
                row |= {column: None, f"{column}_lo": None, f"{column}_hi": None}
        rows.append(row)
    return rows


def path_rows(found: Evidence) -> list[Row]:
    """Mean way of new cities over bases at each step, in the trained prompt: along the map and off it, and
    the share of all displacement so far in the map's directions.
    """
    chosen = [row for row in found.trajectory if row["prompt"] in str(row["set"]).split("+")]
    keys = dict.fromkeys((str(r["set"]), str(r["route"]), int(r["step"])) for r in chosen)
    rows = []
    for tasks, route, step in keys:
        mine = [r for r in chosen if (r["set"], r["route"], r["step"]) == (tasks, route, step)]
        row: Row = {"set": tasks, "route": route, "step": step, "models": len(mine)}
        for column in PATH_COLUMNS:
            row[column] = _mean(one.get(column) for one in mine)
        rows.append(row)
    return rows


def transfer_matrix(found: Evidence) -> Float[np.ndarray, "trained asked"]:
    """Integration in the prompts of all tasks by fine-tunings on single tasks, mean over bases; NaN where
    there is none, and for the trained task itself if its prompt was not read.
    """
    grid = np.full((len(PAPER_TASKS), len(PAPER_TASKS)), np.nan)
    for i, trained in enumerate(PAPER_TASKS):
        ends = [found.ends(base, trained, "unprojected") for base in found.bases]
        for j, asked in enumerate(PAPER_TASKS):
            values = [integration(*one[asked]) for one in ends if asked in one]
            grid[i, j] = np.mean(values) if values else np.nan
    return grid


def _mean(values: Any) -> float | None:
    given = [value for value in values if value is not None]
    return float(np.mean(given)) if given else None
