"""Interchange accuracy: does the patched model give the answer that geometry demands for the swapped city?

The truth is known: if what the model holds about city B is replaced by what it holds about B', the answer to
a question about (A, B) must become that about (A, B'). The patched model is decoded, not only scored (Geiger
et al., arXiv 2106.02997). `follow` counts answers right for the donor's question, `stay` those right for the
question that was asked. The slope of the answer's change against the true change is 1 when the answer goes
all the way with the donor and 0 when it does not move.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int, Int64, Shaped
from torch import Tensor

from cwr_mech.analysis.patching.cells import Cell, Edit
from cwr_mech.analysis.patching.forward import Forward
from cwr_mech.analysis.patching.layout import (
    SWAP,
    Arm,
    layouts,
    rows_to_run,
)
from cwr_mech.analysis.patching.pairs import Pairs, correct
from cwr_mech.analysis.patching.sweep import (
    BUDGET,
    Bases,
    Batch,
    prepare,
    roles_of,
    tiles,
)
from cwr_mech.analysis.patching.table import resample
from cwr_mech.model.layers import LayerCache
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.registry import Task, get_task
from cwr_mech.tasks.tokenizer import CHAR_ID, EOS, Tokenizer

DIGITS = [CHAR_ID[digit] for digit in "0123456789"]


@dataclass(frozen=True)
class Interchange:
    """Decoded answers of the patched runs, where a cell `applies` to a pair.

    `expected` is the number that the digits' distributions give on average along the decoded answer; NaN
    for labels and unreadable answers.
    """

    cells: tuple[Cell, ...]
    arms: tuple[Arm, ...]
    applies: Bool[np.ndarray, "arm cell pair"]
    answer: Shaped[np.ndarray, "arm cell pair"]
    expected: Float64[np.ndarray, "arm cell pair"]


def interchange(
    model: HookedQwen2,
    pairs: Pairs,
    cells: Sequence[Cell],
    *,
    arms: Sequence[Arm] = SWAP,
    bases: Bases | None = None,
    budget: int = BUDGET,
    advance: Callable[[int], None] | None = None,
) -> Interchange:
    """Decode every cell of every arm in every pair. Cells at answer tokens never apply: there are none."""
    forward, task = Forward(model), get_task(pairs.task)
    shape = (len(arms), len(cells), len(pairs))
    applies, answer = np.zeros(shape, dtype=bool), np.full(shape, "", dtype="<U16")
    expected = np.full(shape, np.nan)
    for layout in layouts(pairs, (), roles=roles_of(arms)):
        batch = prepare(forward, layout, bases)
        for a, arm in enumerate(arms):
            if arm.source not in layout.roles:
                continue
            base = torch.from_numpy(layout.runs(arm.base)).to(forward.device)
            at = layout.answers.reads
            whole = Edit(forward.last, at, batch.record.at(forward.last, base, at))
            words, means = decode(batch, whole, base, task)
            for c, cell in enumerate(cells):
                if layout.spans.get(cell.span):
                    applies[a, c, layout.rows] = layout.has[arm.source]
                    answer[a, c, layout.rows], expected[a, c, layout.rows] = words, means
        for rows in rows_to_run(forward.cfg, layout, cells, arms):
            for part in tiles(forward, layout, rows, budget // 4):
                base = torch.from_numpy(rows.base[part]).to(forward.device)
                words, means = decode(batch, batch.edit_rows(rows, part, cells), base, task)
                spot = rows.arm[part], rows.cell[part], layout.rows[rows.pair[part]]
                answer[spot], expected[spot] = words, means
                if advance:
                    advance(len(words))
    return Interchange(tuple(cells), tuple(arms), applies, answer, expected)


@torch.no_grad()
def decode(
    batch: Batch, edit: Edit, base: Int[Tensor, "row"], task: Task
) -> tuple[Shaped[np.ndarray, " row"], Float64[np.ndarray, " row"]]:
    """Greedy answers of edited runs, and the mean number of their digits' distributions (NaN for labels).

    The mean takes the decoded number of digits and, at each, the distribution over digits given the decoded
    ones before it.
    """
    model = batch.forward.model
    past = [LayerCache() for _ in range(model.cfg.n_layers)]
    logits = batch.run_edit(edit, base, past)[:, -1]
    tokens, means = [], []
    done = torch.zeros(len(base), dtype=torch.bool, device=base.device)
    while True:
        best = logits.argmax(-1).masked_fill(done, EOS)
        digit = logits[:, DIGITS].softmax(-1) @ torch.arange(10.0, device=base.device)
        tokens.append(best)
        means.append(digit)
        done = done | (best == EOS)
        if bool(done.all()) or len(tokens) == task.max_answer_tokens:
            break
        logits = model(best[:, None], past=past)[:, -1]
    ids = torch.stack(tokens, 1).cpu().numpy()
    words = np.array(Tokenizer().decode_rows(ids), dtype="<U16")
    if task.labels:
        return words, np.full(len(words), np.nan)
    length = (np.cumsum(ids == EOS, 1) == 0).sum(1)
    places = length[:, None] - 1 - np.arange(ids.shape[1])
    value = np.where(
        places >= 0, torch.stack(means, 1).double().cpu().numpy() * 10.0 ** np.maximum(places, 0), 0
    )
    readable = np.array([task.parse(str(word)) is not None for word in words])
    return words, np.where(readable, value.sum(1), np.nan)


def interchange_rows(
    found: Interchange, pairs: Pairs, rng: np.random.Generator, *, level: float = 0.95
) -> list[dict[str, Any]]:
    """One row an arm and cell: follow, stay, neither, errors, slope, each from the pairs where it applies.

    Intervals of `follow` resample swapped cities. Errors are in the task's unit, over readable answers;
    `expected_to_donor` is that of the digits' expected value. The slope is through the origin, over pairs,
    for tasks whose answer is a number.
    """
    task = get_task(pairs.task)
    boot = resample(pairs.cluster, rng).boot
    rows = []
    for a, arm in enumerate(found.arms):
        base_truth = pairs.clean_truth if arm.base == "clean" else pairs.corrupt_truth
        base_answer = pairs.clean_answer if arm.base == "clean" else pairs.corrupt_answer
        donor_truth = {"clean": pairs.clean_truth, "corrupt": pairs.corrupt_truth}.get(arm.source, base_truth)
        before = answer_values(task, base_answer)
        for c, cell in enumerate(found.cells):
            words, has = found.answer[a, c], found.applies[a, c]
            after = answer_values(task, words)
            follow = correct(task, words, donor_truth, pairs.tolerance) & has
            stay = correct(task, words, base_truth, pairs.tolerance) & has
            use = has & np.isfinite(after) & np.isfinite(before)
            draws = (boot @ follow) / np.maximum(boot @ has, 1)
            low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
            true, moved = (donor_truth - base_truth)[use], (after - before)[use]
            errors = {"error_to_donor": after - donor_truth, "error_to_base": after - base_truth}
            errors["expected_to_donor"] = found.expected[a, c] - donor_truth
            if task.labels:  # the index of a label is no amount
                errors = {name: np.full(len(pairs), np.nan) for name in errors}
            steps = bool(use.any()) and not task.labels and bool((true**2).sum())
            rows.append(
                {
                    "direction": arm.direction,
                    "donor": arm.donor,
                    "component": cell.component,
                    "layer": cell.layer,
                    "head": cell.head,
                    "span": cell.span,
                    "subspace": cell.subspace,
                    "n": int(has.sum()),
                    "follow": _share(follow, has),
                    "lo": float(low) if has.any() else float("nan"),
                    "hi": float(high) if has.any() else float("nan"),
                    "stay": _share(stay, has),
                    "neither": _share(has & ~follow & ~stay, has),
                    **{name: _mean(np.abs(values)[use]) for name, values in errors.items()},
                    "slope": float((true * moved).sum() / (true**2).sum()) if steps else float("nan"),
                }
            )
    return rows


def answer_values(task: Task, words: Shaped[np.ndarray, " pair"]) -> Float64[np.ndarray, " pair"]:
    """Answers as numbers, labels as their index; NaN for what cannot be read."""
    values = [task.parse(str(word)) for word in words]
    return np.array([np.nan if value is None else float(value) for value in values])


def _share(hits: np.ndarray, has: np.ndarray) -> float:
    return float(hits[has].mean()) if has.any() else float("nan")


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def swapped_answers(
    found: Interchange, pairs: Pairs, cell: int, arm: int = 1
) -> dict[str, Float64[np.ndarray, " pair"] | Int64[np.ndarray, " pair"]]:
    """Per pair, for one cell: the answer given, the true one for the donor, and the true one for the base."""
    clean_first = found.arms[arm].base == "clean"
    base, donor = (
        (pairs.clean_truth, pairs.corrupt_truth) if clean_first else (pairs.corrupt_truth, pairs.clean_truth)
    )
    return {
        "given": answer_values(get_task(pairs.task), found.answer[arm, cell]),
        "donor": donor,
        "base": base,
    }
