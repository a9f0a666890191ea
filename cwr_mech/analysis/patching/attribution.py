"""Attribution patching: the effect of every patch estimated from one gradient instead of one forward each.

effect(cell) ~ (new - old residual at the cell's boundary) . d score / d residual, at the unpatched run
(Nanda 2023; Syed et al., arXiv 2310.10348). Positive means the same as in exact patching: towards the
clean answer. Two modes for queries and keys, whose softmax saturates:
"linear"  delta q . d score / d q: plain attribution patching
"exact"   the changed pattern is recomputed and only what follows is linear: the fix of AtP* (Kramar et al.,
          arXiv 2403.00745). For all other components the two are the same.
`steps` > 1 integrates the gradient along a straight line of embeddings from base to source (Hanna et al.,
arXiv 2403.17806). Estimates are to be held against exact patching: `compare` says how well they agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from scipy import stats
from torch import Tensor

from cwr_mech.analysis.patching.batch import Batch
from cwr_mech.analysis.patching.cells import Cell
from cwr_mech.analysis.patching.forward import Forward
from cwr_mech.analysis.patching.layout import INTERCHANGE, Condition, layouts
from cwr_mech.analysis.patching.pairs import Pairs
from cwr_mech.analysis.patching.sweep import roles_of
from cwr_mech.model.qwen2 import HookedQwen2

Mode = Literal["linear", "exact"]


@dataclass(frozen=True)
class Gradients:
    """d score / d activation of one run a pair, averaged over the steps of the path."""

    resid: Float[Tensor, "boundary pair pos d_model"]
    q: Float[Tensor, "layer pair head pos d_head"]
    k: Float[Tensor, "layer pair kv_head pos d_head"]


def attribute(
    model: HookedQwen2,
    pairs: Pairs,
    cells: Sequence[Cell],
    *,
    metric: str = "logit_diff",
    conditions: Sequence[Condition] = INTERCHANGE,
    mode: Mode = "exact",
    steps: int = 1,
) -> Float64[np.ndarray, "condition cell pair"]:
    """Estimated score minus the unpatched run's, a condition, cell and pair; NaN where one does not apply.

    For a "noise" condition the estimate of the effect (clean - patched) is its negative.
    """
    forward = Forward(model)
    values = np.full((len(conditions), len(cells), len(pairs)), np.nan)
    for layout in layouts(pairs, (metric,), roles=roles_of(conditions)):
        batch = Batch(forward, layout, (metric,))
        for a, condition, base, source in batch.asked(conditions):
            gradients = path_gradients(batch, base, source, steps)
            for c, cell in enumerate(cells):
                if layout.spans.get(cell.span):
                    estimate = _estimate(batch, gradients, cell, base, source, mode).double().cpu().numpy()
                    values[a, c, layout.rows] = np.where(layout.has[condition.role], estimate, np.nan)
    return values


@torch.no_grad()
def _estimate(
    batch: Batch,
    gradients: Gradients,
    cell: Cell,
    base: Int[Tensor, "pair"],
    source: Int[Tensor, "pair"],
    mode: Mode,
) -> Float[Tensor, "pair"]:
    span, record = list(batch.layout.spans[cell.span]), batch.record
    if mode == "linear" and cell.component in ("q", "k"):
        if cell.component == "q":
            there, here = (record.heads_at("q", cell.layer, runs, span) for runs in (source, base))
            slope = gradients.q[cell.layer][:, :, span]
        else:
            there, here = (record.k[cell.layer, runs][:, :, span] for runs in (source, base))
            slope = gradients.k[cell.layer][:, :, span]
        heads = slice(None) if cell.head is None else slice(cell.head, cell.head + 1)
        return ((there - here) * slope)[:, heads].sum((1, 2, 3))
    edit = batch.edit(cell, base, source)
    if not edit.positions:
        return torch.zeros(len(base), device=base.device)
    change = edit.values - record.at(edit.boundary, base, edit.positions)
    return (change * gradients.resid[edit.boundary][:, list(edit.positions)]).sum((1, 2))


def path_gradients(
    batch: Batch, base: Int[Tensor, "pair"], source: Int[Tensor, "pair"], steps: int = 1
) -> Gradients:
    """Gradients of the score at runs `base`, or averaged over `steps` points on the way to runs `source`."""
    start, end = batch.record.resid[0][base], batch.record.resid[0][source]
    shares = [0.0] if steps == 1 else [(step + 0.5) / steps for step in range(steps)]
    total: list[Tensor] | None = None
    for share in shares:
        found = _gradients(batch, start + share * (end - start))
        total = found if total is None else [a + b for a, b in zip(total, found, strict=True)]
    assert total is not None  # there is at least one step
    layers = batch.forward.cfg.n_layers
    mean = [each / len(shares) for each in total]
    stacks = (mean[: 2 * layers + 1], mean[2 * layers + 1 : 3 * layers + 1], mean[3 * layers + 1 :])
    return Gradients(*(torch.stack(each) for each in stacks))


@torch.enable_grad()
def _gradients(batch: Batch, embedded: Float[Tensor, "pair pos d_model"]) -> list[Tensor]:
    """Gradients at all residual boundaries, then at the queries, then at the keys, of all layers."""
    forward, answers = batch.forward, batch.answers
    depth, visible = answers.tree.depth().to(forward.device), batch.visible.to(forward.device)
    resid = embedded.detach().requires_grad_()
    at, queries, keys = [resid], [], []
    for q, k, _, _, *both in forward.layers(resid, depth, visible):
        queries.append(q)
        keys.append(k)
        at += both
    logits = forward.logits(at[-1][:, list(answers.reads)])
    pair = torch.arange(len(embedded), device=forward.device)
    score = answers.score(batch.metrics, logits, pair, batch.reference).sum()
    return list(torch.autograd.grad(score, [*at, *queries, *keys], allow_unused=True, materialize_grads=True))


@dataclass(frozen=True)
class Agreement:
    """How estimated effects follow exact ones over cells. `rank` is Spearman's correlation of the mean
    effects, `misses` are false negatives and `false_alarms` their opposite (cell numbers)."""

    rank: float
    pearson: float
    misses: tuple[int, ...]
    false_alarms: tuple[int, ...]


LARGE = 0.1
"""Share of the gap between clean and corrupt from which an effect is one that an estimate must find."""


def compare(
    exact: Float64[np.ndarray, "cell"], estimate: Float64[np.ndarray, "cell"], gap: float
) -> Agreement:
    """Hold estimated mean effects against exact ones.

    A miss has an exact effect of at least LARGE of the gap between clean and corrupt, and an estimate of
    less than a quarter of that threshold; a false alarm the other way round.
    """
    use = np.isfinite(exact) & np.isfinite(estimate)
    threshold = LARGE * abs(gap)
    large, small = np.abs(exact) >= threshold, np.abs(exact) < threshold / 4
    seen, unseen = np.abs(estimate) >= threshold, np.abs(estimate) < threshold / 4
    enough = use.sum() > 2 and np.ptp(exact[use]) > 0 and np.ptp(estimate[use]) > 0
    return Agreement(
        rank=float(stats.spearmanr(exact[use], estimate[use]).statistic) if enough else float("nan"),
        pearson=float(stats.pearsonr(exact[use], estimate[use]).statistic) if enough else float("nan"),
        misses=tuple(np.flatnonzero(use & large & unseen).tolist()),
        false_alarms=tuple(np.flatnonzero(use & seen & small).tolist()),
    )


def saturated(
    cells: Sequence[Cell],
    linear: Float64[np.ndarray, "cell"],
    exact: Float64[np.ndarray, "cell"],
    threshold: float,
) -> tuple[int, ...]:
    """Cells whose attention is saturated: recomputing the softmax changes the estimate by more than the
    threshold and by more than half. There, plain attribution patching must not be believed."""
    change = np.abs(exact - linear)
    largest = np.maximum(np.abs(exact), np.abs(linear))
    flagged = (change >= threshold) & (change > 0.5 * largest)
    return tuple(c for c, cell in enumerate(cells) if flagged[c] and cell.component in ("q", "k"))
