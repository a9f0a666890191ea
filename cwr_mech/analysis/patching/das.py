"""A learned subspace as the upper bound of a linear interchange: distributed alignment search with controls.

TransformerLens' `fit_das` learns the subspace whose interchange makes the model give the source's answer
(Geiger et al., arXiv 2303.02536). It can find effects in untrained models and fit arbitrary labels (Arora et
al., arXiv 2402.12560), so each accuracy stands beside the same search on arbitrary targets, on an untrained
model of the same shape, and beside a random placebo that moves the activation equally far. Scored on
held-out pairs: the first digit (or letter) of the answer, over pairs whose answers differ there.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.tools.analysis.interchange import (
    NormMatchedPlacebo,
    SubspaceInterchange,
    arbitrary_targets,
    collect_activations,
    fit_das,
    intervened_logits,
    random_basis,
)

from cwr_mech.analysis.patching.layout import layouts
from cwr_mech.analysis.patching.pairs import NoPairs, Pairs
from cwr_mech.errors import AnalysisError
from cwr_mech.model.qwen2 import HookedQwen2

LEAST = 24
"""Fewest pairs to train on and to test on."""


def das(
    model: HookedQwen2,
    pairs: Pairs,
    layer: int,
    span: str,
    *,
    rank: int,
    others: Mapping[str, Float[Tensor, "d_model rank"]] | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Rows {subspace, layer, span, rank, n, accuracy}: learned, its controls, and `others` by name.

    The source is put into the clean run after `layer` at a one-token span. Swapped cities of the test pairs
    are not among those of the training pairs. Raises NoPairs for too few.
    """
    base, source, answer, place, rows = _inputs(pairs, span)
    train = _half(pairs.corrupt[np.arange(len(pairs)), pairs.slot][rows], seed)
    if min(train.sum(), (~train).sum()) < LEAST:
        raise NoPairs(f"{len(base)} pairs differ in the answer's first token; DAS needs {2 * LEAST}")
    mine, theirs = torch.from_numpy(train), torch.from_numpy(~train)
    untrained = HookedQwen2(model.config, seed=seed + 1).eval()
    keys = [tuple(row) for row in source.tolist()]
    chosen = torch.unique(answer)
    arbitrary = chosen[arbitrary_targets(keys, len(chosen), seed)]
    found = []
    sizes = {"whole state": model.cfg.d_model} | {k: b.shape[1] for k, b in (others or {}).items()}
    hook = f"blocks.{layer}.hook_resid_post"
    for name, which, targets in (
        ("learned", model, answer),
        ("arbitrary targets", model, arbitrary),
        ("untrained model", untrained, answer),
    ):
        logits = _task_logits(which)
        fitted = fit_das(
            which, hook, base[mine], source[mine], targets[mine], logits,
            rank=rank, base_positions=place[mine], source_positions=place[mine],
            epochs=40, batch_size=32, seed=seed,
        )  # fmt: skip
        states = collect_activations(which, hook, source[theirs], logits, positions=place[theirs])
        move = SubspaceInterchange(fitted.basis)
        trials = [(name, move)]
        if name == "learned":
            d_model = model.cfg.d_model
            trials += [
                ("random of equal rank", SubspaceInterchange(random_basis(d_model, rank, seed))),
                ("placebo of equal length", NormMatchedPlacebo(move, random_basis(d_model, rank, seed))),
                ("whole state", SubspaceInterchange(torch.eye(d_model))),
                *((other, SubspaceInterchange(basis)) for other, basis in (others or {}).items()),
            ]
        for label, intervention in trials:
            out = intervened_logits(
                which, hook, intervention, base[theirs], states, logits, positions=place[theirs]
            )
            hits = (out.argmax(-1) == targets[theirs].cpu()).double()
            found.append(
                {"subspace": label, "layer": layer, "span": span, "rank": sizes.get(label, rank)}
                | {"n": len(hits), "accuracy": float(hits.mean())}
            )
    return found


def _task_logits(model: HookedQwen2) -> Any:
    """Logits of the next token after a whole prompt."""

    def logits(tokens: Int[Tensor, "pair pos"]) -> Float[Tensor, "pair d_vocab"]:
        last = torch.full((len(tokens), 1), tokens.shape[1] - 1, device=tokens.device)
        return model(tokens, positions=last)[:, 0]

    return logits


def _inputs(pairs: Pairs, span: str) -> tuple[Tensor, Tensor, Tensor, Tensor, np.ndarray]:
    """Clean and corrupt prompts, the corrupt answer's first token, the span's position, the pairs."""
    parts = []
    for layout in layouts(pairs, (), roles=("clean", "corrupt")):
        use = (layout.answers.first == 0).numpy()
        clean, corrupt = (
            layout.tokens[torch.from_numpy(layout.runs(role)[use])] for role in ("clean", "corrupt")
        )
        places = layout.spans[span]
        if len(places) != 1:
            raise AnalysisError(f"DAS needs a span of one token, '{span}' has {len(places)}")
        answer = layout.answers.tokens[1][torch.from_numpy(use), 0]
        parts.append((clean, corrupt, answer, torch.full((len(clean),), places[0]), layout.rows[use]))
    if len({part[0].shape[1] for part in parts}) != 1:
        raise AnalysisError("DAS needs questions of one length: choose a task with one number of cities")
    clean, corrupt, answer, place = (torch.cat([part[i] for part in parts]) for i in range(4))
    return clean, corrupt, answer, place, np.concatenate([part[4] for part in parts])


def _half(cities: np.ndarray, seed: int) -> np.ndarray:
    """True for the pairs of one half of the source cities."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, 8)))
    labels = rng.permutation(np.unique(cities))
    return np.isin(cities, labels[: len(labels) // 2])
