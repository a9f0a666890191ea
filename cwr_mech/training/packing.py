"""A batch as the engine wants it: no padding, nothing computed twice.

Rows of one task begin alike (`<bos>dist(c_`), and what a causal transformer computes at such a beginning is
the same for all of them: it is laid out once, as a row of its own, and every row of the family attends to it.
The last token of a row predicts nothing and nobody looks at it, so it is left out. The tokens that remain
stand one after another; only attention sees rows, through index tables made here.

N tokens in a pack; a block is a rectangle of R rows, each with S queries and T keys; h query heads, kv
key/value heads of width k, `group` = h / kv.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int32, Int64, UInt8
from torch import Tensor

from cwr_mech.tasks.tokenizer import CHAR_ID

PACK_TOKENS = 640
"""Tokens of a pack: few enough for the cache, many enough for the matrix products."""

_FAMILY_TOKENS = 4
"""Rows that agree in this many tokens may share a beginning; task names differ within fewer."""
_BEFORE_ID = CHAR_ID["_"]


@dataclass(frozen=True)
class Block:
    """A rectangle of attention. Queries stand behind the first `offset` keys, which are the family's shared
    beginning; `shared` is where that begins among the pack's tokens."""

    rows: int
    queries: int
    keys: int
    offset: int
    shared: int


@dataclass(frozen=True)
class Heads:
    """How many heads there are: q, k and v of a token are h + 2 kv rows of width k."""

    h: int
    kv: int

    @property
    def group(self) -> int:
        """Query heads for each key/value head."""
        return self.h // self.kv

    @property
    def rows(self) -> int:
        """Rows of width k that belong to a token."""
        return self.h + 2 * self.kv


@dataclass(frozen=True)
class Pack:
    """Some rows of a batch, laid out.

    rows: their numbers in the batch. tokens, position: of each laid-out token. read: tokens whose prediction
    counts, None for all. hit, target, weight, owner: one entry for each prediction of each row: index into
    `read`, the token that follows, what it counts, and the row's place in `rows`. where: the laid-out token
    at each place of each row, -1 behind its end; row: whose token each is, the first of those that share it.
    gather: rows of q, k, v ([N * heads.rows]) in the order of the blocks (q, k, v of the first, then of the
    second, ...); back: for each of the N * heads.rows its place in that order; z_back: for each token and
    query head its place among the blocks' outputs; z_gather: its inverse, N * h where there is no token.
    """

    rows: Int64[Tensor, " b"]
    tokens: Int64[Tensor, " N"]
    position: Int64[Tensor, " N"]
    read: Int64[Tensor, " U"] | None
    hit: Int64[Tensor, " M"]
    target: Int64[Tensor, " M"]
    weight: Float[Tensor, " M"]
    owner: Int64[Tensor, " M"]
    where: Int64[Tensor, "b T"]
    row: Int64[Tensor, " N"]
    blocks: tuple[Block, ...]
    gather: Int64[Tensor, " G"]
    back: Int64[Tensor, " B"]
    z_back: Int64[Tensor, " Z"]
    z_gather: Int64[Tensor, " Q"]


def packs(
    tokens: UInt8[np.ndarray, "row pos"],
    lengths: Int32[np.ndarray, " row"],
    first: Int32[np.ndarray, " row"],
    heads: Heads,
    *,
    budget: int = PACK_TOKENS,
) -> Iterator[Pack]:
    """Lay out a batch in packs of about `budget` tokens.

    tokens are right-padded; first [row]: the first position that is predicted (1 for a loss on every token).
    """
    family, beginning = _families(tokens, lengths)
    order = np.lexsort((lengths, family))
    # Tokens that a row adds to a pack: all but its last and but its family's beginning, which counts once.
    cost = lengths[order] - 1 - beginning[family[order]]
    start = used = 0
    for place, (row, tokens_of) in enumerate(zip(order, cost, strict=True)):
        new = place == start or family[row] != family[order[place - 1]]
        used += int(tokens_of) + (int(beginning[family[row]]) if new else 0)
        if used > budget and place > start:
            yield _pack(tokens, lengths, first, family, beginning, order[start:place], heads)
            start, used = place, int(tokens_of + beginning[family[row]])
    yield _pack(tokens, lengths, first, family, beginning, order[start:], heads)


def _families(
    tokens: UInt8[np.ndarray, "row pos"], lengths: Int32[np.ndarray, " row"]
) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " family"]]:
    """The family of each row, and how many tokens each family's rows have in common at the beginning.

    That is at most as far as the first city's id. Rows without relatives form a family that shares nothing.
    """
    heads = np.ascontiguousarray(tokens[:, :_FAMILY_TOKENS])
    _, family, sizes = np.unique(heads, axis=0, return_inverse=True, return_counts=True)
    family = family.reshape(-1)
    alone = sizes[family] < 2
    family = np.where(alone, len(sizes), family)
    beginning = np.zeros(len(sizes) + 1, dtype=int)
    for index in np.flatnonzero(sizes > 1):
        mine = tokens[family == index]
        equal = (mine == mine[0]).all(axis=0)
        alike = len(equal) if equal.all() else int(np.argmin(equal))
        named = int(np.argmax(mine[0] == _BEFORE_ID)) + 1  # an id is a row's own, even if a few rows share it
        # At least one token of its own is left to every row: lengths - 1 are laid out.
        beginning[index] = min(alike, named, int(lengths[family == index].min()) - 2)
    return family, beginning


def _pack(
    tokens: np.ndarray,
    lengths: np.ndarray,
    first: np.ndarray,
    family: np.ndarray,
    beginning: np.ndarray,
    rows: Int[np.ndarray, " b"],
    heads: Heads,
) -> Pack:
    layout = _Layout(heads)
    present, members = np.unique(family[rows], return_inverse=True)
    shared = [int(beginning[index]) for index in present]
    starts = np.concatenate([[0], np.cumsum(shared)])
    own = np.arange(tokens.shape[1])[None, :]
    flat_tokens = [tokens[rows[members == i][0], :p] for i, p in enumerate(shared)]
    positions = [np.arange(p) for p in shared]
    begun = [i for i, p in enumerate(shared) if p]
    if begun:
        longest = max(shared)
        place = np.arange(longest)[None, :]
        valid = place < np.array([shared[i] for i in begun])[:, None]
        # First block: the beginnings themselves, T = S = p, offset 0. place[f, j] = starts[f] + j.
        layout.add(np.where(valid, starts[begun][:, None] + place, 0), valid, 0, 0)
    at = int(starts[-1])
    where = np.zeros((len(rows), tokens.shape[1]), dtype=np.int64)
    for i, p in enumerate(shared):
        mine = np.flatnonzero(members == i)
        part = rows[mine]
        valid = (own >= p) & (own < lengths[part, None] - 1)
        width = int(lengths[part].max()) - 1
        # The n-th own token of the family, row by row, is token at + n of the pack.
        ids = at + np.cumsum(valid).reshape(valid.shape) - 1
        # Position j of row r is laid out at starts[i] + j for j < p, and at ids[r, j] behind.
        where[mine] = np.where(own < p, starts[i] + own, np.where(valid, ids, 0))
        flat_tokens.append(tokens[part][valid])
        positions.append(np.broadcast_to(own, valid.shape)[valid])
        at += int(valid.sum())
        layout.add(where[mine][:, :width], valid[:, :width], p, int(starts[i]))
    flat = np.concatenate(flat_tokens)
    hits = _predictions(tokens, lengths, first, rows, where, len(flat))
    where = np.where(own < lengths[rows, None] - 1, where, -1)[:, : int(lengths[rows].max()) - 1]
    row = np.zeros(len(flat), dtype=np.int64)
    # Backwards, so that a shared token belongs to the first row that has it.
    for index in reversed(range(len(rows))):
        row[where[index][where[index] >= 0]] = index
    return Pack(
        torch.from_numpy(rows.astype(np.int64)),
        torch.from_numpy(flat.astype(np.int64)),
        torch.from_numpy(np.concatenate(positions).astype(np.int64)),
        *hits,
        torch.from_numpy(where),
        torch.from_numpy(row),
        tuple(layout.blocks),
        *layout.tables(len(flat)),
    )


def _predictions(
    tokens: np.ndarray,
    lengths: np.ndarray,
    first: np.ndarray,
    rows: np.ndarray,
    where: np.ndarray,
    n: int,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor]:
    """read, hit, target, weight, owner of a pack."""
    place = np.arange(1, tokens.shape[1])[None, :]
    counts = (place >= first[rows, None]) & (place < lengths[rows, None])
    # Position j is predicted from position j - 1.
    source = where[:, :-1][counts]
    read = np.unique(source)
    hit = source if len(read) == n else np.searchsorted(read, source)
    owner = np.broadcast_to(np.arange(len(rows))[:, None], counts.shape)[counts]
    return (
        None if len(read) == n else torch.from_numpy(read),
        torch.from_numpy(hit),
        torch.from_numpy(tokens[rows][:, 1:][counts].astype(np.int64)),
        torch.ones(len(hit)),
        torch.from_numpy(owner),
    )


class _Layout:
    """Collects blocks and makes their index tables."""

    def __init__(self, heads: Heads) -> None:
        self.heads = heads
        self.blocks: list[Block] = []
        self._places: list[tuple[np.ndarray, np.ndarray]] = []
        self._outputs: list[tuple[np.ndarray, np.ndarray]] = []

    def add(
        self,
        where: Int[np.ndarray, "R T"],
        valid: Bool[np.ndarray, "R T"],
        offset: int,
        shared: int,
    ) -> None:
        """A block whose keys are the tokens `where`; those from `offset` on are also its queries. `valid`:
        places that hold a token of the row's own."""
        heads = self.heads
        n, keys = where.shape
        self.blocks.append(Block(n, keys - offset, keys, offset, shared))
        head = np.arange(heads.h).reshape(1, heads.kv, heads.group, 1)
        queries, own = where[:, None, None, offset:], valid[:, None, None, offset:]
        shape = (n, heads.kv, heads.group, keys - offset)
        real = np.broadcast_to(own, shape).ravel()
        # Token n's q, k, v are rows n (h + 2 kv) + [0, h), [h, h + kv), [h + kv, h + 2 kv).
        self._places.append(((queries * heads.rows + head).ravel(), real))
        self._outputs.append(((queries * heads.h + head).ravel(), real))
        for first in (heads.h, heads.h + heads.kv):
            index = where[:, None, :] * heads.rows + first + np.arange(heads.kv)[None, :, None]
            self._places.append((index.ravel(), np.broadcast_to(valid[:, None, :], index.shape).ravel()))

    def tables(self, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """gather, back, z_back, z_gather for a pack of `n` tokens."""
        gather, back = self._inverse(self._places, n * self.heads.rows)
        outputs, z_back = self._inverse(self._outputs, n * self.heads.h)
        real = np.concatenate([valid for _, valid in self._outputs])
        z_gather = np.where(real, outputs, n * self.heads.h)
        return (
            torch.from_numpy(gather),
            torch.from_numpy(back),
            torch.from_numpy(z_back),
            torch.from_numpy(z_gather),
        )

    @staticmethod
    def _inverse(parts: list[tuple[np.ndarray, np.ndarray]], n: int) -> tuple[np.ndarray, np.ndarray]:
        index = np.concatenate([part for part, _ in parts])
        real = np.flatnonzero(np.concatenate([valid for _, valid in parts]))
        back = np.zeros(n, dtype=np.int64)
        # back[index[g]] = g for real places g: each row of q, k, v has exactly one, padding none.
        back[index[real]] = real
        return index, back
