"""A patching sweep of one task in one model as a Result: table, controls, attrition, findings in words."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cwr_mech.analysis.pairs import Pairs
from cwr_mech.analysis.patch_table import confirm, pool, tabulate
from cwr_mech.analysis.patching import Sweep
from cwr_mech.results import Result

Row = dict[str, Any]


def patch_result(
    sweep: Sweep,
    pairs: Pairs,
    *,
    seed: int,
    runs: Sequence[str],
    command: str = "",
    inputs: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
    tables: Mapping[str, list[Row]] | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
    notes: Sequence[str] = (),
    paths: Callable[[Sequence[Row]], list[Row]] | None = None,
) -> Result:
    """Tables `cells` (patches from the other question), `controls` (all other donors) and `attrition`.

    In `cells`, `null` is what an unrelated city in the same place recovers in that very cell. `controls` has
    the first metric only. `tables`, `arrays` and `notes` of other parts of the study are added, and the
    table `paths` that `paths(cells)` gives, when it is not empty.
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, 6)))
    rows = tabulate(sweep, pairs.cluster, rng)
    null = {_key(row): row["recovered"] for row in rows if row["donor"] == "unrelated"}
    cells = [
        {**_without(row, "donor"), "null": null.get(_key(row), float("nan"))}
        for row in rows
        if row["donor"] == "swap"
    ]
    controls = [row for row in rows if row["donor"] != "swap" and row["metric"] == sweep.metrics[0]]
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
        command=command,
        inputs=dict(inputs or {}),
        params={
            "runs": list(runs),
            "task": pairs.task,
            "metric": sweep.metrics[0],
            "seed": seed,
            **(params or {}),
        },
        values=values,
        tables={
            "cells": cells,
            "controls": controls,
            "attrition": [{"reason": reason, "n": n} for reason, n in pairs.attrition.items()],
            **(tables or {}),
            **({"paths": told} if paths is not None and (told := paths(cells)) else {}),
            **({"digits": digits} if (digits := _digits(cells)) else {}),
        },
        arrays={
            "spans": np.array(list(dict.fromkeys(cell.span for cell in sweep.cells))),
            **(arrays or {}),
        },
        notes=[*in_words(primary, values, pairs), *notes],
    )


def pooled_result(results: Sequence[Result], *, seed: int) -> Result:
    """One result of several models' results of the same cells; models are the units, and their null too."""
    first = results[0]
    rng = np.random.default_rng(np.random.SeedSequence((seed, 11)))
    cells = pool([result.tables["cells"] for result in results], rng)
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
        params={**first.params, "runs": runs},
        values=values,
        tables={"cells": cells},
        arrays={"spans": first.arrays["spans"]},
        notes=[
            f"Units are {len(results)} models ({', '.join(runs)}): shares are means over models, intervals "
            "are Student's t, p values flip the signs of models' mean effects, n counts models.",
            *course([row for row in cells if row["metric"] == first.params["metric"]]),
        ],
    )


def tasks_result(results: Sequence[Result]) -> Result:
    """How tasks compare: one row a task, from their results of kind "patch"."""
    first, rows = results[0], []
    for result in results:
        cells = [row for row in result.tables["cells"] if row["metric"] == result.params["metric"]]
        held, arrived = turning_points(cells)
        follow = [
            row["follow"]
            for row in result.tables.get("interchange", [])
            if row["direction"] == "noise" and row["span"] == "equals" and row["follow"] is not None
        ]
        rows.append(
            {
                "task": result.params["task"],
                "n_kept": result.values["n_kept"],
                "n_tried": result.values["n_pairs"],
                "city_held_until": held,
                "answer_from": arrived,
                "follow_at_equals": max(follow, default=None),
                **_best_head(cells),
            }
        )
    return Result(
        kind="patch_tasks",
        command=first.command,
        inputs={name: digest for result in results for name, digest in result.inputs.items()},
        params={"runs": first.params["runs"], "metric": first.params["metric"], "seed": first.params["seed"]},
        tables={"tasks": rows},
        notes=[
            "city_held_until: last layer at which exchanging the city's last digit restores half of the "
            "answer; answer_from: first layer at which exchanging '=' does; follow_at_equals: largest share "
            "of decoded answers that follow the donor at '='."
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
    arms = [a for a, arm in enumerate(sweep.arms) if arm.donor == "self"]
    if not arms:
        return float("nan")
    change = np.abs(sweep.patched[arms] - sweep.corrupt)
    return float(np.nanmax(change)) if np.isfinite(change).any() else float("nan")


def place(row: Row) -> str:
    """A cell in words, such as "resid_post of layer 2 at equals"."""
    head = "" if row["head"] is None else f" head {row['head']}"
    subspace = f" inside {row['subspace']}" if row["subspace"] else ""
    return f"{row['component']}{head} of layer {row['layer']} at {row['span'].replace('_', ' ')}{subspace}"


def in_words(rows: Sequence[Row], values: Mapping[str, Any], pairs: Pairs) -> list[str]:
    """What the sweep found, for a reader, with its nulls beside it."""
    lost = ", ".join(f"{n} {reason}" for reason, n in pairs.attrition.items() if reason != "kept")
    notes = [
        f"{len(pairs)} pairs were used, of {values['n_pairs']} candidates tried ({lost}); spans follow the "
        "swapped city, and layers count from 0 after their block (the paper's layer L is our L - 1)."
    ]
    notes += course(rows)
    for direction, verb in (("denoise", "restores"), ("noise", "destroys")):
        mine = [r for r in rows if r["direction"] == direction and r["recovered"] == r["recovered"]]
        sure = [r for r in mine if r["p_adj"] < 0.05]
        for component in dict.fromkeys(r["component"] for r in sure):
            best = max((r for r in sure if r["component"] == component), key=lambda r: r["recovered"])
            notes.append(
                f"{direction}: {place(best)} {verb} {best['recovered']:.2f} "
                f"[{best['ci_lo']:.2f}, {best['ci_hi']:.2f}] of the answer; an unrelated city in that place "
                f"{best['null']:.2f}."
            )
        if mine and not sure:
            notes.append(f"{direction}: no cell differs from 0 after correction over {len(mine)} cells.")
    notes.append(
        "The logit difference also moves when a donor only takes the old answer away, which an unrelated "
        "city does too: what exceeds that city's share is information about the city that was put in."
    )
    notes.append(
        f"Self-patches change no score by more than {values['self_patch_max']:.1g}. Of "
        f"{values['halves_discovered']} cells found in one half of the cities, {values['halves_confirmed']} "
        "were confirmed in the other half."
    )
    return notes


def course(rows: Sequence[Row]) -> list[str]:
    """Where the city is held, where it arrives, and through what, from the residual stream and the heads."""
    held, arrived = turning_points(rows)
    told = []
    if held is not None:
        told.append(f"the city can be exchanged at its last digit up to layer {held}")
    if arrived is not None:
        told.append(f"what the answer needs stands at '=' from layer {arrived}")
        carriers = [
            row
            for row in rows
            if row["component"] == "z"
            and row["direction"] == "denoise"
            and row["span"] == "equals"
            and (row["p_adj"] or 1) < 0.05
            and (row["recovered"] or 0) >= 0.1
        ]
        if carriers:
            heads = sorted(carriers, key=lambda row: -row["recovered"])[:4]
            named = ", ".join(f"{row['layer']}.{row['head']} ({row['recovered']:.2f})" for row in heads)
            told.append(f"heads that bring it there, as layer.head: {named}")
    return ["; ".join(told).capitalize() + "."] if told else []


def turning_points(rows: Sequence[Row]) -> tuple[int | None, int | None]:
    """Last layer whose residual stream restores half of the answer at the city's last digit, and the first
    layer at which '=' does; None where there is no such layer."""
    stream = {
        (row["span"], row["layer"]): row["recovered"]
        for row in rows
        if row["component"] == "resid_post" and row["direction"] == "denoise" and row["subspace"] is None
    }
    layers = sorted({layer for _, layer in stream})
    held = [layer for layer in layers if _share(stream, "swapped_last", layer) >= 0.5]
    arrived = [layer for layer in layers if _share(stream, "equals", layer) >= 0.5]
    return max(held, default=None), min(arrived, default=None)


def _share(stream: Mapping[tuple[str, int], float | None], span: str, layer: int) -> float:
    value = stream.get((span, layer), float("nan"))
    return -1.0 if value is None or value != value else value
