"""Linear CKA of every pair of items, with its precision, null, baselines and ceiling, as a Result."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations

import numpy as np
from jaxtyping import Float

from cwr_mech.analysis.published import published_pair
from cwr_mech.analysis.selection import Item, shared_ids, token_features
from cwr_mech.analysis.similarity.cka import CkaMatrix, linear_cka, linear_cka_matrix
from cwr_mech.analysis.similarity.model_groups import group_rows
from cwr_mech.analysis.stats.models import Member, ceilings
from cwr_mech.errors import AnalysisError
from cwr_mech.results import Result, Row

Z95 = 1.959963984540054
PLACE = ("run", "layer", "hook", "task")
"""What tells items apart."""


def cka_result(
    items: Sequence[Item],
    members: Mapping[str, Member] | None = None,
    untrained: Sequence[tuple[Item, Item]] = (),
    *,
    debiased: bool = True,
    cities: str = "old",
    draws: int = 20,
    seed: int = 0,
) -> Result:
    """CKA of every pair of items over the cities they share.

    `members`: run -> how it was trained, which makes models of the same tasks and other seeds the ceiling;
    `untrained`: items with the same place of the model before training.
    Arrays: `matrix`, `lo`, `hi` (95 % over cities, debiased only), `null` (mean over shuffles), `ceiling`.
    Tables: `cells` (pairs), `control` (shuffled cities; the id's digits and the untrained model against every
    item), `groups` (`group_rows`, for each layer at which every model has one item).
    Raises AnalysisError for fewer than 5 shared cities or a single item.
    """
    if len(items) < 2:
        raise AnalysisError("CKA compares at least two representations", "give more runs, layers or prompts")
    ids = shared_ids([item.store for item in items], cities)
    arrays = [item.get(ids) for item in items]
    matrix = linear_cka_matrix(arrays, debiased=debiased)
    quick = partial(linear_cka_matrix, debiased=debiased, errors=False)
    rng = np.random.default_rng(seed)
    # The cities of each representation shuffled by itself: what no shared map gives.
    null = np.stack([quick([x[rng.permutation(len(x))] for x in arrays]).values for _ in range(draws)])
    off = ~np.eye(len(items), dtype=bool)
    tokens = token_features(items[0].store, ids)
    control = [_spread("shuffled cities", null[:, off], ids.size)]
    for name, features in tokens.items():
        control.append(_spread(name, quick([features, *arrays]).values[0, 1:], ids.size))
    if untrained:
        before = [linear_cka(a.get(ids), b.get(ids), debiased=debiased) for a, b in untrained]
        control.append(_spread("the model untrained", np.array(before), ids.size))
    known = {run: Member(run, (run,), None, 0, 0) for run in {item.run for item in items}} | dict(
        members or {}
    )
    most = ceilings(
        matrix.values,
        [(known[item.run].tasks, item.layer, item.task) for item in items],
        [known[item.run].seed for item in items],
    )
    name = "cka" if debiased else "cka_biased"
    reach = Z95 * matrix.standard_error
    return Result(
        kind="cka",
        params={
            "runs": list(dict.fromkeys(item.run for item in items)),
            "debiased": debiased,
            "site": items[0].site,
            "prompt": ", ".join(dict.fromkeys(item.task for item in items)),
            "cities": cities,
            "draws": draws,
            "seed": seed,
        },
        values={
            "n": int(ids.size),
            "p": int(arrays[0].shape[1]),
            "measure": f"linear CKA, {'debiased' if debiased else 'biased'}",
            "mean_off_diagonal": _mean(matrix.values[off]),
        },
        tables={
            "cells": _cells(name, items, known, matrix, null, most),
            "control": control,
            "groups": _groups(name, items, known, matrix.values, null.mean(axis=0), seed),
        },
        arrays={
            "matrix": matrix.values,
            "lo": matrix.values - reach,
            "hi": matrix.values + reach,
            "null": null.mean(axis=0),
            "ceiling": most,
            **{f"{name}s": np.array([getattr(item, name) for item in items]) for name in PLACE},
        },
        notes=_notes(items, matrix, control, cities),
    )


def _groups(
    name: str,
    items: Sequence[Item],
    members: Mapping[str, Member],
    matrix: Float[np.ndarray, "rep rep"],
    null: Float[np.ndarray, "rep rep"],
    seed: int,
) -> list[Row]:
    """Means over pairs of models at each layer; none where a model stands twice (several prompts)."""
    rows = []
    runs = {item.run for item in items}
    for layer in sorted({item.layer for item in items}):
        here = [k for k, item in enumerate(items) if item.layer == layer]
        known = [members[items[k].run] for k in here]
        if len(here) == len(runs) > 1 and {member.run for member in known} == runs:
            cells = np.ix_(here, here)
            rng = np.random.default_rng([seed, 1, layer + 1])
            found = group_rows(name, matrix[cells], null[cells], known, rng)
            rows += [{"layer": layer, **row} for row in found]
    return rows


def _cells(
    name: str,
    items: Sequence[Item],
    members: Mapping[str, Member],
    matrix: CkaMatrix,
    null: Float[np.ndarray, "draw rep rep"],
    most: Float[np.ndarray, "rep rep"],
) -> list[Row]:
    rows = []
    for (i, first), (j, second) in combinations(enumerate(items), 2):
        reach = Z95 * float(matrix.standard_error[i, j])
        value, ceiling = float(matrix.values[i, j]), float(most[i, j])
        tasks = members[first.run].tasks, members[second.run].tasks
        beside = first.layer == second.layer and first.run != second.run
        rows.append(
            {
                **{f"{k}_a": getattr(first, k) for k in PLACE if k != "hook"},
                **{f"{k}_b": getattr(second, k) for k in PLACE if k != "hook"},
                "cka": value,
                "lo": value - reach,
                "hi": value + reach,
                "null_mean": float(null[:, i, j].mean()),
                "null_max": float(null[:, i, j].max()),
                "ceiling": ceiling,
                "of_ceiling": value / ceiling,
                "published": published_pair(name, *tasks) if beside else None,
                "reason": matrix.reasons.get(i) or matrix.reasons.get(j),
            }
        )
    return rows


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _spread(name: str, values: np.ndarray, n: int) -> Row:
    known = values[np.isfinite(values)]
    most = float(known.max()) if known.size else float("nan")
    return {"control": name, "mean": _mean(values), "max": most, "n": n}


def _notes(items: Sequence[Item], matrix: CkaMatrix, control: list[Row], cities: str) -> list[str]:
    shuffled = control[0]
    notes = [
        f"{matrix.n} {cities} cities; intervals (95 %, jackknife over cities) say nothing about other seeds.",
        f"Control, shuffled cities: mean {shuffled['mean']:.3f}, largest {shuffled['max']:.3f}.",
        *(f"Control, {row['control']}: largest {row['max']:.3f}." for row in control[1:]),
    ]
    if not matrix.debiased:
        notes.append("Biased estimator (the paper's): unrelated features get more than 0; no intervals.")
    for index, reason in matrix.reasons.items():
        item = items[index]
        notes.append(f"Undefined for {item.run}, {item.hook}, prompt {item.task}: {reason}.")
    return notes
