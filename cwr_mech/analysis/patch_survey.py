"""A patching sweep of one task in one model as a Result: table, controls, attrition, findings in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cwr_mech.analysis.pairs import Pairs
from cwr_mech.analysis.patch_table import confirm, tabulate
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
) -> Result:
    """Tables `cells` (patches from the other question), `controls` (all other donors) and `attrition`.

    In `cells`, `null` is what an unrelated city in the same place recovers in that very cell. `controls` has
    the first metric only.
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
        },
        arrays={"spans": np.array(list(dict.fromkeys(cell.span for cell in sweep.cells)))},
        notes=in_words(primary, values, pairs),
    )


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(
        row[name] for name in ("direction", "component", "layer", "head", "span", "subspace", "metric")
    )


def _without(row: Row, name: str) -> Row:
    return {key: value for key, value in row.items() if key != name}


def _largest(values: Any) -> float:
    finite = [abs(value) for value in values if value == value]
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
