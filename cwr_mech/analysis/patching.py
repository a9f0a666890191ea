"""Activation patching, exact and batched: replace a piece of one run by that of another, see the answer move.

A sweep scores every cell (component, layer, head, span) in both directions. "denoise" copies the clean run's
activation into the corrupt run and asks whether it is sufficient for the clean answer; "noise" copies the
corrupt run's into the clean run and asks whether it is necessary (Heimersheim & Nanda, arXiv 2404.15255).
The same cells are patched from control donors (see `pairs`). Every value equals that of one full forward a
cell, to rounding; see `patch_forward` for how most of that forward is avoided.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from cwr_mech.analysis.pairs import Pairs
from cwr_mech.analysis.patch_cells import Cell, Editor, span_positions
from cwr_mech.analysis.patch_forward import Forward, Record
from cwr_mech.analysis.patch_metrics import Answers
from cwr_mech.errors import AnalysisError
from cwr_mech.model import HookedQwen2
from cwr_mech.tasks import get_task
from cwr_mech.tokenizer import Tokenizer

ROLES = ("clean", "corrupt", "third", "equal", "order")
"""Questions of a pair, in the order in which their runs are recorded."""

BUDGET = 128 * 2**20
"""Default bound on the memory of one batch of patched rows, in bytes."""

PAIR_CHUNK = 64
"""Pairs recorded at once."""


@dataclass(frozen=True)
class Arm:
    """One way of patching: which question is run, and which one gives the activation."""

    direction: str
    donor: str
    base: str
    source: str


ARMS = (
    Arm("denoise", "swap", "corrupt", "clean"),
    Arm("noise", "swap", "clean", "corrupt"),
    Arm("denoise", "unrelated", "corrupt", "third"),
    Arm("noise", "unrelated", "clean", "third"),
    Arm("denoise", "self", "corrupt", "corrupt"),
    Arm("noise", "equal", "clean", "equal"),
    Arm("noise", "order", "clean", "order"),
)
"""The two directions, and the controls: an unrelated city, the run itself, a city with the same answer, the
same cities in another order."""

SWAP = ARMS[:2]


@dataclass(frozen=True)
class Sweep:
    """Scores of a sweep: of the unpatched runs, and of each patched one (NaN where a pair lacks the span or
    the donor)."""

    cells: tuple[Cell, ...]
    arms: tuple[Arm, ...]
    metrics: tuple[str, ...]
    clean: Float64[np.ndarray, "metric pair"]
    corrupt: Float64[np.ndarray, "metric pair"]
    patched: Float64[np.ndarray, "arm cell metric pair"]


@dataclass(frozen=True)
class Batch:
    """Some pairs of one layout, their runs recorded. Run number = role number * pairs + pair."""

    rows: Int64[np.ndarray, " pair"]
    roles: tuple[str, ...]
    answers: Answers
    record: Record
    editor: Editor
    spans: Mapping[str, tuple[int, ...]]
    has: Mapping[str, np.ndarray]
    first_difference: Int[np.ndarray, "run run"]

    def run(self, role: str, pair: int) -> int:
        """Number of a question's run in the record."""
        return self.roles.index(role) * len(self.rows) + pair


def batches_of(
    forward: Forward,
    pairs: Pairs,
    metrics: Sequence[str],
    *,
    roles: Sequence[str] = ROLES,
    bases: Mapping[str, Float[Tensor, "d_model rank"]] | None = None,
    chunk: int = PAIR_CHUNK,
) -> "list[Callable[[], Batch]]":
    """Recipes for the batches that cover all pairs, one layout (number of cities, swapped place) each.

    They are recipes, so that one batch is in memory at a time.
    """
    recipes: list[Callable[[], Batch]] = []
    for size, of_size in pairs.by_size():
        for slot in np.unique(pairs.slot[of_size]).tolist():
            rows = of_size[pairs.slot[of_size] == slot]
            for start in range(0, len(rows), chunk):
                part = rows[start : start + chunk]
                recipes.append(
                    lambda part=part, size=size, slot=slot: _batch(  # type: ignore[misc]
                        forward, pairs, part, size, slot, metrics, roles, bases
                    )
                )
    return recipes


def _batch(
    forward: Forward,
    pairs: Pairs,
    rows: Int64[np.ndarray, " pair"],
    size: int,
    slot: int,
    metrics: Sequence[str],
    roles: Sequence[str],
    bases: Mapping[str, Float[Tensor, "d_model rank"]] | None,
) -> Batch:
    some, task = pairs.take(rows), get_task(pairs.task)
    questions = {role: getattr(some, role) for role in roles}
    questions = {role: ids for role, ids in questions.items() if ids is not None}
    has = {role: ids[:, 0] >= 0 for role, ids in questions.items()}
    prompts = []
    for role, ids in questions.items():
        filled = np.where(has[role][:, None], ids, some.clean)[:, :size]
        prompts += [Tokenizer().encode_prompt(text) for text in task.prompt(filled, pairs.id_digits)]
    lengths = {len(prompt) for prompt in prompts}
    if len(lengths) > 1:
        raise AnalysisError(f"questions of one layout must have one length, got {sorted(lengths)} tokens")
    answers = Answers.build(
        lengths.pop(), some.clean_answer.tolist(), some.corrupt_answer.tolist(), metrics
    ).to(forward.device)
    forced = answers.forced.repeat(len(questions), 1)
    tokens = torch.cat([torch.tensor(prompts, device=forward.device), forced], 1)
    record = forward.record(tokens, answers.tree)
    return Batch(
        rows=rows,
        roles=tuple(questions),
        answers=answers,
        record=record,
        editor=Editor(forward, record, answers.tree, answers.reads, bases),
        spans=span_positions(pairs.task, size, slot, pairs.id_digits, answers.tree),
        has=has,
        first_difference=record.first_difference().cpu().numpy(),
    )


def sweep(
    model: HookedQwen2,
    pairs: Pairs,
    cells: Sequence[Cell],
    *,
    metrics: Sequence[str] = ("logit_diff",),
    arms: Sequence[Arm] = SWAP,
    bases: Mapping[str, Float[Tensor, "d_model rank"]] | None = None,
    budget: int = BUDGET,
    advance: Callable[[int], None] | None = None,
) -> Sweep:
    """Patch every cell of every arm in every pair. `advance` is told how many rows were finished.

    `budget` bounds the bytes of one batch of patched rows; the recorded runs of PAIR_CHUNK pairs come on top.
    """
    forward = Forward(model)
    roles = [
        r for r in ROLES if any(r in (arm.base, arm.source) for arm in arms) or r in ("clean", "corrupt")
    ]
    shape = (len(metrics), len(pairs))
    clean, corrupt = np.full(shape, np.nan), np.full(shape, np.nan)
    patched = np.full((len(arms), len(cells), *shape), np.nan)
    for recipe in batches_of(forward, pairs, metrics, roles=roles, bases=bases):
        batch = recipe()
        clean[:, batch.rows], corrupt[:, batch.rows] = base_scores(forward, batch, metrics)
        patched[:, :, :, batch.rows] = patch_batch(
            forward, batch, cells, arms, metrics, budget=budget, advance=advance
        )
    return Sweep(tuple(cells), tuple(arms), tuple(metrics), clean, corrupt, patched)


def base_scores(
    forward: Forward, batch: Batch, metrics: Sequence[str]
) -> tuple[Float64[np.ndarray, "metric pair"], Float64[np.ndarray, "metric pair"]]:
    """Scores of the unpatched clean and corrupt runs."""
    pair = torch.arange(len(batch.rows), device=forward.device)
    logits = {role: read_logits(forward, batch, role) for role in ("clean", "corrupt")}
    reference = batch.answers.at_first(logits["clean"])
    scores = [batch.answers.score(metrics, each, pair, reference) for each in logits.values()]
    return scores[0].double().cpu().numpy(), scores[1].double().cpu().numpy()


@torch.no_grad()
def read_logits(forward: Forward, batch: Batch, role: str) -> Float[Tensor, "pair read d_vocab"]:
    """Logits of the unpatched runs of one role at the read positions."""
    start = batch.run(role, 0)
    last = batch.record.resid[forward.last][start : start + len(batch.rows)]
    return forward.logits(last[:, list(batch.answers.reads)])


@dataclass(frozen=True)
class _Job:
    """One patched row: an arm and a cell, in one pair."""

    arm: int
    cell: int
    pair: int
    base: int
    donor: int


def patch_batch(
    forward: Forward,
    batch: Batch,
    cells: Sequence[Cell],
    arms: Sequence[Arm],
    metrics: Sequence[str],
    *,
    budget: int = BUDGET,
    advance: Callable[[int], None] | None = None,
) -> Float64[np.ndarray, "arm cell metric pair"]:
    """Scores of every cell of every arm in the pairs of one batch.

    Rows whose patch cannot change anything (the span ends before the two questions first differ, so that
    both runs agree there) get the unpatched run's score and are not run.
    """
    answers, n = batch.answers, len(batch.rows)
    values = np.full((len(arms), len(cells), len(metrics), n), np.nan)
    logits = {role: read_logits(forward, batch, role) for role in batch.roles}
    reference = answers.at_first(logits["clean"])
    everyone = torch.arange(n, device=forward.device)
    unpatched = {
        role: answers.score(metrics, logits[role], everyone, reference).double().cpu().numpy()
        for role in batch.roles
    }
    groups: dict[tuple[int, tuple[int, ...]], list[_Job]] = defaultdict(list)
    for c, cell in enumerate(cells):
        span = batch.spans.get(cell.span, ())
        if not span:
            continue
        where = batch.editor.edited(cell, span)
        for a, arm in enumerate(arms):
            if arm.source not in batch.roles:
                continue
            values[a, c] = np.where(batch.has[arm.source], unpatched[arm.base], np.nan)
            for pair in np.flatnonzero(batch.has[arm.source]).tolist():
                base, donor = batch.run(arm.base, pair), batch.run(arm.source, pair)
                changes = base == donor or max(span) >= batch.first_difference[base, donor]
                if changes and where[1]:
                    groups[where].append(_Job(a, c, pair, base, donor))
    for (boundary, positions), jobs in groups.items():
        size = max(1, budget // row_bytes(forward, answers.tree.width, min(positions)))
        for start in range(0, len(jobs), size):
            tile = jobs[start : start + size]
            edited = _edits(batch, cells, tile, forward)
            runs = torch.tensor([job.base for job in tile], device=forward.device)
            of = torch.tensor([job.pair for job in tile], device=forward.device)
            out = forward.resume(batch.record, answers.tree, runs, boundary, positions, edited, answers.reads)
            scores = answers.score(metrics, out, of, reference).double().cpu().numpy()
            for row, job in enumerate(tile):
                values[job.arm, job.cell, :, job.pair] = scores[:, row]
            if advance is not None:
                advance(len(tile))
    return values


@torch.no_grad()
def _edits(
    batch: Batch, cells: Sequence[Cell], tile: Sequence[_Job], forward: Forward
) -> Float[Tensor, "row changed d_model"]:
    """The new residual values of a tile's rows, cell by cell."""
    parts, start = [], 0
    while start < len(tile):
        cell = tile[start].cell
        stop = start
        while stop < len(tile) and tile[stop].cell == cell:
            stop += 1
        base = torch.tensor([job.base for job in tile[start:stop]], device=forward.device)
        donor = torch.tensor([job.donor for job in tile[start:stop]], device=forward.device)
        parts.append(batch.editor.edit(cells[cell], batch.spans[cells[cell].span], base, donor).values)
        start = stop
    return torch.cat(parts)


def row_bytes(forward: Forward, width: int, start: int) -> int:
    """Bytes that one patched row needs at most, edited from position `start` on."""
    cfg, open_ = forward.cfg, width - start
    keys = 4 * width * cfg.n_heads * cfg.d_head
    per_position = 8 * cfg.d_model + 4 * (cfg.d_mlp or 0) + 3 * cfg.n_heads * width
    return 4 * (keys + open_ * per_position + 2 * width * cfg.d_vocab)
