"""From a sweep's scores to a tidy table: effect, share recovered, interval, p value, one row a cell.

denoise: effect = patched - corrupt. noise: effect = clean - patched. Both point towards "the patch carries
the answer", and recovered = mean effect / mean (clean - corrupt), a ratio of means: 0 when the patch does
nothing, 1 when it does all. Intervals resample swapped cities; p values flip the signs of all pairs of a
swapped city together, and are adjusted over the grid of one condition and metric (Benjamini & Hochberg 1995).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

from cwr_mech.analysis.patching.sweep import Sweep
from cwr_mech.analysis.stats.intervals import mean_interval
from cwr_mech.analysis.stats.testing import benjamini_hochberg, sign_flip_test
from cwr_mech.errors import AnalysisError
from cwr_mech.results import Row, groups, where

KEY = ("direction", "component", "layer", "head", "span", "subspace", "metric")
"""Columns that tell the rows of one source apart."""
AVERAGED = ("clean", "corrupt", "patched", "effect", "recovered", "null")
FOLLOWED = (
    "iia", "truth", "unchanged", "neither", "error_to_source", "error_to_base", "expected_to_source", "slope",
    "rank", "variance",
)  # fmt: skip
BOOTSTRAPS, FLIPS, LEVEL, ALPHA = 1000, 4000, 0.95, 0.05
ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
"""Quantiles at the ends of an interval."""
BLOCK = 256
"""Cells that fit into memory with all their resamples."""


@dataclass(frozen=True)
class Resamples:
    """Random weights of the pairs: `boot` counts of a bootstrap over clusters, `signs` of a sign flip."""

    boot: Float64[np.ndarray, "draw pair"]
    signs: Float64[np.ndarray, "flip pair"]
    exact: bool


def resample(clusters: Shaped[np.ndarray, " pair"], rng: np.random.Generator) -> Resamples:
    """Draw weights in which pairs of one cluster move together. All sign patterns where they are few."""
    labels, inverse = np.unique(clusters, return_inverse=True)
    k = len(labels)
    boot = rng.multinomial(k, np.full(k, 1 / k), size=BOOTSTRAPS).astype(np.float64)
    exact = k <= 30 and 2**k <= FLIPS
    if exact:
        signs = 1.0 - 2.0 * ((np.arange(2**k)[:, None] >> np.arange(k)) & 1)
    else:
        signs = rng.choice([-1.0, 1.0], size=(FLIPS, k))
    return Resamples(boot[:, inverse], signs[:, inverse], exact)


def effects(sweep: Sweep, condition: int, metric: int) -> Float64[np.ndarray, "cell pair"]:
    """Effect of every cell in every pair, for one condition and metric; NaN where a cell does not apply."""
    patched = sweep.patched[condition, :, metric]
    if sweep.conditions[condition].direction == "denoise":
        return patched - sweep.corrupt[metric]
    return sweep.clean[metric] - patched


def tabulate(sweep: Sweep, clusters: Shaped[np.ndarray, " pair"], rng: np.random.Generator) -> list[Row]:
    """One row for every condition, metric and cell: scores `clean`, `corrupt` and `patched`, the effect, the
    share recovered with its interval, p and adjusted p. `clusters` names each pair's swapped city.

    NaN where a value is not defined: no pair has the span, or clean and corrupt score alike on average.
    """
    draws = resample(clusters, rng)
    rows: list[Row] = []
    for a, condition in enumerate(sweep.conditions):
        for m, metric in enumerate(sweep.metrics):
            effect = effects(sweep, a, m)
            stats = ratios(effect, sweep.clean[m] - sweep.corrupt[m], draws)
            p_adj = benjamini_hochberg(stats["p"])
            for c, cell in enumerate(sweep.cells):
                has = np.isfinite(effect[c])
                rows.append(
                    {
                        "source": condition.source,
                        "direction": condition.direction,
                        **cell.columns,
                        "metric": metric,
                        "n": int(has.sum()),
                        "clean": mean_of(sweep.clean[m][has]),
                        "corrupt": mean_of(sweep.corrupt[m][has]),
                        "patched": mean_of(sweep.patched[a, c, m][has]),
                        **{name: float(column[c]) for name, column in stats.items()},
                        "p_adj": float(p_adj[c]),
                    }
                )
    return rows


def key_of(row: Row) -> tuple[Any, ...]:
    """Which cell a row is about, in which direction and by which score: KEY."""
    return tuple(row.get(name) for name in KEY)


def mean_of(values: Shaped[np.ndarray, "*of"]) -> float:
    """The mean of some values; NaN without any."""
    return float(values.mean()) if values.size else float("nan")


def ratios(
    effect: Float64[np.ndarray, "cell pair"], gap: Float64[np.ndarray, " pair"], draws: Resamples
) -> dict[str, Float64[np.ndarray, " cell"]]:
    """Columns effect, recovered, lo, hi, p of effects whose whole is `gap` [pair]."""
    if len(effect) > BLOCK:
        starts = range(0, len(effect), BLOCK)
        parts = [ratios(effect[start : start + BLOCK], gap, draws) for start in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    has = np.isfinite(effect)
    filled, gaps, n = np.where(has, effect, 0.0), np.where(has, gap, 0.0), has.sum(1)
    total, span = filled.sum(1), gaps.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / n
        recovered = np.where(np.abs(span) > 1e-9 * n, total / span, np.nan)
        ratio = (filled @ draws.boot.T) / (gaps @ draws.boot.T)
        defined = np.where(np.isfinite(ratio), ratio, np.nan)
        usable = (np.isfinite(ratio).mean(1) > 0.9) & np.isfinite(recovered)
        quantiles = np.full((2, len(effect)), np.nan)
        if usable.any():
            quantiles[:, usable] = np.nanquantile(defined[usable], ENDS, axis=1)
        flipped = np.abs(filled @ draws.signs.T)
        slack = 1e-12 * np.maximum(1.0, np.abs(total))[:, None]
        extreme = (flipped >= np.abs(total)[:, None] - slack).sum(1)
        added = 0 if draws.exact else 1
        p = np.where(n > 0, (extreme + added) / (flipped.shape[1] + added), np.nan)
    return {"effect": mean, "recovered": recovered, "lo": quantiles[0], "hi": quantiles[1], "p": p}


def confirm(sweep: Sweep, clusters: Shaped[np.ndarray, " pair"], rng: np.random.Generator) -> dict[str, int]:
    """Find cells in one half of the swapped cities and test them in the other, by the first condition and
    metric.

    `discovered`: adjusted p below ALPHA in the first half. `confirmed`: of those, how many have p below
    ALPHA and the same sign in the second half.
    """
    labels = rng.permutation(np.unique(clusters))
    first = np.isin(clusters, labels[: len(labels) // 2])
    halves = []
    for half in (first, ~first):
        gap = sweep.clean[0, half] - sweep.corrupt[0, half]
        halves.append(ratios(effects(sweep, 0, 0)[:, half], gap, resample(clusters[half], rng)))
    found = benjamini_hochberg(halves[0]["p"]) < ALPHA
    again = (halves[1]["p"] < ALPHA) & (np.sign(halves[0]["effect"]) == np.sign(halves[1]["effect"]))
    confirmed = int((found & again).sum())
    return {"discovered": int(found.sum()), "confirmed": confirmed, "cells": len(sweep.cells)}


def pool(tables: Sequence[Sequence[Row]], rng: np.random.Generator) -> list[Row]:
    """One table from several models' tables of equal cells, with models as the units.

    Single heads are left out: the second head of one model has nothing to do with that of another.
    effect and recovered are means over models, the interval is Student's t over models, p flips the signs of
    the models' effects; n counts models. Raises AnalysisError when the tables do not hold the same cells.
    """
    tables = [where(table, head=None) for table in tables]
    keys = [[key_of(row) for row in table] for table in tables]
    if any(each != keys[0] for each in keys):
        raise AnalysisError("models of different shape or tables of different cells cannot be pooled")
    pooled = []
    for rows in zip(*tables, strict=True):
        column = {name: _finite(rows, name) for name in AVERAGED}
        shares, means = column["recovered"], {name: mean_of(values) for name, values in column.items()}
        low, high = _ends(shares)
        p = sign_flip_test(column["effect"], rng).p if shares.size >= 2 else float("nan")
        pooled.append({**rows[0], "n": int(shares.size), **means, "lo": low, "hi": high, "p": p})
    for mine in groups(pooled, "direction", "metric").values():
        adjusted = benjamini_hochberg(np.array([row["p"] for row in mine]))
        for row, value in zip(mine, adjusted, strict=True):
            row["p_adj"] = float(value)
    return pooled


def pool_followed(tables: Sequence[Sequence[Row]]) -> list[Row]:
    """Several models' rows of decoded answers as one table: means over models, Student's t for `iia` (cut to
    shares that there can be) and `slope`.

    Rows stand for the same cell in every table, in the same order; n counts models.
    """
    pooled = []
    for rows in zip(*tables, strict=True):
        means = {name: mean_of(_finite(rows, name)) for name in FOLLOWED if name in rows[0]}
        shares = _finite(rows, "iia")
        low, high = _ends(shares)
        ends = {"lo": max(low, 0.0), "hi": min(high, 1.0)}  # NaN stays: comparisons are false
        if "slope_lo" in rows[0]:
            ends |= dict(zip(("slope_lo", "slope_hi"), _ends(_finite(rows, "slope")), strict=True))
        pooled.append({**rows[0], **means, **ends, "n": len(shares)})
    return pooled


def _ends(values: Float64[np.ndarray, " model"]) -> tuple[float, float]:
    """Ends of Student's t over models; NaN for fewer than two."""
    found = mean_interval(values, unit="model") if len(values) >= 2 else None
    return (found.lo, found.hi) if found else (float("nan"), float("nan"))


def _finite(rows: Sequence[Row], column: str) -> Float64[np.ndarray, " model"]:
    """The numbers of a column; None and NaN are none."""
    values = np.array([np.nan if row[column] is None else row[column] for row in rows], dtype=np.float64)
    return values[np.isfinite(values)]
