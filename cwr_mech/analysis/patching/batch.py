"""Recorded runs of one layout: what a patch changes in them, and how the changed runs are scored."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from cwr_mech.analysis.patching.cells import (
    COMPONENTS,
    RESIDUAL,
    BasisName,
    Cell,
    Edit,
    basis_name,
    edited_place,
)
from cwr_mech.analysis.patching.forward import Forward
from cwr_mech.analysis.patching.layout import Condition, Layout, Rows
from cwr_mech.errors import AnalysisError, UnknownName
from cwr_mech.model.layers import LayerCache

Bases = Mapping[BasisName, Float[Tensor, "*pair d_model rank"]]


class Batch:
    """A layout with its runs recorded by a model, scored by `metrics`.

    `bases` holds columns B by a subspace's name, or by (name, layer, span) where they differ: a patch adds
    B B^T (source - clean), at each position of the span, or once for all of them side by side where B has
    d_model rows for each. Orthonormal columns make that a projection. Two matrices (R, W) stand for
    W R^T, which sees the difference through R only and writes W: the part of a projection that readers see.
    """

    def __init__(
        self, forward: Forward, layout: Layout, metrics: Sequence[str] = (), bases: Bases | None = None
    ) -> None:
        self.forward, self.layout, self.metrics, self.bases = forward, layout, tuple(metrics), bases or {}
        self.answers = layout.answers.to(forward.device)
        self.visible = self.answers.tree.visible()
        self.record = forward.record(layout.tokens.to(forward.device), self.answers.tree)

    def runs(self, role: str) -> Int[Tensor, "pair"]:
        """Numbers of a role's runs."""
        return torch.from_numpy(self.layout.runs(role)).to(self.forward.device)

    def asked(
        self, conditions: Sequence[Condition]
    ) -> Iterator[tuple[int, Condition, Int[Tensor, "pair"], Int[Tensor, "pair"]]]:
        """Number, condition, base runs and source runs, of the conditions whose source the layout has."""
        for number, condition in enumerate(conditions):
            if condition.role in self.layout.roles:
                yield number, condition, self.runs(condition.base), self.runs(condition.role)

    def edit(self, cell: Cell, base: Int[Tensor, "row"], source: Int[Tensor, "row"]) -> Edit:
        """Replace the cell's activation in runs `base` by that of runs `source`."""
        span = self.layout.spans[cell.span]
        boundary, positions = edited_place(self.forward.cfg, cell, span, self.answers)
        at = self.record.at
        if cell.component in RESIDUAL and cell.subspace is None:
            return Edit(boundary, positions, at(boundary, source, positions))
        before = at(boundary, base, positions)
        if cell.component in RESIDUAL:
            seen, written = self.basis(cell)
            differ = at(boundary, source, positions) - before
            if seen.shape[0] == differ.shape[2]:
                change = differ @ seen @ written.T
            else:
                change = (differ.flatten(1) @ seen @ written.T).view_as(differ)
        elif cell.component in ("attn_out", "mlp_out"):
            theirs = at(boundary, source, positions) - at(boundary - 1, source, positions)
            change = theirs + at(boundary - 1, base, positions) - before
        elif cell.component == "neurons":
            mids = (self.record.at(2 * cell.layer + 1, runs, positions) for runs in (base, source))
            here, there = (self.forward.mlp_post(cell.layer, mid) for mid in mids)
            change = (there - here) @ self.forward.blocks[cell.layer].mlp.W_out
        else:
            z = self._z(cell, positions, base, source)
            change = self._heads(cell, z - self.record.heads_at("z", cell.layer, base, positions))
        return Edit(boundary, positions, before + change)

    def basis(self, cell: Cell) -> Float[Tensor, "2 d_states rank"]:
        """The matrices (R, W) of a cell's subspace. Raises UnknownName, or AnalysisError when R is not
        orthonormal.
        """
        name = basis_name(str(cell.subspace), cell.draw)
        for key in ((name, cell.layer, cell.span), name):
            if key in self.bases:
                basis = self.bases[key].to(self.forward.model.W_E)
                both = basis if basis.ndim == 3 else basis.expand(2, *basis.shape)
                unit = torch.eye(both.shape[2]).to(both)
                if not torch.allclose(both[0].T @ both[0], unit, rtol=0, atol=1e-4):
                    raise AnalysisError(f"the basis of subspace '{cell.subspace}' is not orthonormal")
                return both
        raise UnknownName("subspace", cell.subspace, self.bases)

    def _heads(
        self, cell: Cell, change: Float[Tensor, "row head changed d_head"]
    ) -> Float[Tensor, "row changed d_model"]:
        """What a change of the outputs z adds to the residual stream through the cell's heads."""
        if cell.head is None:
            return self.forward.write(cell.layer, change)
        cfg = self.forward.cfg
        group = 1 if COMPONENTS[cell.component] == "query" else cfg.n_heads // cfg.n_kv
        heads = range(cell.head * group, (cell.head + 1) * group)
        weight = self.forward.blocks[cell.layer].attn.W_O
        return torch.stack([change[:, head] @ weight[head] for head in heads]).sum(0)

    def _z(
        self, cell: Cell, positions: Sequence[int], base: Int[Tensor, "row"], source: Int[Tensor, "row"]
    ) -> Float[Tensor, "row head changed d_head"]:
        """All heads' outputs at `positions` when their q, k, v, pattern or z at the span are the source's."""
        layer, record, forward = cell.layer, self.record, self.forward
        span = list(self.layout.spans[cell.span])
        if cell.component == "z":
            return record.heads_at("z", layer, source, span)
        visible = self.visible[list(positions)].to(forward.device)
        k, v = record.k[layer, base], record.v[layer, base]
        if cell.component == "pattern":
            theirs = record.heads_at("q", layer, source, span)
            return forward.pattern(theirs, record.k[layer, source], visible) @ forward.spread(v)
        if cell.component == "q":
            return forward.attend(record.heads_at("q", layer, source, span), k, v, visible)
        edited, kept = (k, record.k) if cell.component == "k" else (v, record.v)
        edited[:, :, span] = kept[layer, source][:, :, span]
        return forward.attend(record.heads_at("q", layer, base, positions), k, v, visible)

    def edit_rows(self, rows: Rows, part: slice, cells: Sequence[Cell]) -> Edit:
        """The edits of some patched rows, stacked."""
        base, source = (torch.from_numpy(x[part]).to(self.forward.device) for x in (rows.base, rows.source))
        cell, parts = rows.cell[part], []
        edges = [0, *(np.flatnonzero(np.diff(cell)) + 1).tolist(), len(cell)]
        for start, stop in pairwise(edges):
            parts.append(self.edit(cells[cell[start]], base[start:stop], source[start:stop]).values)
        return Edit(rows.boundary, rows.positions, torch.cat(parts))

    def run_edit(
        self, edit: Edit, base: Int[Tensor, "row"], past: list[LayerCache] | None = None
    ) -> Float[Tensor, "row read d_vocab"]:
        """Logits at the read positions of runs `base` with an edit; `past` as in `Forward.resume`."""
        tree, reads = self.answers.tree, self.answers.reads
        return self.forward.resume(
            self.record, tree, base, edit.boundary, edit.positions, edit.values, reads, past
        )

    @torch.no_grad()
    def logits(self, role: str) -> Float[Tensor, "pair read d_vocab"]:
        """Logits of a role's unpatched runs at the read positions."""
        return self.forward.logits(self.record.at(self.forward.last, self.runs(role), self.answers.reads))

    @cached_property
    def reference(self) -> Float[Tensor, "pair d_vocab"]:
        """Logits of the clean runs at the first differing place."""
        return self.answers.at_first(self.logits("clean"))

    @cached_property
    def unpatched(self) -> dict[str, Float64[np.ndarray, "metric pair"]]:
        """Scores of every role's unpatched runs."""
        everyone = np.arange(len(self.layout.rows))
        return {role: self.score(self.logits(role), everyone) for role in self.layout.roles}

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
        layout = self.layout
        values = np.full((len(conditions), len(cells), len(self.metrics), len(layout.rows)), np.nan)
        applies = [c for c, cell in enumerate(cells) if layout.spans.get(cell.span)]
        for a, condition in enumerate(conditions):
            if condition.role in layout.roles:
                values[a, applies] = np.where(
                    layout.has[condition.role], self.unpatched[condition.base], np.nan
                )
        for rows in groups:
            for part in self.tiles(rows, budget):
                base = torch.from_numpy(rows.base[part]).to(self.forward.device)
                out = self.run_edit(self.edit_rows(rows, part, cells), base)
                scores = self.score(out, rows.pair[part])
                values[rows.condition[part], rows.cell[part], :, rows.pair[part]] = scores.T
                if advance:
                    advance(len(rows.condition[part]))
        return values

    def tiles(self, rows: Rows, budget: int) -> Iterator[slice]:
        """Parts of `rows` that fit into `budget` bytes."""
        cfg, width = self.forward.cfg, self.layout.tokens.shape[1]
        keys = 4 * width * cfg.n_heads * cfg.d_head
        per_position = 8 * cfg.d_model + 4 * (cfg.d_mlp or 0) + 3 * cfg.n_heads * width
        row = 4 * (keys + (width - min(rows.positions)) * per_position + 2 * width * cfg.d_vocab)
        size = max(1, budget // row)
        for start in range(0, len(rows), size):
            yield slice(start, min(start + size, len(rows)))
