"""Pairs laid out for a sweep: questions stacked by shape, their runs, and the rows that must be computed."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from cwr_mech.analysis.patching.cells import Cell, edited_place, span_positions
from cwr_mech.analysis.patching.metrics import Answers
from cwr_mech.analysis.patching.pairs import Pairs
from cwr_mech.data.entries import Entries
from cwr_mech.errors import AnalysisError
from cwr_mech.model.layers import HookedConfig
from cwr_mech.tasks.registry import get_task
from cwr_mech.tasks.tokenizer import Tokenizer

ROLES = ("clean", "corrupt", "third", "equal", "order")
"""Questions of a pair, in the order in which their runs are recorded."""

PAIR_CHUNK = 64
"""Pairs recorded at once."""


@dataclass(frozen=True)
class Condition:
    """One way of patching: which question is run, and which one gives the activation."""

    direction: str
    source: str
    base: str
    role: str


CONDITIONS = (
    Condition("denoise", "counterfactual", "corrupt", "clean"),
    Condition("noise", "counterfactual", "clean", "corrupt"),
    Condition("denoise", "unrelated", "corrupt", "third"),
    Condition("noise", "unrelated", "clean", "third"),
    Condition("denoise", "self", "corrupt", "corrupt"),
    Condition("noise", "equal", "clean", "equal"),
    Condition("noise", "order", "clean", "order"),
)
"""The two directions, and the controls: an unrelated city, the run itself, a city with the same answer, the
same cities in another order."""

INTERCHANGE = CONDITIONS[:2]


@dataclass(frozen=True)
class Layout:
    """Some pairs whose questions have one shape. Run number = number of the role * pairs + pair.

    `rows` are the pairs' numbers; `has[role]` says which pairs have that question; `first_difference` is the
    first position at which the tokens of two runs differ.
    """

    rows: Int64[np.ndarray, " pair"]
    roles: tuple[str, ...]
    answers: Answers
    tokens: Int[Tensor, "run pos"]
    spans: Mapping[str, tuple[int, ...]]
    has: Mapping[str, Bool[np.ndarray, " pair"]]
    first_difference: Int64[np.ndarray, "run run"]

    def runs(self, role: str) -> Int64[np.ndarray, " pair"]:
        """Numbers of a role's runs."""
        return self.roles.index(role) * len(self.rows) + np.arange(len(self.rows))


def layouts(pairs: Pairs, metrics: Sequence[str], *, roles: Sequence[str] = ROLES) -> Iterator[Layout]:
    """Layouts that cover all pairs: one number of cities, one swapped place, up to PAIR_CHUNK pairs."""
    for size, of_size in pairs.by_size():
        for slot in np.unique(pairs.slot[of_size]).tolist():
            rows = of_size[pairs.slot[of_size] == slot]
            for start in range(0, len(rows), PAIR_CHUNK):
                part = rows[start : start + PAIR_CHUNK]
                yield _layout(pairs.take(part), part, size, slot, metrics, roles)


def _layout(
    some: Pairs, rows: np.ndarray, size: int, slot: int, metrics: Sequence[str], roles: Sequence[str]
) -> Layout:
    task = get_task(some.task)
    questions = {role: ids for role in roles if (ids := getattr(some, role)) is not None}
    has = {role: ids[:, 0] >= 0 for role, ids in questions.items()}
    prompts = []
    for role, ids in questions.items():
        filled = np.where(has[role][:, None], ids, some.clean)[:, :size]
        prompts += [Tokenizer().encode_prompt(text) for text in task.prompt(filled, some.id_digits)]
    lengths = {len(prompt) for prompt in prompts}
    if len(lengths) > 1:
        raise AnalysisError(f"questions of one layout must have one length, got {sorted(lengths)} tokens")
    answers = Answers.build(lengths.pop(), some.clean_answer.tolist(), some.corrupt_answer.tolist(), metrics)
    tokens = torch.cat([torch.tensor(prompts), answers.forced.repeat(len(questions), 1)], 1)
    differ = (tokens[:, None] != tokens[None]).numpy()
    first = np.where(differ.any(-1), differ.argmax(-1), tokens.shape[1]).astype(np.int64)
    spans = span_positions(some.task, size, slot, some.id_digits, answers.tree, some.reading)
    return Layout(rows, tuple(questions), answers, tokens, spans, has, first)


@dataclass(frozen=True)
class Rows(Entries):
    """Patched rows edited at one boundary and the same positions: condition, cell, pair, base, source run."""

    boundary: int
    positions: tuple[int, ...]
    condition: Int64[np.ndarray, " row"]
    cell: Int64[np.ndarray, " row"]
    pair: Int64[np.ndarray, " row"]
    base: Int64[np.ndarray, " row"]
    source: Int64[np.ndarray, " row"]


def rows_to_run(
    cfg: HookedConfig, layout: Layout, cells: Sequence[Cell], conditions: Sequence[Condition]
) -> list[Rows]:
    """The rows of a sweep that can differ from the unpatched run, grouped so that they can share a batch.

    A row is left out when its span ends before the two questions first differ: up to there both runs hold
    the same activations. Self-patches are never left out: they are the check that nothing changes.
    """
    groups: dict[tuple[int, tuple[int, ...]], list[tuple[np.ndarray, ...]]] = defaultdict(list)
    for c, cell in enumerate(cells):
        span = layout.spans.get(cell.span, ())
        if not span:
            continue
        place = edited_place(cfg, cell, span, layout.answers)
        for a, condition in enumerate(conditions):
            if condition.role not in layout.roles or not place[1]:
                continue
            base, source = layout.runs(condition.base), layout.runs(condition.role)
            changes = (base == source) | (layout.first_difference[base, source] <= max(span))
            pair = np.flatnonzero(changes & layout.has[condition.role])
            if pair.size:
                numbers = np.full_like(pair, a), np.full_like(pair, c)
                groups[place].append((*numbers, pair, base[pair], source[pair]))
    return [Rows(*place, *map(np.concatenate, zip(*parts, strict=True))) for place, parts in groups.items()]
