"""A patching sweep of one task in one model as a Result: table, controls, attrition, findings in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cwr_mech.analysis.patching.pairs import READING, Pairs
from cwr_mech.analysis.patching.summary import city_span, course, in_words, stream, turning_points
from cwr_mech.analysis.patching.sweep import Sweep
from cwr_mech.analysis.patching.table import confirm, pool, pool_followed, tabulate
from cwr_mech.results import Result, Row


def patch_result(
    sweep: Sweep,
    pairs: Pairs,
    *,
    seed: int,
    runs: Sequence[str],
    inputs: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
    tables: Mapping[str, list[Row]] | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
    notes: Sequence[str] = (),
) -> Result:
    """Tables `cells` (patches from the other question), `controls` (all other sources) and `attrition`.

    In `cells`, `null` is what an unrelated city in the same place recovers in that very cell. `controls` has
    the first metric only. `tables`, `arrays` and `notes` of other parts of the study are added.
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, 6)))
    rows = tabulate(sweep, pairs.cluster, rng)
    null = {_key(row): row["recovered"] for row in rows if row["source"] == "unrelated"}
    cells = [
        {**_without(row, "source"), "null": null.get(_key(row), float("nan"))}
        for row in rows
        if row["source"] == "counterfactual"
    ]
    controls = [
        row for row in rows if row["source"] != "counterfactual" and row["metric"] == sweep.metrics[0]
    ]
    primary = [row for row in cells if row["metric"] == sweep.metrics[0]]
    halves = confirm(sweep, pairs.cluster, rng)
    values = {
        "n_pairs": sum(pairs.attrition.values()),
        "n_kept": len(pairs),
        "tolerance": pairs.tolerance,
        "self_patch_max": _self_patch(sweep),
        "null_recovered": _largest(row["null"] for row in primary),
        **{f"halves_{name}": count for name, count in halves.items()},
    }
    return Result(
        kind="patch",
        inputs=dict(inputs or {}),
        params={
            "runs": list(runs),
            "task": pairs.task,
            "metric": sweep.metrics[0],
            "seed": seed,
            "reading": dict.fromkeys(runs, pairs.reading),
            **(params or {}),
        },
        values=values,
        tables={
            "cells": cells,
            "controls": controls,
            "attrition": [{"reason": reason, "n": n} for reason, n in pairs.attrition.items()],
            **(tables or {}),
            **({"digits": digits} if (digits := _digits(cells)) else {}),
        },
        arrays={"spans": np.array(list(dict.fromkeys(cell.span for cell in sweep.cells))), **(arrays or {})},
        notes=[*in_words(primary, values, pairs), *notes],
    )


def pooled_result(results: Sequence[Result], *, seed: int) -> Result:
    """One result of several models' results of the same cells; models are the units, and their null too."""
    first = results[0]
    rng = np.random.default_rng(np.random.SeedSequence((seed, 11)))
    cells = pool([result.tables["cells"] for result in results], rng)
    followed = {
        name: pool_followed([result.tables[name] for result in results])
        for name in ("interchange", "subspaces")
        if all(name in result.tables for result in results)
    }
    runs = [run for result in results for run in result.params["runs"]]
    values = {
        "n_models": len(results),
        "n_pairs": sum(int(result.values["n_pairs"]) for result in results),
        "n_kept": sum(int(result.values["n_kept"]) for result in results),
        "self_patch_max": _largest(result.values["self_patch_max"] for result in results),
        "null_recovered": _largest(row["null"] for row in cells if row["metric"] == first.params["metric"]),
    }
    return Result(
        kind="patch",
        command=first.command,
        inputs={name: digest for result in results for name, digest in result.inputs.items()},
        params={**first.params, "runs": runs, "reading": _readings(results)},
        values=values,
        tables={"cells": cells, **followed},
        arrays={"spans": first.arrays["spans"]},
        notes=[
            f"Units are {len(results)} models ({', '.join(runs)}): shares are means over models, intervals "
            "are Student's t, p values flip the signs of models' mean effects, n counts models. Single heads "
            "are not averaged: their numbers mean nothing across models. Cities are read (span "
            f"{READING}) at " + "; ".join(f"{at} in {run}" for run, at in _readings(results).items()) + ".",
            *course([row for row in cells if row["metric"] == first.params["metric"]]),
        ],
    )


def tasks_result(results: Sequence[Result]) -> Result:
    """How tasks compare: one row a task, from their results of kind "patch"."""
    first, rows, lines = results[0], [], []
    for result in results:
        cells = [row for row in result.tables["cells"] if row["metric"] == result.params["metric"]]
        held, arrived = turning_points(cells)
        lines += [
            {"task": result.params["task"]}
            | {name: row[name] for name in ("layer", "span", "n", "recovered", "lo", "hi", "null")}
            for (span, _), row in stream(cells).items()
            if span in (city_span(cells), "equals")
        ]
        moved = [
            row["iia"]
            for row in result.tables.get("interchange", [])
            if row["direction"] == "noise" and row["span"] == "equals" and row["iia"] is not None
        ]
        rows.append(
            {
                "task": result.params["task"],
                "n_kept": result.values["n_kept"],
                "n_tried": result.values["n_pairs"],
                "city_held_until": held,
                "answer_from": arrived,
                "iia_at_equals": max(moved, default=None),
                **_best_head(cells),
            }
        )
    return Result(
        kind="patch_tasks",
        command=first.command,
        inputs={name: digest for result in results for name, digest in result.inputs.items()},
        params={"runs": first.params["runs"], "metric": first.params["metric"], "seed": first.params["seed"]},
        tables={"tasks": rows, "lines": lines},
        notes=[
            "city_held_until: last layer at which exchanging the city where it is read restores half of what "
            "an unrelated city leaves open; answer_from: first layer at which exchanging '=' does; "
            "iia_at_equals: largest IIA of the whole state at '='."
        ],
    )


def _best_head(cells: Sequence[Row]) -> Row:
    heads = [
        row
        for row in cells
        if row["component"] == "z"
        and row["direction"] == "denoise"
        and row["recovered"] is not None
        and row["span"] == "equals"
    ]
    best = max(heads, key=lambda row: row["recovered"], default=None)
    if best is None:
        return {"head": None, "head_recovered": None}
    return {"head": f"{best['layer']}.{best['head']}", "head_recovered": best["recovered"]}


def _readings(results: Sequence[Result]) -> dict[str, str]:
    """Where each run reads a city."""
    return {run: position for result in results for run, position in result.params["reading"].items()}


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(
        row[name] for name in ("direction", "component", "layer", "head", "span", "subspace", "metric")
    )


def _digits(cells: Sequence[Row]) -> list[Row]:
    """The residual stream's rows of the answer's tokens, for the panels token by token."""
    return [row for row in cells if row["metric"].startswith("digit") and row["component"] == "resid_post"]


def _without(row: Row, name: str) -> Row:
    return {key: value for key, value in row.items() if key != name}


def _largest(values: Any) -> float:
    finite = [abs(value) for value in values if value is not None and value == value]
    return max(finite, default=float("nan"))


def _self_patch(sweep: Sweep) -> float:
    """Largest change of any score by a patch of a run with itself; NaN when that was not swept."""
    conditions = [a for a, condition in enumerate(sweep.conditions) if condition.source == "self"]
    if not conditions:
        return float("nan")
    change = np.abs(sweep.patched[conditions] - sweep.corrupt)
    return float(np.nanmax(change)) if np.isfinite(change).any() else float("nan")
