"""Activation patching, exact and batched: replace a piece of one run by that of another, see the answer move.

A sweep scores every cell (component, layer, head, span) in both directions. "denoise" copies the clean run's
activation into the corrupt run and asks whether it is sufficient for the clean answer; "noise" copies the
corrupt run's into the clean run and asks whether it is necessary (Heimersheim & Nanda, arXiv 2404.15255).
The same cells are patched from control sources (see `pairs`). Every value equals that of one full forward a
cell, to rounding; see `patch_forward` for how most of that forward is avoided.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from cwr_mech.analysis.patching.cells import BasisName, Cell, Edit, Editor
from cwr_mech.analysis.patching.forward import Forward, Record
from cwr_mech.analysis.patching.layout import (
    CONDITIONS,
    INTERCHANGE,
    ROLES,
    Condition,
    Layout,
    Rows,
    layouts,
    rows_to_run,
)
from cwr_mech.analysis.patching.pairs import Pairs
from cwr_mech.analysis.patching.store import SweepStore
from cwr_mech.model.layers import HookedConfig, LayerCache
from cwr_mech.model.qwen2 import HookedQwen2

BUDGET = 128 * 2**20
"""Default bound on the memory of one batch of patched rows, in bytes."""

Bases = Mapping[BasisName, Float[Tensor, "*pair d_model rank"]]


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


@dataclass(frozen=True)
class Batch:
    """A layout with its runs recorded by a model."""

    forward: Forward
    layout: Layout
    record: Record
    editor: Editor

    @torch.no_grad()
    def unpatched(self, role: str) -> Float[Tensor, "pair read d_vocab"]:
        """Logits of a role's runs at the read positions."""
        runs = torch.from_numpy(self.layout.runs(role)).to(self.forward.device)
        return self.forward.logits(self.record.at(self.forward.last, runs, self.layout.answers.reads))

    def edit_rows(self, rows: Rows, part: slice, cells: Sequence[Cell]) -> Edit:
        """The edits of some patched rows, stacked."""
        base, source = (torch.from_numpy(x[part]).to(self.forward.device) for x in (rows.base, rows.source))
        cell, parts = rows.cell[part], []
        edges = [0, *(np.flatnonzero(np.diff(cell)) + 1).tolist(), len(cell)]
        for start, stop in pairwise(edges):
            which = cells[cell[start]]
            span = self.layout.spans[which.span]
            parts.append(self.editor.edit(which, span, base[start:stop], source[start:stop]).values)
        return Edit(rows.boundary, rows.positions, torch.cat(parts))

    def run_edit(
        self, edit: Edit, base: Int[Tensor, "row"], past: list[LayerCache] | None = None
    ) -> Float[Tensor, "row read d_vocab"]:
        """Logits at the read positions of runs `base` with an edit; `past` as in `Forward.resume`."""
        answers = self.layout.answers
        return self.forward.resume(
            self.record, answers.tree, base, edit.boundary, edit.positions, edit.values, answers.reads, past
        )

    def asked(
        self, conditions: Sequence[Condition]
    ) -> Iterator[tuple[int, Condition, Int[Tensor, "pair"], Int[Tensor, "pair"]]]:
        """Number, condition, base runs and source runs, of the conditions whose source the layout has."""
        for number, condition in enumerate(conditions):
            if condition.role in self.layout.roles:
                runs = (self.layout.runs(role) for role in (condition.base, condition.role))
                base, source = (torch.from_numpy(each).to(self.forward.device) for each in runs)
                yield number, condition, base, source


def prepare(forward: Forward, layout: Layout, bases: Bases | None = None) -> Batch:
    """Record a layout's runs."""
    record = forward.record(layout.tokens.to(forward.device), layout.answers.tree)
    return Batch(forward, layout, record, Editor(forward, record, layout.answers, bases))


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
        batch = prepare(forward, layout, bases)
        scorer = Scorer(batch, metrics)
        clean[:, layout.rows], corrupt[:, layout.rows] = scorer.base["clean"], scorer.base["corrupt"]
        for layer in sorted({cell.layer for cell in cells}):
            here = [c for c, cell in enumerate(cells) if cell.layer == layer]
            name = f"{number:04d}-layer{layer}"
            values = store.load(name) if store else None
            groups = rows_to_run(forward.cfg, layout, [cells[c] for c in here], conditions)
            if values is None:
                values = scorer.patched([cells[c] for c in here], conditions, groups, budget, advance)
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


class Scorer:
    """Scores of the patched rows of one batch."""

    def __init__(self, batch: Batch, metrics: Sequence[str]) -> None:
        self.batch, self.metrics = batch, tuple(metrics)
        self.answers = batch.layout.answers.to(batch.forward.device)
        logits = {role: batch.unpatched(role) for role in batch.layout.roles}
        self.reference = self.answers.at_first(logits["clean"])
        everyone = np.arange(len(batch.layout.rows))
        self.base = {role: self.score(each, everyone) for role, each in logits.items()}

    def score(
        self, logits: Float[Tensor, "row read d_vocab"], pair: np.ndarray
    ) -> Float64[np.ndarray, "metric row"]:
        """All metrics of rows that belong to these pairs."""
        of = torch.from_numpy(pair).to(logits.device)
        return self.answers.score(self.metrics, logits, of, self.reference).double().cpu().numpy()

    def patched(
        self,
        cells: Sequence[Cell],
        conditions: Sequence[Condition],
        groups: Sequence[Rows],
        budget: int,
        advance: Callable[[int], object] | None = None,
    ) -> Float64[np.ndarray, "condition cell metric pair"]:
        """Scores of every cell of every condition; rows that are not in `groups` have the unpatched run's."""
        layout = self.batch.layout
        values = np.full((len(conditions), len(cells), len(self.metrics), len(layout.rows)), np.nan)
        applies = [c for c, cell in enumerate(cells) if layout.spans.get(cell.span)]
        for a, condition in enumerate(conditions):
            if condition.role in layout.roles:
                values[a, applies] = np.where(layout.has[condition.role], self.base[condition.base], np.nan)
        for rows in groups:
            for part in tiles(self.batch.forward, layout, rows, budget):
                base = torch.from_numpy(rows.base[part]).to(self.batch.forward.device)
                out = self.batch.run_edit(self.batch.edit_rows(rows, part, cells), base)
                scores = self.score(out, rows.pair[part])
                values[rows.condition[part], rows.cell[part], :, rows.pair[part]] = scores.T
                if advance:
                    advance(len(rows.condition[part]))
        return values


def tiles(forward: Forward, layout: Layout, rows: Rows, budget: int) -> Iterator[slice]:
    """Parts of `rows` that fit into `budget` bytes."""
    size = max(1, budget // row_bytes(forward, layout.tokens.shape[1], min(rows.positions)))
    for start in range(0, len(rows), size):
        yield slice(start, min(start + size, len(rows)))


def row_bytes(forward: Forward, width: int, start: int) -> int:
    """Bytes that one patched row needs at most, edited from position `start` on."""
    cfg, open_ = forward.cfg, width - start
    keys = 4 * width * cfg.n_heads * cfg.d_head
    per_position = 8 * cfg.d_model + 4 * (cfg.d_mlp or 0) + 3 * cfg.n_heads * width
    return 4 * (keys + open_ * per_position + 2 * width * cfg.d_vocab)


def rows_computed(cfg: HookedConfig, pairs: Pairs, cells: Sequence[Cell], metrics: Sequence[str]) -> int:
    """How many patched rows a sweep of CONDITIONS will compute; it tells `advance` of as many."""
    found = layouts(pairs, metrics, roles=roles_of(CONDITIONS))
    return sum(len(rows) for layout in found for rows in rows_to_run(cfg, layout, cells, CONDITIONS))
