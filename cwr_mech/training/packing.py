"""A batch as the engine wants it: no padding outside attention, nothing computed twice.

Rows of one task begin alike (`<bos>dist(c_`), and what a causal transformer computes at such a beginning is
the same for all of them: it is laid out once, as a line of its own, and every row of the family attends to
it. The last token of a row predicts nothing and nobody looks at it, so it is left out. The tokens that remain
stand one after another; only attention sees lines, through index tables (`cwr_mech.training.blocks`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from cwr_mech.data.rows import Places, Tokens
from cwr_mech.tasks.tokenizer import CHAR_ID
from cwr_mech.training.blocks import Block, Heads, Layout, divide

PACK_TOKENS = 4096
"""Tokens of a pack: a batch of 128 questions fits. Fewer stay longer in the cache, but calls cost more."""

_FAMILY_TOKENS = 4
"""Rows that agree in this many tokens may share a beginning; task names differ within fewer."""
_BEFORE_ID = CHAR_ID["_"]


@dataclass(frozen=True)
class Pack:
    """Some rows of a batch, laid out.

    rows: their numbers in the batch. tokens, position: of each laid-out token. read: tokens whose
    prediction counts, None for all. hit, target, owner: one entry for each prediction of each row: index
    into `read`, the token that follows, and the row's place in `rows`; times: how many predictions each
    read token makes. where: the laid-out token at each place of each row, -1 behind its end; row: whose
    token each of the first n is, the first of those that share it; the others fill up and are nobody's.
    gather: rows of q, k, v ([N * heads.rows]) in the order of the blocks (q, k, v of the first, then of
    the second, ...). back: for each of the N * heads.rows its place in that order; behind the blocks
    stand, block by block, sums over families ([k and v, F, kv, begin]), and one row of zeros. sizes: how
    many rows each of these parts has. z_back: for each token and query head its place among the blocks'
    outputs; z_gather: its inverse, N * h where there is no token.
    """

    rows: Int64[Tensor, " b"]
    tokens: Int64[Tensor, " N"]
    position: Int64[Tensor, " N"]
    read: Int64[Tensor, " U"] | None
    hit: Int64[Tensor, " M"]
    target: Int64[Tensor, " M"]
    owner: Int64[Tensor, " M"]
    times: Float[Tensor, " U"]
    where: Int64[Tensor, "b T"]
    row: Int64[Tensor, " n"]
    blocks: tuple[Block, ...]
    sizes: tuple[int, ...]
    gather: Int64[Tensor, " G"]
    back: Int64[Tensor, " B"]
    z_back: Int64[Tensor, " Z"]
    z_gather: Int64[Tensor, " Q"]


def packs(
    tokens: Tokens,
    lengths: Places,
    first: Places,
    heads: Heads,
    *,
    budget: int = PACK_TOKENS,
    multiple: int = 1,
) -> Iterator[Pack]:
    """Lay out a batch in packs of about equal size and at most `budget` tokens (a row is never cut).

    tokens are right-padded; first [row]: the first position that is predicted (1 for a loss on every token).
    multiple: above 1, packs are filled up to multiples of it with tokens that are nobody's.
    """
    family, beginning = _families(tokens, lengths)
    order = np.lexsort((lengths, family))
    # Tokens that a row adds to a pack: all but its last and but its family's beginning, which counts once.
    kinds, begins = family[order].tolist(), beginning[family[order]].tolist()
    cost = (lengths[order] - 1 - beginning[family[order]]).tolist()
    total = sum(cost) + int(beginning[np.unique(family)].sum())
    even = total / -(-total // budget)
    start = used = done = cut = 0
    for place, tokens_of in enumerate(cost):
        begin = 0 if place > start and kinds[place] == kinds[place - 1] else begins[place]
        over = done + (tokens_of + begin) / 2 > even * (cut + 1)
        if place > start and (over or used + tokens_of + begin > budget):
            yield _pack(tokens, lengths, first, family, beginning, order[start:place], heads, multiple)
            start, used, cut, begin = place, 0, cut + 1, begins[place]
        used += tokens_of + begin
        done += tokens_of + begin
    yield _pack(tokens, lengths, first, family, beginning, order[start:], heads, multiple)


def _families(tokens: Tokens, lengths: Places) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " family"]]:
    """The family of each row, and how many tokens each family's rows have in common at the beginning.

    That is at most as far as the first city's id. Rows without relatives form a family that shares nothing.
    Families are numbered by the length of their longest rows.
    """
    heads = np.ascontiguousarray(tokens[:, :_FAMILY_TOKENS]).view(np.uint32)[:, 0]
    _, family, sizes = np.unique(heads, return_inverse=True, return_counts=True)
    family = np.where(sizes[family] < 2, len(sizes), family)
    beginning, longest = np.zeros(len(sizes) + 1, dtype=int), np.zeros(len(sizes) + 1, dtype=int)
    for index in np.unique(family).tolist():
        mine = family == index
        longest[index] = lengths[mine].max()
        if index == len(sizes):
            continue
        texts = tokens[mine]
        equal = (texts == texts[0]).all(axis=0)
        alike = len(equal) if equal.all() else int(np.argmin(equal))
        named = int(np.argmax(texts[0] == _BEFORE_ID)) + 1  # an id is a row's own, even where some share it
        # At least one token of its own is left to every row: lengths - 1 are laid out.
        beginning[index] = min(alike, named, int(lengths[mine].min()) - 2)
    order = np.argsort(longest, kind="stable")
    return np.argsort(order)[family], beginning[order]


def _pack(
    tokens: np.ndarray,
    lengths: np.ndarray,
    first: np.ndarray,
    family: np.ndarray,
    beginning: np.ndarray,
    rows: Int[np.ndarray, " b"],
    heads: Heads,
    multiple: int,
) -> Pack:
    # Lines: the beginnings that are shared, then the rows, each from behind its beginning on.
    present, leaders, members = np.unique(family[rows], return_index=True, return_inverse=True)
    begun = np.flatnonzero(beginning[present])
    source = np.concatenate([rows[leaders[begun]], rows])
    line_family = np.concatenate([begun, members])
    offset = np.concatenate([0 * begun, beginning[present][members]])
    end = np.concatenate([beginning[present][begun], lengths[rows] - 1])
    place = np.arange(int(end.max()))
    valid = (place >= offset[:, None]) & (place < end[:, None])
    # The n-th valid place, line by line, is token n of the pack: place t of line l is token ids[l, t].
    ids = np.cumsum(valid).reshape(valid.shape) - 1
    where = np.where(valid, ids, 0)
    line_of = np.zeros(len(present), dtype=int)
    line_of[begun] = np.arange(len(begun))
    where = np.where(place < offset[:, None], where[line_of[line_family]], where)
    owner = np.concatenate([leaders[begun], np.arange(len(rows))])
    own = np.where(place < end[len(begun) :, None], where[len(begun) :], -1)
    layout = Layout(heads, where, valid, offset, end, len(begun))
    for families in divide(line_family, offset, end, len(present)):
        layout.add(np.flatnonzero(np.isin(line_family, families)), line_family)
    texts = tokens[:, : len(place) + 1]
    n = int(valid.sum())
    more = _missing(n, multiple)
    return Pack(
        torch.from_numpy(rows.astype(np.int64)),
        torch.from_numpy(np.pad(texts[source][:, :-1][valid].astype(np.int64), (0, more))),
        torch.from_numpy(np.pad(np.broadcast_to(place, valid.shape)[valid], (0, more))),
        *_predictions(texts, lengths, first, rows, own, n, multiple),
        torch.from_numpy(own),
        torch.from_numpy(np.repeat(owner, (end - offset))),
        tuple(layout.blocks),
        *layout.tables(n, n + more),
    )


def _predictions(
    tokens: np.ndarray,
    lengths: np.ndarray,
    first: np.ndarray,
    rows: np.ndarray,
    where: Int[np.ndarray, "b T"],
    n: int,
    multiple: int,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor]:
    """read, hit, target, owner, times of a pack."""
    place = np.arange(1, tokens.shape[1])
    counts = (place >= first[rows, None]) & (place < lengths[rows, None])
    # Position j is predicted from position j - 1.
    source = where[counts]
    times = np.bincount(source, minlength=n)
    read = np.flatnonzero(times)
    hit = source if len(read) == n else np.searchsorted(read, source)
    more = _missing(len(read), multiple)
    return (
        None if len(read) == n else torch.from_numpy(np.pad(read, (0, more), constant_values=n)),
        torch.from_numpy(hit),
        torch.from_numpy(tokens[rows][:, 1:][counts].astype(np.int64)),
        torch.from_numpy(np.broadcast_to(np.arange(len(rows))[:, None], counts.shape)[counts]),
        torch.from_numpy(np.pad(times[read].astype(np.float32), (0, more))),
    )


def _missing(n: int, multiple: int) -> int:
    """How many tokens fill up `n`: at least one, which stands for all in `read`, if any multiple is asked."""
    return multiple - n % multiple if multiple > 1 else 0
