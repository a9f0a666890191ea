"""What can be patched: components, named places, and the new residual values that each patch amounts to.

A cell of a sweep names a component, a layer, a head where the component has heads, and a span. Whatever the
component, the patch is exact as an edit of the residual stream right after it: a head's output z enters
through W_O, a changed query, key, value or pattern first changes z.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cwr_mech.analysis.patching.forward import Forward, Record, Tree
from cwr_mech.analysis.patching.metrics import Answers
from cwr_mech.analysis.patching.pairs import READING
from cwr_mech.errors import AnalysisError, UnknownName
from cwr_mech.model.layers import HookedConfig
from cwr_mech.tasks.grammar import spans
from cwr_mech.tasks.registry import get_task

COMPONENTS: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"), "")
    | {"z": "query", "q": "query", "k": "key", "v": "key", "pattern": "query", "neurons": ""}
)
"""Patchable components of `activations.site` -> which heads they have, "" for none. `pattern` replaces whole
rows: where the span's positions look. q and k are patched before the rotation, which is the same as after it
because source and base positions agree."""

RESIDUAL = {"resid_pre": 0, "resid_mid": 1, "resid_post": 2}
"""Components that are the residual stream -> boundary within the layer. Only these take a subspace."""

SPANS = (
    "swapped_digits", READING, "swapped_delimiter",
    "later_digits", "later_last", "later_delimiter", "equals",
)  # fmt: skip
"""Places relative to the swapped city, in the order of the text; the answer follows as answer1, ..."""


BasisName = str | tuple[str, int, str]


def basis_name(subspace: str, draw: int = 0) -> str:
    """Name of the `draw`-th of several random subspaces."""
    return f"{subspace} {draw}" if draw else subspace


@dataclass(frozen=True)
class Cell:
    """One patch. `subspace` names an orthonormal basis to which a residual patch is confined, `draw` which of
    several random ones; `neurons` are the columns of `mlp.hook_post` that component "neurons" replaces
    (all when None)."""

    component: str
    layer: int
    head: int | None
    span: str
    subspace: str | None = None
    neurons: tuple[int, ...] | None = None
    draw: int = 0

    @property
    def columns(self) -> dict[str, str | int | None]:
        """Which patch it is, as columns of a table."""
        return {name: getattr(self, name) for name in ("component", "layer", "head", "span", "subspace")}


def grid(cfg: HookedConfig, components: Collection[str], places: Collection[str]) -> list[Cell]:
    """All cells of these components at these spans, layer by layer. Raises UnknownName for a component."""
    for name in components:
        if name not in COMPONENTS:
            raise UnknownName("component", name, COMPONENTS)
    heads = {"": [None], "query": range(cfg.n_heads), "key": range(cfg.n_kv)}
    return [
        Cell(name, layer, head, place)
        for layer in range(cfg.n_layers)
        for name in components
        for head in heads[COMPONENTS[name]]
        for place in places
    ]


def swapped_span(position: str) -> str:
    """The span of a position of the swapped city, named as in `activations.site`: `last_digit`, `digit2`"""
    return {"last_digit": "swapped_last"}.get(position, f"swapped_{position}")


def span_positions(
    task: str, n_cities: int, slot: int, id_digits: int, tree: Tree, reading: str = "last_digit"
) -> dict[str, tuple[int, ...]]:
    """Span name -> positions in a run's tree, for questions whose city `slot` (from 0) is swapped.

    Absolute names are those of `prompts.spans` and `posN` for the single position N of the prompt; names
    that begin with `swapped` and `later` follow the swapped city and the cities after it, `swapped_digitN` is
    the N-th digit of the swapped city's id, `swapped_digitN+...+last_digit` that digit and all after it, and
    `swapped_reading` is the one of these that belongs to the position `reading`.
    `answerN` is the N-th answer token, in every branch that has one; `everywhere` is the whole run.
    """
    absolute = spans(task, n_cities, id_digits)
    found: dict[str, tuple[int, ...]] = {f"pos{p}": (p,) for p in range(tree.prompt)}
    found["everywhere"] = tuple(range(tree.width))
    for name, place in absolute.items():
        if name.startswith("answer"):
            depth = place.start - tree.prompt
            starts = [tree.branch_start(i) + depth for i, n in enumerate(tree.branches) if depth < n]
            found[name] = tuple(starts)
        else:
            found[name] = tuple(range(place.start, place.stop))
    parts = {"": "city{}", "_digits": "city{}_digits", "_last": "city{}_last", "_delimiter": "delimiter{}"}
    for end, template in parts.items():
        found[f"swapped{end}"] = found[template.format(slot + 1)]
        later = [found[template.format(city + 1)] for city in range(slot + 1, n_cities)]
        found[f"later{end}"] = tuple(p for place in later for p in place)
    digits = found["swapped_digits"]
    found |= {f"swapped_digit{n}": (p,) for n, p in enumerate(digits, start=1)}
    found |= {f"swapped_{name}": digits[n:] for n, name in enumerate(ends_of_id(id_digits))}
    return found | {READING: found[swapped_span(reading)]}


def ends_of_id(id_digits: int) -> list[str]:
    """Names of the ends of an id of several digits: all digits, all but the first, ..., the last two."""
    names = [*(f"digit{n}" for n in range(1, id_digits)), "last_digit"]
    return ["+".join(names[start:]) for start in range(id_digits - 1)]


def check_places(places: Iterable[str], task: str, id_digits: int) -> list[str]:
    """The spans asked for. "positions" stands for every position of the task's longest prompt, "default" for
    SPANS and the answer tokens. Raises UnknownName."""
    definition = get_task(task)
    answers = [f"answer{n}" for n in range(1, definition.max_answer_tokens)]
    length = spans(task, definition.n_max, id_digits)["equals"].stop
    tree = Tree(length, (definition.max_answer_tokens,))
    known = span_positions(task, definition.n_max, 0, id_digits, tree)
    chosen: list[str] = []
    for place in places:
        if place == "positions":
            chosen += [f"pos{p}" for p in range(length)]
        elif place == "default":
            chosen += [*SPANS, *answers]
        elif place in known:
            chosen.append(place)
        else:
            raise UnknownName("span", place, ["default", "positions", *known])
    return list(dict.fromkeys(chosen))


@dataclass(frozen=True)
class Edit:
    """New residual values at a boundary: `values[row, i]` at `positions[i]`."""

    boundary: int
    positions: tuple[int, ...]
    values: Float[Tensor, "row changed d_model"]


def edited_place(
    cfg: HookedConfig, cell: Cell, span: Sequence[int], answers: Answers
) -> tuple[int, tuple[int, ...]]:
    """The boundary and the positions whose residual changes when `cell` is patched at `span`."""
    if cell.component in RESIDUAL:
        return 2 * cell.layer + RESIDUAL[cell.component], tuple(span)
    if cell.component in ("mlp_out", "neurons"):
        return 2 * cell.layer + 2, tuple(span)
    if cell.component not in ("k", "v"):
        return 2 * cell.layer + 1, tuple(span)
    final = cell.layer == cfg.n_layers - 1
    sees = answers.tree.visible()[:, list(span)].any(1).tolist()
    wanted = answers.reads if final else range(answers.tree.width)
    return 2 * cell.layer + 1, tuple(p for p in wanted if sees[p])


class Editor:
    """Turns cells into edits for runs of one record.

    `bases` holds columns B by a subspace's name, or by (name, layer, span) where they differ: a patch adds
    B B^T (source - clean), at each position of the span, or once for all of them side by side where B has
    d_model rows for each. Orthonormal columns make that a projection. Two matrices (R, W) stand for
    W R^T, which sees the difference through R only and writes W: the part of a projection that readers see.
    """

    def __init__(
        self,
        forward: Forward,
        record: Record,
        answers: Answers,
        bases: Mapping[BasisName, Float[Tensor, "*pair d_model rank"]] | None = None,
    ) -> None:
        self.forward, self.record, self.answers = forward, record, answers
        self.visible = answers.tree.visible()
        self.bases = bases or {}

    def edit(
        self, cell: Cell, span: Sequence[int], base: Int[Tensor, "row"], source: Int[Tensor, "row"]
    ) -> Edit:
        """Replace the cell's activation in runs `base` by that of runs `source`."""
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
            which = slice(None) if cell.neurons is None else list(cell.neurons)
            change = (there - here)[..., which] @ self.forward.blocks[cell.layer].mlp.W_out[which]
        else:
            z = self._z(cell, list(span), positions, base, source)
            change = self._heads(cell, z - self.record.heads_at("z", cell.layer, base, positions))
        return Edit(boundary, positions, before + change)

    def basis(self, cell: Cell) -> Float[Tensor, "2 d_states rank"]:
        """The matrices (R, W) of a cell's subspace. Raises UnknownName, or AnalysisError when R is not
        orthonormal.
        """
        name = basis_name(str(cell.subspace), cell.draw)
        for key in ((name, cell.layer, cell.span), name):
            if key in self.bases:
                basis = self.bases[key].to(self.forward.device, torch.float32)
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
        group = (
            1 if COMPONENTS[cell.component] == "query" else self.forward.cfg.n_heads // self.forward.cfg.n_kv
        )
        heads = range(cell.head * group, (cell.head + 1) * group)
        weight = self.forward.blocks[cell.layer].attn.W_O
        return torch.stack([change[:, head] @ weight[head] for head in heads]).sum(0)

    def _z(
        self,
        cell: Cell,
        span: list[int],
        positions: Sequence[int],
        base: Int[Tensor, "row"],
        source: Int[Tensor, "row"],
    ) -> Float[Tensor, "row head changed d_head"]:
        """All heads' outputs at `positions` when their q, k, v, pattern or z at `span` are the source's."""
        layer, record, forward = cell.layer, self.record, self.forward
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
