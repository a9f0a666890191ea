"""Estimates of a patching sweep held against exact patching: of cells by attribution, of paths by edges."""

from collections.abc import Mapping, Sequence

import numpy as np

from cwr_mech.analysis.patching.attribution import LARGE, Agreement, Mode, attribute, compare, saturated
from cwr_mech.analysis.patching.cells import Cell
from cwr_mech.analysis.patching.layout import INTERCHANGE
from cwr_mech.analysis.patching.pairs import Pairs
from cwr_mech.analysis.patching.paths import Path, all_paths, edge_attribution, patch_paths
from cwr_mech.analysis.patching.summary import place
from cwr_mech.analysis.patching.sweep import Sweep, sweep
from cwr_mech.analysis.patching.table import effects, ratios, resample
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.results import Row

ESTIMATES: Mapping[str, tuple[Mode, int]] = {
    "linear": ("linear", 1),
    "softmax recomputed": ("exact", 1),
    "integrated": ("exact", 5),
}
"""Kind of attribution -> how queries and keys are treated, and steps of the integrated gradient."""

PATH_PAIRS = 64
"""Most pairs in which paths are patched: there are many paths, and each is one run."""


def attribution_part(model: HookedQwen2, pairs: Pairs, swept: Sweep) -> tuple[list[Row], list[str]]:
    """Table `attribution`: how well each estimate follows exact patching; and its failures in words."""
    rows, notes = [], []
    for a, condition in enumerate(INTERCHANGE):
        sign = 1.0 if condition.direction == "denoise" else -1.0
        exact = nanmean(effects(swept, a, 0))
        gap = float((swept.clean[0] - swept.corrupt[0]).mean())
        estimates = {}
        for label, (mode, steps) in ESTIMATES.items():
            found = attribute(
                model,
                pairs,
                swept.cells,
                metric=swept.metrics[0],
                conditions=[condition],
                mode=mode,
                steps=steps,
            )
            estimates[label] = sign * nanmean(found[0])
            agreement = compare(exact, estimates[label], gap)
            rows.append(_agreement_row(condition.direction, label, steps, len(swept.cells), agreement))
            if agreement.misses:
                notes.append(
                    f"{condition.direction}: {label} attribution misses {len(agreement.misses)} cells that "
                    f"exact patching finds (rank correlation {agreement.rank:.2f}), such as "
                    f"{_few(swept.cells, agreement.misses)}."
                )
        hard = saturated(swept.cells, estimates["linear"], estimates["softmax recomputed"], LARGE * abs(gap))
        if hard:
            notes.append(
                f"{condition.direction}: attention is saturated in {len(hard)} cells, such as "
                f"{_few(swept.cells, hard)}; plain attribution must not be believed there."
            )
    return rows, notes


def paths_part(
    model: HookedQwen2, pairs: Pairs, rng: np.random.Generator
) -> tuple[list[Row], list[Row], list[str]]:
    """Tables `paths` and (one row) `attribution`, and notes: every head to every later reader and to the
    answer at all positions at once, patched exactly (clean into corrupt) and estimated by edge attribution.

    Both score the logit difference.
    """
    some = pairs.take(slice(0, PATH_PAIRS))
    paths = all_paths(model, "everywhere")
    whole = sweep(model, some, [])
    effect = patch_paths(model, some, paths, conditions=INTERCHANGE[:1])[0] - whole.corrupt[0]
    gap = (whole.clean - whole.corrupt)[0]
    stats = ratios(effect, gap, resample(some.cluster, rng))
    edges = edge_attribution(model, some)
    estimate = np.array([edges[_head(path.sender), _edge_end(path)] for path in paths])
    agreement = compare(stats["effect"], estimate, float(gap.mean()))
    rows = [
        {
            "sender": _head(path.sender),
            "receiver": _receiver(path),
            "reader": None if path.receiver is None else path.reader,
            "n": len(some),
            **{name: float(column[p]) for name, column in stats.items()},
            "estimate": float(estimate[p] / gap.mean()),
        }
        for p, path in enumerate(paths)
    ]
    notes = []
    if agreement.misses:
        missed = [rows[p] for p in agreement.misses[:3]]
        names = [f"head {row['sender']} to {row['receiver']} {row['reader'] or ''}" for row in missed]
        told = "; ".join(name.strip() for name in names)
        notes.append(
            f"Edge attribution misses {len(agreement.misses)} of {len(paths)} paths that path patching finds "
            f"(rank correlation {agreement.rank:.2f}), such as {told}."
        )
    return rows, [_agreement_row("denoise", "edges", 1, len(paths), agreement)], notes


def _agreement_row(direction: str, estimate: str, steps: int, cells: int, agreement: Agreement) -> Row:
    about = {"direction": direction, "estimate": estimate, "steps": steps, "cells": cells}
    wrong = {"missed": len(agreement.misses), "false_alarms": len(agreement.false_alarms)}
    return about | {"rank_correlation": agreement.rank, "correlation": agreement.pearson} | wrong


def _head(head: tuple[int, int | None]) -> str:
    return f"{head[0]}.{head[1]}"


def _receiver(path: Path) -> str:
    """A path's end as "layer.head", "mlp of layer", or "answer"."""
    if path.receiver is None:
        return "answer"
    return f"mlp {path.receiver[0]}" if path.receiver[1] is None else _head(path.receiver)


def _edge_end(path: Path) -> str:
    """A path's end as `edge_attribution` names it."""
    if path.receiver is None or path.receiver[1] is None:
        return _receiver(path).replace(" ", "")
    return f"{_receiver(path)}.{path.reader}"


def nanmean(values: np.ndarray) -> np.ndarray:
    """Mean over pairs; NaN for rows without any."""
    has = np.isfinite(values)
    total = np.where(has, values, 0.0).sum(-1)
    return np.divide(total, has.sum(-1), out=np.full(total.shape, np.nan), where=has.any(-1))


def _few(cells: Sequence[Cell], numbers: Sequence[int]) -> str:
    """The first three of some cells, in words."""
    return "; ".join(place(cells[c].columns) for c in numbers[:3])
