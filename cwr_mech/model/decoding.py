"""Greedy decoding in batches, with a key/value cache."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from cwr_mech.model.folded import Folded, Reading, folded, sections
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.model.threads import few_threads
from cwr_mech.tasks.tokenizer import EOS, Tokenizer

CHUNK = 128
"""Rows that are decoded together: their activations stay in the cache of a core (measured)."""
FEW = 0.7
"""Below this share of rows that have not ended the others are dropped, which copies the cache."""


@torch.no_grad()
def greedy_decode(
    model: HookedQwen2,
    prompts: Int[Tensor, "n pos"],
    max_new_tokens: int,
    *,
    eos: int = EOS,
    weights: Folded | None = None,
) -> Int[Tensor, "n new"]:
    """The most probable next token, again and again, after prompts of one length.

    A row is filled with `eos` after its first one; decoding ends when all rows have one, so `new` may be
    smaller than `max_new_tokens`. Hooks on the model fire at the prompt and then at every new token; a small
    model without any is decoded by `cwr_mech.model.folded`, several times faster. The two choose alike but
    where logits of two tokens agree to rounding. Several calls may share `weights`, from `folded(model)`.
    """
    weights = weights or folded(model)
    with few_threads(model.cfg):
        if weights is None or not prompts.numel() or max_new_tokens < 1:
            return _through_hooks(model, prompts, max_new_tokens, eos)
        found = _decode(weights, model._as_rows(prompts, first=True).long(), max_new_tokens, eos)
    ended = found == eos
    longest = int(ended.int().argmax(1).max()) + 1 if bool(ended.any(1).all()) else max_new_tokens
    return found[:, :longest]


def _through_hooks(model: HookedQwen2, prompts: Tensor, max_new_tokens: int, eos: int) -> Tensor:
    past = model.new_past()
    step, done = prompts, torch.zeros(len(prompts), dtype=torch.bool, device=prompts.device)
    produced: list[Tensor] = []
    while len(produced) < max_new_tokens and not bool(done.all()):
        last = torch.full((len(step), 1), step.shape[1] - 1, device=step.device)
        best = model(step, positions=last, past=past)[:, -1].argmax(-1)
        best = best.masked_fill(done, eos)
        produced.append(best)
        done = done | (best == eos)
        step = best[:, None]
    return torch.stack(produced, 1) if produced else prompts[:, :0]


def _decode(weights: Folded, prompts: Int[Tensor, "n pos"], new: int, eos: int) -> Int[Tensor, "n new"]:
    """Answers to prompts; after eos, eos."""
    order = torch.from_numpy(np.lexsort(prompts.cpu().numpy().T[::-1])).to(prompts.device)
    texts = prompts[order]
    *before, last = sections(texts)
    room = min(prompts.shape[1] + new - 1, weights.cfg.n_ctx)
    begun = Reading(weights, 1, room)
    for section in before:
        begun = begun.take(section.parent, Reading(weights, len(section.first), room))
        begun.read(texts[section.first, section.start : section.stop], predict=False)
    answers = prompts.new_full((len(last.first), new), eos)

    first, second = (Reading(weights, min(CHUNK, len(answers)), room) for _ in range(2))
    for start in range(0, len(answers), CHUNK):
        chunk = slice(start, start + CHUNK)
        reading = begun.take(last.parent[chunk], first)
        _go_on(reading, second, texts[last.first[chunk], last.start :], answers[chunk], eos)
    found = answers.new_empty(len(prompts), new)
    found[order] = answers[last.number]
    return found


def _go_on(
    reading: Reading, spare: Reading, tokens: Int[Tensor, "n t"], answers: Int[Tensor, "n new"], eos: int
) -> None:
    """Read the last tokens of prompts and write what follows into `answers`, which hold eos so far."""
    going = torch.arange(len(tokens), device=tokens.device)
    for at in range(answers.shape[1]):
        logits = cast(Tensor, reading.read(tokens))
        # An ended row that is still with us goes on with eos.
        best = torch.where(answers[going, at - 1] == eos, eos, logits.argmax(-1)) if at else logits.argmax(-1)
        answers[going, at] = best
        on = (best != eos).nonzero()[:, 0]
        if not len(on):
            return
        if len(on) < FEW * len(best):
            reading, spare = reading.take(on, spare), reading
            going, best = going[on], best[on]
        tokens = best[:, None]


def decode_prompts(
    model: HookedQwen2, prompts: Sequence[Sequence[int]], max_new_tokens: int, *, batch: int = 512
) -> list[list[int]]:
    """`greedy_decode` for prompts of any lengths; answers come without eos, in the order given."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: list[list[int]] = [[] for _ in prompts]
    start, weights = 0, folded(model)
    while start < len(order):
        length = len(prompts[order[start]])
        rows = [i for i in order[start : start + batch] if len(prompts[i]) == length]
        tokens = torch.tensor([prompts[i] for i in rows], dtype=torch.int64, device=model.W_E.device)
        found = greedy_decode(model, tokens, max_new_tokens, weights=weights)
        for i, answer in zip(rows, found.tolist(), strict=True):
            answers[i] = answer[: answer.index(EOS)] if EOS in answer else answer
        start += len(rows)
    return answers


def decode_text(
    model: HookedQwen2, prompts: Sequence[str], max_new_tokens: int, *, batch: int = 512
) -> list[str]:
    """Answers as text to prompts as text, such as `dist(c_1234,c_5678)=`."""
    tokenizer = Tokenizer()
    encoded = [tokenizer.encode_prompt(prompt) for prompt in prompts]
    return [
        tokenizer.decode(answer) for answer in decode_prompts(model, encoded, max_new_tokens, batch=batch)
    ]
