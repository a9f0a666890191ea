"""What can be patched: components, named places, and the new residual values that each patch amounts to.

A cell of a sweep names a component, a layer, a head where the component has heads, and a span. Whatever the
component, the patch is exact as an edit of the residual stream right after it: a head's output z enters
through W_O, a changed query, key, value or pattern first changes z.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from jaxtyping import Float
from torch import Tensor

from cwr_mech.analysis.patching.forward import Tree
from cwr_mech.analysis.patching.metrics import Answers
from cwr_mech.analysis.patching.pairs import READING
from cwr_mech.errors import UnknownName
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
    several random ones; component "neurons" is all of `mlp.hook_post`."""

    component: str
    layer: int
    head: int | None
    span: str
    subspace: str | None = None
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
