"""Texts about entities as a model reads them: tokens, and where in them each entity is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int32, Int64

from cwr_mech.activations.prompts import Prompts
from cwr_mech.errors import AnalysisError, one_of
from cwr_mech.model.text import encode, quoted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXT_SITES = ("last_token", "first_token", "span_mean", "text_end")
"""Token positions of an entity in a text: the last and the first token of its span, the mean over the span,
and the last token of the whole text."""
EMPTY = -1
"""What stands behind the end of a shorter text."""


@dataclass(frozen=True)
class TokenRows:
    """A text an entity as tokens, `EMPTY` behind its end; and its span as tokens: first, after the last."""

    texts: tuple[str, ...]
    tokens: Int32[np.ndarray, "entity pos"]
    span: Int32[np.ndarray, "entity 2"]
    answer: Int32[np.ndarray, " entity"] | None = None
    """The token each text goes on with, where that is known."""

    @property
    def lengths(self) -> Int64[np.ndarray, " entity"]:
        """Tokens of each text."""
        return (self.tokens != EMPTY).sum(axis=1)

    def same(self, other: "TokenRows") -> bool:
        """Whether these are the same tokens, read at the same places, with the same answers."""
        answers = [np.zeros(0) if rows.answer is None else rows.answer for rows in (self, other)]
        pairs = ((self.tokens, other.tokens), (self.span, other.span), answers)
        return all(np.array_equal(*pair) for pair in pairs)

    def fits(self, n: int) -> bool:
        """Whether there are `n` texts whose spans lie in them."""
        if not len(self.texts) == len(self.tokens) == len(self.span) == n:
            return False
        if self.answer is not None and (len(self.answer) != n or (self.answer < 0).any()):
            return False
        start, stop = self.span.T
        return bool(((start >= 0) & (start < stop) & (stop <= self.lengths)).all())

    def weights(self, site: str, rows: Int64[np.ndarray, " row"]) -> Float[np.ndarray, "row pos"]:
        """What each token counts at a site: 1, or shares of a mean. Raises UnknownName."""
        one_of("site of a text", site, TEXT_SITES)
        at = np.arange(self.tokens.shape[1])
        start, stop = self.span[rows].T[:, :, None]
        end = self.lengths[rows][:, None]
        inside = {
            "last_token": at == stop - 1,
            "first_token": at == start,
            "span_mean": (at >= start) & (at < stop),
            "text_end": at == end - 1,
        }[site]
        return inside / inside.sum(axis=1, keepdims=True)

    def names(self) -> list[tuple[int, ...]]:
        """The tokens of each span."""
        return [tuple(row[slice(*span)].tolist()) for row, span in zip(self.tokens, self.span, strict=True)]


def encode_prompts(
    tokenizer: "PreTrainedTokenizerBase", prompts: Prompts, d_vocab: int, n_ctx: int
) -> dict[str, TokenRows]:
    """Prompt -> its texts as tokens. A token belongs to a span when it holds one of its characters.

    Raises ConfigError for a text that does not fit the tokenizer or the model, AnalysisError for a span
    without a token.
    """
    found = {}
    for prompt, texts in prompts.texts.items():
        rows, offsets = encode(tokenizer, texts, d_vocab, n_ctx)
        tokens = np.full((len(rows), max(map(len, rows))), EMPTY, dtype=np.int32)
        span = np.empty((len(rows), 2), dtype=np.int32)
        given = zip(texts, rows, offsets, prompts.spans[prompt], strict=True)
        for index, (text, row, places, (first, after)) in enumerate(given):
            tokens[index, : len(row)] = row
            inside = [at for at, (start, stop) in enumerate(places) if start < after and stop > first]
            if not inside:
                raise AnalysisError(f"no token holds {quoted(text[first:after])} in {quoted(text)}")
            span[index] = inside[0], inside[-1] + 1
        answers = prompts.answers.get(prompt)
        answer = None if answers is None else _answers(tokenizer, texts, answers, rows, d_vocab, n_ctx)
        found[prompt] = TokenRows(tuple(texts), tokens, span, answer)
    return found


def _answers(
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    answers: Sequence[str],
    rows: Sequence[Sequence[int]],
    d_vocab: int,
    n_ctx: int,
) -> Int32[np.ndarray, " entity"]:
    """The token after each text when its answer follows. Raises AnalysisError where the two melt into one."""
    whole, _ = encode(tokenizer, [a + b for a, b in zip(texts, answers, strict=True)], d_vocab, n_ctx)
    for text, answer, row, longer in zip(texts, answers, rows, whole, strict=True):
        if len(longer) <= len(row) or longer[: len(row)] != list(row):
            raise AnalysisError(
                f"the answer {quoted(answer)} is no token of its own after {quoted(text)}",
                "begin it with a space, or end the text where a token ends",
            )
    return np.array([longer[len(row)] for row, longer in zip(rows, whole, strict=True)], dtype=np.int32)


def name_features(rows: TokenRows, most: int = 1000) -> Mapping[str, Float[np.ndarray, "entity feature"]]:
    """What a name's tokens say by themselves, without a model: how often each stands in it, and the last one.

    Tokens of a single entity are left out, since no other entity is decoded by them, and of the others the
    `most` frequent are taken.
    """
    names = rows.names()
    bags = [set(name) for name in names]
    tokens, counts = np.unique([token for bag in bags for token in bag], return_counts=True)
    shared = tokens[counts > 1]
    kept = shared[np.argsort(-counts[counts > 1], kind="stable")][:most]
    column = {int(token): number for number, token in enumerate(kept)}
    bag, last = np.zeros((2, len(names), max(len(kept), 1)))
    for row, name in enumerate(names):
        for token in name:
            if token in column:
                bag[row, column[token]] += 1
        if name[-1] in column:
            last[row, column[name[-1]]] = 1
    return {"bag of name tokens": bag, "name tokens with the last one": np.hstack([bag, last])}
