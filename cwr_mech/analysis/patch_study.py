"""Everything `cwr-mech patch` asks of one model and one task, in order: pairs, sweep, decoding, attribution,
paths, subspaces, a learned subspace. Each part adds its table to one Result.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cwr_mech.analysis.attribution import Mode, attribute, compare, saturated
from cwr_mech.analysis.das import das
from cwr_mech.analysis.interchange import interchange, interchange_rows, swapped_answers
from cwr_mech.analysis.pairs import Pairs, find_pairs
from cwr_mech.analysis.patch_cells import Cell, grid
from cwr_mech.analysis.patch_layout import SWAP
from cwr_mech.analysis.patch_subspaces import describe, fit_subspaces
from cwr_mech.analysis.patch_survey import patch_result
from cwr_mech.analysis.patch_table import effects
from cwr_mech.analysis.patching import Sweep, sweep
from cwr_mech.analysis.paths import Path, patch_paths, paths_from
from cwr_mech.generation import decode_text
from cwr_mech.model import HookedQwen2
from cwr_mech.results import Result
from cwr_mech.tasks import get_task
from cwr_mech.world import World

Row = dict[str, Any]
DECODED = ("swapped_digits", "swapped_last", "equals")
"""Spans at which the residual stream is replaced to see which city the decoded answer follows."""

ESTIMATES: Mapping[str, tuple[Mode, int]] = {
    "linear": ("linear", 1),
    "softmax recomputed": ("exact", 1),
    "integrated": ("exact", 5),
}
"""Kind of attribution -> how queries and keys are treated, and steps of the integrated gradient."""

SENDERS = 3
"""How many of the strongest heads are followed to what they tell later heads and the answer."""


@dataclass(frozen=True)
class Question:
    """What pairs to look for: see `find_pairs`."""

    task: str
    n: int = 64
    seed: int = 42
    group: str = "old"
    slot: int | None = None
    tolerance: float = 0.25


@dataclass(frozen=True)
class Extras:
    """Parts asked for: kinds of subspaces, the rank of manifold and pca, the rank of a learned one."""

    subspaces: tuple[str, ...] = ()
    rank: int | None = None
    das: int | None = None


@dataclass(frozen=True)
class About:
    """Where a result comes from: run, step, what was read, and the command."""

    run: str
    step: int
    inputs: Mapping[str, str]
    command: str


def examine(
    model: HookedQwen2,
    world: World,
    question: Question,
    pairs: Pairs,
    swept: Sweep,
    about: About,
    extras: Extras,
) -> Result:
    """Everything that follows a sweep, as one Result of kind "patch"."""
    tables: dict[str, list[Row]] = {}
    tables["interchange"], arrays = decoded_part(model, pairs, question.seed)
    tables["attribution"], notes = attribution_part(model, pairs, swept)
    if extras.subspaces or extras.das:
        kinds = extras.subspaces or ("manifold", "random", "random-like")
        tables["subspaces"], n = subspace_part(model, world, question, kinds, rank=extras.rank)
        notes += subspace_notes(tables["subspaces"], n)
    if extras.das:
        layer = best_subspace_layer(tables["subspaces"])
        tables["das"] = das_part(model, world, question, layer, extras.das)
        told = ", ".join(f"{row['subspace']} {row['accuracy']:.2f}" for row in tables["das"])
        notes.append(
            f"First tokens right for the donor on {tables['das'][0]['n']} held-out pairs, a subspace of rank "
            f"{extras.das} of layer {layer} replaced: {told}."
        )
    return patch_result(
        swept,
        pairs,
        seed=question.seed,
        runs=[about.run],
        command=about.command,
        inputs=about.inputs,
        params={"group": question.group, "tolerance": question.tolerance, "step": about.step},
        tables=tables,
        arrays=arrays,
        notes=notes,
        paths=partial(paths_part, model, pairs, metric=swept.metrics[0]),
    )


def ask(
    model: HookedQwen2, world: World, question: Question, *, n: int | None = None, first: bool = False
) -> Pairs:
    """Pairs the model answers, `n` instead of the question's number; `first` swaps first cities only."""
    answerer = partial(decode_text, model, max_new_tokens=get_task(question.task).max_answer_tokens)
    return find_pairs(
        answerer,
        world,
        question.task,
        question.n if n is None else n,
        seed=question.seed,
        group=question.group,
        slot=0 if first else question.slot,
        tolerance=question.tolerance,
    )


def decoded_part(model: HookedQwen2, pairs: Pairs, seed: int) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Table `interchange`, and per pair the answers where they follow the donor best (number tasks)."""
    cells = grid(model.cfg, ("resid_post",), DECODED)
    found = interchange(model, pairs, cells, arms=SWAP)
    rows = interchange_rows(found, pairs, np.random.default_rng(np.random.SeedSequence((seed, 9))))
    noise = [
        (row["follow"], c) for c, row in enumerate(rows[len(cells) :]) if row["span"] != "swapped_digits"
    ]
    best = max(noise, key=lambda pair: -1.0 if np.isnan(pair[0]) else pair[0])[1]
    answers = swapped_answers(found, pairs, best)
    arrays = {f"swapped_{name}": np.asarray(values, dtype=np.float64) for name, values in answers.items()}
    arrays["swapped_place"] = np.array([f"layer {cells[best].layer}", cells[best].span])
    return rows, arrays


def attribution_part(
    model: HookedQwen2, pairs: Pairs, swept: Sweep, *, metric: int = 0
) -> tuple[list[Row], list[str]]:
    """Table `attribution`: how well each estimate follows exact patching; and its failures in words."""
    rows, notes = [], []
    name = swept.metrics[metric]
    for a, arm in enumerate(SWAP):
        sign = 1.0 if arm.direction == "denoise" else -1.0
        exact = _nanmean(effects(swept, a, metric))
        gap = float((swept.clean[metric] - swept.corrupt[metric]).mean())
        estimates = {}
        for label, (mode, steps) in ESTIMATES.items():
            found = attribute(model, pairs, swept.cells, metric=name, arms=[arm], mode=mode, steps=steps)
            estimates[label] = sign * _nanmean(found[0])
            agreement = compare(exact, estimates[label], gap)
            rows.append(
                {
                    "direction": arm.direction,
                    "estimate": label,
                    "steps": steps,
                    "cells": len(swept.cells),
                    "rank_correlation": agreement.rank,
                    "correlation": agreement.pearson,
                    "missed": len(agreement.misses),
                    "false_alarms": len(agreement.false_alarms),
                }
            )
            if agreement.misses:
                notes.append(
                    f"{arm.direction}: {label} attribution misses {len(agreement.misses)} cells that exact "
                    f"patching finds, such as {_few(swept.cells, agreement.misses)}."
                )
        hard = saturated(swept.cells, estimates["linear"], estimates["softmax recomputed"], 0.1 * abs(gap))
        if hard:
            notes.append(
                f"{arm.direction}: attention is saturated in {len(hard)} cells, such as "
                f"{_few(swept.cells, hard)}; plain attribution must not be believed there."
            )
    return rows, notes


def paths_part(model: HookedQwen2, pairs: Pairs, cells: Sequence[Row], metric: str) -> list[Row]:
    """Table `paths`: what the strongest heads tell each later head and MLP, and the answer directly."""
    heads = [
        row
        for row in cells
        if (row["component"], row["metric"], row["direction"]) == ("z", metric, "denoise")
        and row["recovered"] is not None
        and row["recovered"] == row["recovered"]
    ]
    paths: list[Path] = []
    for row in sorted(heads, key=lambda row: -abs(row["recovered"]))[:SENDERS]:
        sender = (int(row["layer"]), int(row["head"]))
        paths += paths_from(model, sender, row["span"])
    if not paths:
        return []
    scores = patch_paths(model, pairs, paths, metrics=(metric,), arms=SWAP[:1])[0, :, 0]
    whole = sweep(model, pairs, [], metrics=(metric,))
    gap = float((whole.clean - whole.corrupt).mean())
    effect = _nanmean(scores - whole.corrupt[0])
    return [
        {
            "sender": f"{path.sender[0]}.{path.sender[1]}",
            "span": path.span,
            "receiver": _receiver(path),
            "reader": None if path.receiver is None else path.reader,
            "effect": float(effect[p]),
            "recovered": float(effect[p] / gap),
        }
        for p, path in enumerate(paths)
    ]


def _receiver(path: Path) -> str:
    """A path's end as "layer.head", "mlp of layer", or "answer"."""
    if path.receiver is None:
        return "answer"
    layer, head = path.receiver
    return f"mlp {layer}" if head is None else f"{layer}.{head}"


def subspace_part(
    model: HookedQwen2, world: World, question: Question, kinds: Sequence[str], *, rank: int | None = None
) -> tuple[list[Row], int]:
    """Table `subspaces`: what the answer follows when only a part of the first city's state is replaced."""
    pairs = ask(model, world, question, first=True)
    fitted = fit_subspaces(model, world, question.task, kinds, rank=rank, seed=question.seed)
    found = interchange(model, pairs, fitted.cells, arms=SWAP[1:], bases=fitted.bases)
    rng = np.random.default_rng(np.random.SeedSequence((question.seed, 10)))
    return describe(fitted, interchange_rows(found, pairs, rng)), len(pairs)


def das_part(
    model: HookedQwen2, world: World, question: Question, layer: int, rank: int, *, n: int = 512
) -> list[Row]:
    """Table `das`: a learned subspace, its controls and the manifold after one layer, at the last digit."""
    pairs = ask(model, world, question, n=n, first=True)
    fitted = fit_subspaces(model, world, question.task, ("manifold",), seed=question.seed)
    manifold = fitted.bases[("manifold", layer, "swapped_last")]
    others = {"manifold": manifold}
    return das(model, pairs, layer, "swapped_last", rank=rank, others=others, seed=question.seed)


def best_subspace_layer(rows: Sequence[Row]) -> int:
    """The layer at which replacing the city's whole state moves the answer most."""
    whole = [row for row in rows if row["subspace"] is None and row["follow"] == row["follow"]]
    return int(max(whole, key=lambda row: row["follow"])["layer"])


def subspace_notes(rows: Sequence[Row], n: int) -> list[str]:
    """What the subspaces carry at the layer where the whole state carries most."""
    layer = best_subspace_layer(rows)
    at = {row["subspace"]: row for row in rows if row["layer"] == layer}
    told = [f"whole state {at[None]['follow']:.2f}"]
    told += [f"{name} ({row['rank']} dimensions) {row['follow']:.2f}" for name, row in at.items() if name]
    return [
        f"Share of {n} answers that follow the donor when only a part of the first city's state after layer "
        f"{layer} is replaced, at its last digit: {', '.join(told)}."
    ]


def _nanmean(values: np.ndarray) -> np.ndarray:
    """Mean over pairs; NaN for rows without any."""
    has = np.isfinite(values)
    total = np.where(has, values, 0.0).sum(-1)
    return np.divide(total, has.sum(-1), out=np.full(total.shape, np.nan), where=has.any(-1))


def _few(cells: Sequence[Cell], numbers: Sequence[int]) -> str:
    """The first three of some cells, in words."""
    return "; ".join(
        f"{cell.component}{'' if cell.head is None else f' head {cell.head}'} of layer {cell.layer} at "
        f"{cell.span.replace('_', ' ')}"
        for cell in (cells[c] for c in numbers[:3])
    )
