"""What a patched run is scored by: the model's two answers, read token by token under teacher forcing.

All scores point towards the clean answer (`kl` away from it):
logit_diff    logit of the clean minus the corrupt answer's token at the first place where they differ, after
              their common prefix (Zhang & Nanda, arXiv 2309.16042); an answer's end counts as a token
logprob_diff  log p(clean answer) - log p(corrupt answer), each whole answer with its end, in nats
digitN        the N-th token's part of logprob_diff: log p of the clean answer's token given the clean prefix
              minus log p of the corrupt answer's token given the corrupt prefix. The parts add up
kl            KL(clean run || this run) of the next token at the first differing place, in nats
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cwr_mech.analysis.patching.forward import Tree
from cwr_mech.errors import UnknownName
from cwr_mech.tasks.tokenizer import CHAR_ID, EOS, PAD

METRICS = ("logit_diff", "logprob_diff", "kl")
"""Scores of a whole answer; `digit1`, `digit2`, ... are its parts."""


def check_metrics(names: Iterable[str], max_answer_tokens: int) -> tuple[str, ...]:
    """The metrics asked for; "digits" stands for digit1, digit2, ... Raises UnknownName."""
    digits = [f"digit{n}" for n in range(1, max_answer_tokens + 1)]
    chosen: list[str] = []
    for name in names:
        if name == "digits":
            chosen += digits
        elif name in METRICS or name in digits:
            chosen.append(name)
        else:
            raise UnknownName("metric", name, [*METRICS, "digits", *digits])
    return tuple(dict.fromkeys(chosen))


@dataclass(frozen=True)
class Answers:
    """Two answers a pair as tokens, ended by <eos> and padded, and where a tree's runs predict them.

    `tokens[side]`, side 0 clean and 1 corrupt. `place[side]` holds, for each answer token, its index into
    `reads`. `first` is the first token that differs.
    """

    tokens: tuple[Int[Tensor, "pair token"], Int[Tensor, "pair token"]]
    place: tuple[Int[Tensor, " clean_read"], Int[Tensor, " corrupt_read"]]
    first: Int[Tensor, "pair"]
    reads: tuple[int, ...]
    tree: Tree
    forced: Int[Tensor, "pair forced"]

    @classmethod
    def build(
        cls, prompt: int, clean: Sequence[str], corrupt: Sequence[str], metrics: Sequence[str]
    ) -> "Answers":
        """Lay out the answers to prompts of `prompt` tokens. Only what `metrics` need is forced: nothing
        without any, for the first differing token the common prefix, else both whole answers."""
        sides = [[[*(CHAR_ID[char] for char in text), EOS] for text in side] for side in (clean, corrupt)]
        width = max(len(answer) for side in sides for answer in side)
        tokens = torch.tensor([[a + [PAD] * (width - len(a)) for a in side] for side in sides])
        first = (tokens[0] != tokens[1]).to(torch.int8).argmax(1)
        if not metrics:
            lengths: tuple[int, ...] = ()
        elif set(metrics) <= {"logit_diff", "kl"}:
            lengths = (int(first.max()),)
        else:
            lengths = (width - 1, width - 1)
        tree = Tree(prompt, tuple(n for n in lengths if n))
        forced = torch.cat(
            [tokens[0][:, :0], *(side[:, :n] for side, n in zip(tokens, lengths, strict=False))], 1
        )
        reads = (prompt - 1, *range(prompt, tree.width))
        own = [torch.tensor([0, *range(1 + sum(lengths[:i]), 1 + sum(lengths[: i + 1]))]) for i in (0, 1)]
        return cls((tokens[0], tokens[1]), (own[0], own[1]), first, reads, tree, forced)

    def to(self, device: torch.device) -> "Answers":
        """The same on another device."""
        (a, b), (p, q) = self.tokens, self.place
        tokens, place = (a.to(device), b.to(device)), (p.to(device), q.to(device))
        return Answers(tokens, place, self.first.to(device), self.reads, self.tree, self.forced.to(device))

    def score(
        self,
        names: Sequence[str],
        logits: Float[Tensor, "row read d_vocab"],
        pair: Int[Tensor, "row"],
        clean: Float[Tensor, "pair d_vocab"],
    ) -> Float[Tensor, "metric row"]:
        """Scores of runs of pairs `pair`; `clean` are the clean runs' logits at the first differing place."""
        rows, first = torch.arange(len(pair), device=logits.device), self.first[pair]
        at_first = logits[rows, self.place[0][first]]
        values: dict[str, Tensor] = {}
        if "logit_diff" in names:
            ours, theirs = (side[pair, first] for side in self.tokens)
            values["logit_diff"] = at_first[rows, ours] - at_first[rows, theirs]
        if "kl" in names:
            p = clean[pair].log_softmax(-1)
            values["kl"] = (p.exp() * (p - at_first.log_softmax(-1))).sum(-1)
        if set(names) - set(values):
            parts = self.log_probs(logits, pair, 0) - self.log_probs(logits, pair, 1)
            values["logprob_diff"] = parts.sum(1)
            values |= {f"digit{n + 1}": parts[:, n] for n in range(parts.shape[1])}
        zero = torch.zeros(len(pair), device=logits.device)
        return torch.stack([values.get(name, zero) for name in names])

    def log_probs(
        self, logits: Float[Tensor, "row read d_vocab"], pair: Int[Tensor, "row"], side: int
    ) -> Float[Tensor, "row token"]:
        """Log probability of each token of one side's answer after the tokens before it; 0 past its end."""
        tokens = self.tokens[side][pair]
        chosen = logits[:, self.place[side]].log_softmax(-1).gather(2, tokens[:, :, None])[..., 0]
        return chosen.masked_fill(tokens == PAD, 0.0)

    def at_first(self, logits: Float[Tensor, "pair read d_vocab"]) -> Float[Tensor, "pair d_vocab"]:
        """Logits of one run a pair at the first differing place."""
        return logits[torch.arange(len(logits), device=logits.device), self.place[0][self.first]]
