"""Activation patching, exact and batched: replace a piece of one run by that of another, see the answer move.

A sweep scores every cell (component, layer, head, span) in both directions. "denoise" copies the clean run's
activation into the corrupt run and asks whether it is sufficient for the clean answer; "noise" copies the
corrupt run's into the clean run and asks whether it is necessary (Heimersheim & Nanda, arXiv 2404.15255).
The same cells are patched from control sources (see `pairs`). Every value equals that of one full forward a
cell, to rounding; see `forward` for how most of that forward is avoided.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from cwr_mech.analysis.patching.batch import Bases, Batch
from cwr_mech.analysis.patching.cells import Cell
from cwr_mech.analysis.patching.forward import Forward
from cwr_mech.analysis.patching.layout import (
    CONDITIONS,
    INTERCHANGE,
    ROLES,
    Condition,
    layouts,
    rows_to_run,
)
from cwr_mech.analysis.patching.pairs import Pairs
from cwr_mech.analysis.patching.store import SweepStore
from cwr_mech.model.layers import HookedConfig
from cwr_mech.model.qwen2 import HookedQwen2

BUDGET = 128 * 2**20
"""Default bound on the memory of one batch of patched rows, in bytes."""


@dataclass(frozen=True)
class Sweep:
    """Scores of a sweep: of the unpatched runs, and of each patched one (NaN where a pair lacks the span or
    the source)."""

    cells: tuple[Cell, ...]
    conditions: tuple[Condition, ...]
    metrics: tuple[str, ...]
    clean: Float64[np.ndarray, "metric pair"]
    corrupt: Float64[np.ndarray, "metric pair"]
    patched: Float64[np.ndarray, "condition cell metric pair"]


def sweep(
    model: HookedQwen2,
    pairs: Pairs,
    cells: Sequence[Cell],
    *,
    metrics: Sequence[str] = ("logit_diff",),
    conditions: Sequence[Condition] = INTERCHANGE,
    bases: Bases | None = None,
    budget: int = BUDGET,
    store: SweepStore | None = None,
    advance: Callable[[int], object] | None = None,
) -> Sweep:
    """Patch every cell of every condition in every pair.

    `budget` bounds the bytes of one batch of patched rows; the recorded runs of PAIR_CHUNK pairs come on top.
    `store` keeps each layer's scores of each layout as soon as they are there, and gives back what an
    earlier sweep kept. `advance` is told how many rows were finished.
    """
    forward = Forward(model)
    shape = (len(metrics), len(pairs))
    clean, corrupt = np.full(shape, np.nan), np.full(shape, np.nan)
    patched = np.full((len(conditions), len(cells), *shape), np.nan)
    for number, layout in enumerate(layouts(pairs, metrics, roles=roles_of(conditions))):
        batch = Batch(forward, layout, metrics, bases)
        clean[:, layout.rows], corrupt[:, layout.rows] = batch.unpatched["clean"], batch.unpatched["corrupt"]
        for layer in sorted({cell.layer for cell in cells}):
            here = [c for c, cell in enumerate(cells) if cell.layer == layer]
            name = f"{number:04d}-layer{layer}"
            values = store.load(name) if store else None
            groups = rows_to_run(forward.cfg, layout, [cells[c] for c in here], conditions)
            if values is None:
                values = batch.patched([cells[c] for c in here], conditions, groups, budget, advance)
                if store:
                    store.save(name, values)
            elif advance:
                advance(sum(map(len, groups)))
            for place, c in enumerate(here):
                patched[:, c, :, layout.rows] = values[:, place].transpose(2, 0, 1)
    return Sweep(tuple(cells), tuple(conditions), tuple(metrics), clean, corrupt, patched)


def roles_of(conditions: Sequence[Condition]) -> list[str]:
    """The questions that some conditions need; the clean and the corrupt one always."""
    needed = {"clean", "corrupt"} | {
        role for condition in conditions for role in (condition.base, condition.role)
    }
    return [role for role in ROLES if role in needed]


def rows_computed(cfg: HookedConfig, pairs: Pairs, cells: Sequence[Cell], metrics: Sequence[str]) -> int:
    """How many patched rows a sweep of CONDITIONS will compute; it tells `advance` of as many."""
    found = layouts(pairs, metrics, roles=roles_of(CONDITIONS))
    return sum(len(rows) for layout in found for rows in rows_to_run(cfg, layout, cells, CONDITIONS))
