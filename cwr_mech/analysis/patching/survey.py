"""A patching sweep of one task in one model as a Result: table, controls, attrition, findings in words."""

from collections.abc import Iterable, Sequence

import numpy as np

from cwr_mech.analysis.patching.pairs import READING, Pairs
from cwr_mech.analysis.patching.summary import city_span, course, in_words, stream, turning_points
from cwr_mech.analysis.patching.sweep import Sweep
from cwr_mech.analysis.patching.table import confirm, key_of, pool, pool_followed, tabulate
from cwr_mech.results import Result, Row, where


def patch_result(sweep: Sweep, pairs: Pairs, *, seed: int, runs: Sequence[str]) -> Result:
    """Tables `cells` (patches from the other question), `controls` (all other sources), `attrition`, and
    `digits` (of the residual stream, the answer's tokens one by one) where those were scored.

    In `cells`, `null` is what an unrelated city in the same place recovers in that very cell. `controls` has
    the first metric only.
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, 6)))
    rows, metric = tabulate(sweep, pairs.cluster, rng), sweep.metrics[0]
    null = {key_of(row): row["recovered"] for row in where(rows, source="unrelated")}
    cells = [
        {name: value for name, value in row.items() if name != "source"}
        | {"null": null.get(key_of(row), float("nan"))}
        for row in where(rows, source="counterfactual")
    ]
    controls = [row for row in where(rows, metric=metric) if row["source"] != "counterfactual"]
    digits = [row for row in where(cells, component="resid_post") if row["metric"].startswith("digit")]
    primary = where(cells, metric=metric)
    halves = confirm(sweep, pairs.cluster, rng)
    values = {
        "n_pairs": sum(pairs.attrition.values()),
        "n_kept": len(pairs),
        "tolerance": pairs.tolerance,
        "self_patch_max": _self_patch(sweep),
        "null_recovered": _largest(row["null"] for row in primary),
        **{f"halves_{name}": count for name, count in halves.items()},
    }
    attrition = [{"reason": reason, "n": n} for reason, n in pairs.attrition.items()]
    return Result(
        kind="patch",
        params={"runs": list(runs), "task": pairs.task, "metric": metric, "seed": seed}
        | {"reading": dict.fromkeys(runs, pairs.reading)},
        values=values,
        tables={"cells": cells, "controls": controls, "attrition": attrition}
        | ({"digits": digits} if digits else {}),
        arrays={"spans": np.array(list(dict.fromkeys(cell.span for cell in sweep.cells)))},
        notes=in_words(primary, values, pairs),
    )


def pooled_result(results: Sequence[Result], *, seed: int) -> Result:
    """One result of several models' results of the same cells; models are the units, and their null too. One
    model's stays as it is.
    """
    first = results[0]
    if len(results) == 1:
        return first
    rng = np.random.default_rng(np.random.SeedSequence((seed, 11)))
    cells = pool([result.tables["cells"] for result in results], rng)
    followed = {
        name: pool_followed([result.tables[name] for result in results])
        for name in ("interchange", "subspaces")
        if all(name in result.tables for result in results)
    }
    runs = [run for result in results for run in result.params["runs"]]
    reading = {run: at for result in results for run, at in result.params["reading"].items()}
    primary = where(cells, metric=first.params["metric"])
    return Result(
        kind="patch",
        params={**first.params, "runs": runs, "reading": reading},
        values={
            "n_models": len(results),
            "n_pairs": sum(int(result.values["n_pairs"]) for result in results),
            "n_kept": sum(int(result.values["n_kept"]) for result in results),
            "self_patch_max": _largest(result.values["self_patch_max"] for result in results),
            "null_recovered": _largest(row["null"] for row in primary),
        },
        tables={"cells": cells, **followed},
        arrays={"spans": first.arrays["spans"]},
        notes=[
            f"Units are {len(results)} models ({', '.join(runs)}): shares are means over models, intervals "
            "are Student's t, p values flip the signs of models' mean effects, n counts models. Single heads "
            "are not averaged: their numbers mean nothing across models. Cities are read (span "
            f"{READING}) at " + "; ".join(f"{at} in {run}" for run, at in reading.items()) + ".",
            *course(primary),
        ],
    )


def tasks_result(results: Sequence[Result]) -> Result:
    """How tasks compare: one row a task, from their results of kind "patch", of whichever runs answer it."""
    first, rows, lines = results[0], [], []
    runs = dict.fromkeys(run for result in results for run in result.params["runs"])
    for result in results:
        task = {"task": result.params["task"]}
        cells = where(result.tables["cells"], metric=result.params["metric"])
        held, arrived = turning_points(cells)
        lines += [
            task | {name: row[name] for name in ("layer", "span", "n", "recovered", "lo", "hi", "null")}
            for (span, _), row in stream(cells).items()
            if span in (city_span(cells), "equals")
        ]
        moved = where(result.tables.get("interchange", []), direction="noise", span="equals")
        heads = where(cells, component="z", direction="denoise", span="equals")
        head = max((row for row in heads if row["recovered"] is not None), key=_recovered, default=None)
        rows.append(
            task
            | {"n_kept": result.values["n_kept"], "n_tried": result.values["n_pairs"]}
            | {"city_held_until": held, "answer_from": arrived}
            | {"iia_at_equals": max((row["iia"] for row in moved if row["iia"] is not None), default=None)}
            | {"head": head and f"{head['layer']}.{head['head']}"}
            | {"head_recovered": head and head["recovered"]}
        )
    return Result(
        kind="patch_tasks",
        params={"runs": list(runs)} | {name: first.params[name] for name in ("metric", "seed")},
        tables={"tasks": rows, "lines": lines},
        notes=[
            "city_held_until: last layer at which exchanging the city where it is read restores half of what "
            "an unrelated city leaves open; answer_from: first layer at which exchanging '=' does; "
            "iia_at_equals: largest IIA of the whole state at '='."
        ],
    )


def _recovered(row: Row) -> float:
    return float(row["recovered"])


def _largest(values: Iterable[float | None]) -> float:
    finite = [abs(value) for value in values if value is not None and value == value]
    return max(finite, default=float("nan"))


def _self_patch(sweep: Sweep) -> float:
    """Largest change of any score by a patch of a run with itself; NaN when that was not swept."""
    conditions = [a for a, condition in enumerate(sweep.conditions) if condition.source == "self"]
    change = np.abs(sweep.patched[conditions] - sweep.corrupt)
    return float(np.nanmax(change)) if np.isfinite(change).any() else float("nan")
