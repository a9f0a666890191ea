"""Greedy decoding in batches, with a key/value cache."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.tokenizer import EOS, Tokenizer


@torch.no_grad()
def greedy_decode(
    model: HookedQwen2, prompts: Int[Tensor, "n pos"], max_new_tokens: int, *, eos: int = EOS
) -> Int[Tensor, "n new"]:
    """The most probable next token, again and again, after prompts of one length.

    A row is filled with `eos` after its first one; decoding ends when all rows have one, so `new` may be
    smaller than `max_new_tokens`. Hooks on the model fire at the prompt and then at every new token.
    """
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


def decode_prompts(
    model: HookedQwen2, prompts: Sequence[Sequence[int]], max_new_tokens: int, *, batch: int = 512
) -> list[list[int]]:
    """`greedy_decode` for prompts of any lengths; answers come without eos, in the order given."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: list[list[int]] = [[] for _ in prompts]
    start = 0
    while start < len(order):
        length = len(prompts[order[start]])
        rows = [i for i in order[start : start + batch] if len(prompts[i]) == length]
        tokens = torch.tensor([prompts[i] for i in rows], dtype=torch.int64, device=model.W_E.device)
        for i, answer in zip(rows, greedy_decode(model, tokens, max_new_tokens).tolist(), strict=True):
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
