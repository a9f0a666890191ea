"""Interchange interventions: does the patched model give the answer that the source question has?

If what the model holds about city B is replaced by what it holds about B', the answer to a question about
(A, B) must become that about (A, B'). The patched model is decoded, not only scored (Geiger et al. 2021,
arXiv 2106.02997). Interchange intervention accuracy (IIA) counts answers that become the model's own answer
to the source question, so that a model's error is not taken for a failure of the intervention.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int, Shaped
from torch import Tensor

from cwr_mech.analysis.patching.batch import Bases, Batch
from cwr_mech.analysis.patching.cells import Cell, Edit
from cwr_mech.analysis.patching.forward import Forward
from cwr_mech.analysis.patching.layout import INTERCHANGE, Condition, layouts, rows_to_run
from cwr_mech.analysis.patching.pairs import Pairs
from cwr_mech.analysis.patching.sweep import BUDGET, roles_of
from cwr_mech.analysis.patching.table import ENDS, mean_of, resample
from cwr_mech.model.layers import LayerCache
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.registry import Task, get_task
from cwr_mech.tasks.tokenizer import CHAR_ID, EOS, Tokenizer

DIGITS = [CHAR_ID[digit] for digit in "0123456789"]

NEAR = 0.05
"""Default tolerance of an interchange, as a share of the constant-prediction baseline's mean error: small
against the spread of the cities, wide enough for the last digit of an answer."""


@dataclass(frozen=True)
class Interchange:
    """Decoded answers of the patched runs, where a cell `applies` to a pair.

    `expected` is the number that the digits' distributions give on average along the decoded answer; NaN
    for labels and unreadable answers.
    """

    cells: tuple[Cell, ...]
    conditions: tuple[Condition, ...]
    applies: Bool[np.ndarray, "condition cell pair"]
    answer: Shaped[np.ndarray, "condition cell pair"]
    expected: Float64[np.ndarray, "condition cell pair"]


def interchange(
    model: HookedQwen2,
    pairs: Pairs,
    cells: Sequence[Cell],
    *,
    conditions: Sequence[Condition] = INTERCHANGE,
    bases: Bases | None = None,
) -> Interchange:
    """Decode every cell of every condition in every pair. Cells at answer tokens never apply."""
    forward, task = Forward(model), get_task(pairs.task)
    shape = (len(conditions), len(cells), len(pairs))
    applies, answer = np.zeros(shape, dtype=bool), np.full(shape, "", dtype="<U16")
    expected = np.full(shape, np.nan)
    for layout in layouts(pairs, (), roles=roles_of(conditions)):
        batch = Batch(forward, layout, bases=bases)
        for a, condition, base, _ in batch.asked(conditions):
            at = layout.answers.reads
            whole = Edit(forward.last, at, batch.record.at(forward.last, base, at))
            words, means = decode(batch, whole, base, task)
            for c, cell in enumerate(cells):
                if layout.spans.get(cell.span):
                    applies[a, c, layout.rows] = layout.has[condition.role]
                    answer[a, c, layout.rows], expected[a, c, layout.rows] = words, means
        for rows in rows_to_run(forward.cfg, layout, cells, conditions):
            for part in batch.tiles(rows, BUDGET // 4):
                base = torch.from_numpy(rows.base[part]).to(forward.device)
                words, means = decode(batch, batch.edit_rows(rows, part, cells), base, task)
                spot = rows.condition[part], rows.cell[part], layout.rows[rows.pair[part]]
                answer[spot], expected[spot] = words, means
    return Interchange(tuple(cells), tuple(conditions), applies, answer, expected)


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
    digits = torch.stack(means, 1).double().cpu().numpy()
    value = np.where(places >= 0, digits * 10.0 ** np.maximum(places, 0), 0)
    readable = np.array([task.parse(str(word)) is not None for word in words])
    return words, np.where(readable, value.sum(1), np.nan)


def interchange_rows(
    found: Interchange, pairs: Pairs, rng: np.random.Generator, *, near: float = NEAR
) -> list[dict[str, Any]]:
    """One row a condition and cell, over the pairs to which it applies; the draws of a random subspace are
    one row, the mean over its `draws`.

    iia        share of answers that `moved` to the model's own answer to the source question, `near` it in
               shares of the constant-prediction baseline's error; bootstrap interval over swapped cities
    truth      share of answers right for the source question, within the tolerance that chose the pairs
    unchanged  share of answers right for the question that was asked, by the same tolerance; neither: neither
    error_to_source, error_to_base, expected_to_source
               mean errors against the two truths, in the task's unit, over readable answers; the last is that
               of the digits' expected value
    slope      sum(dt da) / sum(dt^2) of the change da of the answer and dt of the truth; slope_lo, slope_hi
    """
    task, boot = get_task(pairs.task), resample(pairs.cluster, rng).boot
    answers = {
        "clean": (pairs.clean_truth, answer_values(task, pairs.clean_answer)),
        "corrupt": (pairs.corrupt_truth, answer_values(task, pairs.corrupt_answer)),
    }
    groups: dict[Cell, list[int]] = {}
    for c, cell in enumerate(found.cells):
        groups.setdefault(replace(cell, draw=0), []).append(c)
    rows = []
    for a, condition in enumerate(found.conditions):
        base, source = answers[condition.base], answers.get(condition.role, answers[condition.base])
        for cell, draws in groups.items():
            has = found.applies[a, draws[0]]
            after = np.stack([answer_values(task, found.answer[a, c]) for c in draws])
            tolerance = 0.0 if task.labels else pairs.tolerance
            with np.errstate(invalid="ignore"):
                right = (np.abs(after - source[0]) <= tolerance) & has
                stay = (np.abs(after - base[0]) <= tolerance) & has
            hit = (moved(after, source[1], base[1], near * pairs.constant_error) & has).mean(0)
            low, high = np.quantile((boot @ hit) / np.maximum(boot @ has, 1), ENDS).tolist()
            use = has & np.isfinite(after) & np.isfinite(base[1])
            errors = {
                "error_to_source": after - source[0],
                "error_to_base": after - base[0],
                "expected_to_source": found.expected[a, draws] - source[0],
            }
            if task.labels:  # the index of a label is no amount
                errors = {name: np.full_like(after, np.nan) for name in errors}
            true = (source[0] - base[0]).astype(np.float64)
            slopes = (float("nan"),) * 3
            if not task.labels:
                slopes = through_origin(true, np.where(use, after - base[1], np.nan), boot)
            rows.append(
                {
                    "direction": condition.direction,
                    "source": condition.source,
                    **cell.columns,
                    "draws": len(draws),
                    "n": int(has.sum()),
                    "iia": mean_of(hit[has]),
                    "lo": low if has.any() else float("nan"),
                    "hi": high if has.any() else float("nan"),
                    "truth": mean_of(right[:, has]),
                    "unchanged": mean_of(stay[:, has]),
                    "neither": mean_of((~right & ~stay)[:, has]),
                    **{name: mean_of(np.abs(values)[use]) for name, values in errors.items()},
                    **dict(zip(("slope", "slope_lo", "slope_hi"), slopes, strict=True)),
                }
            )
    return rows


def moved(
    given: Float64[np.ndarray, "*draw pair"],
    source: Float64[np.ndarray, " pair"],
    clean: Float64[np.ndarray, " pair"],
    near: float,
) -> Bool[np.ndarray, "*draw pair"]:
    """Whether each answer became the source's: within `near` of it, and nearer to it than to the clean one.

    An answer that cannot be read (NaN) has not.
    """
    with np.errstate(invalid="ignore"):
        return (np.abs(given - source) <= near) & (np.abs(given - source) < np.abs(given - clean))


def through_origin(
    true: Float64[np.ndarray, " pair"],
    change: Float64[np.ndarray, "*draw pair"],
    boot: Float64[np.ndarray, "resample pair"],
) -> tuple[float, float, float]:
    """sum(true * change) / sum(true ** 2) over readable answers, and its bootstrap interval.

    `boot` holds counts of the pairs, a row a resample. NaN when no answer can be read (all changes are NaN).
    """
    use = np.isfinite(change)
    product = np.where(use, true * np.nan_to_num(change), 0.0).reshape(-1, len(true)).sum(0)
    square = np.where(use, true**2, 0.0).reshape(-1, len(true)).sum(0)
    if not square.sum() > 0:
        return (float("nan"),) * 3
    low, high = np.quantile((boot @ product) / np.maximum(boot @ square, 1e-9), ENDS)
    return float(product.sum() / square.sum()), float(low), float(high)


def answer_values(task: Task, words: Shaped[np.ndarray, " pair"]) -> Float64[np.ndarray, " pair"]:
    """Answers as numbers, labels as their index; NaN for what cannot be read."""
    values = [task.parse(str(word)) for word in words]
    return np.array([np.nan if value is None else float(value) for value in values])


def swapped_answers(found: Interchange, pairs: Pairs, cell: int) -> dict[str, Float64[np.ndarray, " pair"]]:
    """Per pair, for one cell of the last condition of INTERCHANGE, corrupt into clean: the answer `given`,
    and the true ones of the `source` and of the `base`."""
    given = answer_values(get_task(pairs.task), found.answer[-1, cell])
    base, source = (truth.astype(np.float64) for truth in (pairs.clean_truth, pairs.corrupt_truth))
    return {"given": given, "source": source, "base": base}
