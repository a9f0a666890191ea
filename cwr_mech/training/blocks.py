"""Attention of a pack as a few rectangles of lines, and the index tables that lead there and back.

N tokens in a pack; a block is a rectangle of R lines, each with S queries and T keys; h query heads, kv
key/value heads of width k, `group` = h / kv.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

BLOCK_SCORES = 3000
"""A block more costs as much time as so many attention scores of each head (measured, width 64)."""


@dataclass(frozen=True)
class Block:
    """A rectangle of attention.

    Line r's query j stands at position `offset_r + j` and sees the keys at positions up to its own. mask: 0
    where it sees, minus infinity elsewhere. common: 1 where a line has a beginning (at most `begin` tokens)
    in common with others, which makes sums over a family a product; None where nothing is shared.
    """

    lines: int
    queries: int
    keys: int
    begin: int
    mask: Float[Tensor, "R 1 S T"]
    common: Float[Tensor, "F R"] | None


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


def divide(
    family: Int[np.ndarray, " line"],
    offset: Int[np.ndarray, " line"],
    end: Int[np.ndarray, " line"],
    count: int,
) -> list[range]:
    """Which families, numbered by length, share a block: the cheapest division of their sequence."""
    lines = np.bincount(family, minlength=count).tolist()
    queries, keys = np.zeros(count, dtype=int), np.zeros(count, dtype=int)
    np.maximum.at(queries, family, end - offset)
    np.maximum.at(keys, family, end)
    wide, long = queries.tolist(), keys.tolist()
    # best[j]: the least cost of the first j families, and where their last block begins.
    best: list[tuple[int, int]] = [(0, 0)]
    for stop in range(1, count + 1):
        costs = []
        for begin in range(stop):
            part = slice(begin, stop)
            scores = sum(lines[part]) * max(wide[part]) * max(long[part])
            costs.append((best[begin][0] + BLOCK_SCORES + scores, begin))
        best.append(min(costs))
    found, stop = [], count
    while stop:
        found.append(range(best[stop][1], stop))
        stop = best[stop][1]
    return found[::-1]


class Layout:
    """Collects blocks and makes their index tables."""

    def __init__(
        self,
        heads: Heads,
        where: Int[np.ndarray, "line T"],
        valid: Bool[np.ndarray, "line T"],
        offset: Int[np.ndarray, " line"],
        end: Int[np.ndarray, " line"],
        begun: int,
    ) -> None:
        """where: the token at each place of each line; valid: those that are the line's own. Its queries are
        at places from `offset` to before `end`. The first `begun` lines are beginnings."""
        self.heads, self.where, self.valid = heads, where, valid
        self.offset, self.end, self.begun = offset, end, begun
        self.blocks: list[Block] = []
        self._places: list[tuple[np.ndarray, np.ndarray]] = []
        self._sums: list[tuple[np.ndarray, np.ndarray]] = []
        self._outputs: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, lines: Int[np.ndarray, " R"], family: Int[np.ndarray, " line"]) -> None:
        """A block of the lines numbered so."""
        heads, offset, end = self.heads, self.offset[lines], self.end[lines]
        n, queries, keys = len(lines), int((end - offset).max()), int(end.max())
        at = offset[:, None] + np.arange(queries)
        # A place behind a line's end holds no token: it may be any, and gets no gradient.
        where_q = np.take_along_axis(self.where[lines], np.minimum(at, keys - 1), 1)[:, None, None]
        shape = (n, heads.kv, heads.group, queries)
        real = np.broadcast_to((at < end[:, None])[:, None, None], shape).ravel()
        head = np.arange(heads.h).reshape(1, heads.kv, heads.group, 1)
        # Token n's q, k, v are rows n (h + 2 kv) + [0, h), [h, h + kv), [h + kv, h + 2 kv).
        self._places.append(((where_q * heads.rows + head).ravel(), real))
        self._outputs.append(((where_q * heads.h + head).ravel(), real))
        begins = lines[lines < self.begun]
        # The gradient of a shared key is that of the sum over its family, itself included.
        alone = self.valid[lines, :keys] & (lines >= self.begun)[:, None]
        self._places += self._of_keys(self.where[lines, :keys], alone)
        begin, common = 0, None
        if len(begins):
            begin = int(self.end[begins].max())
            self._sums += self._of_keys(self.where[begins, :begin], self.valid[begins, :begin])
            common = torch.from_numpy((family[begins][:, None] == family[lines]).astype(np.float32))
        seen = _looking_back(int(self.where.shape[1]) + queries)[torch.from_numpy(at), :keys]
        self.blocks.append(Block(n, queries, keys, begin, seen[:, None], common))

    def _of_keys(self, where: np.ndarray, real: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows of k, then those of v, for tokens [line T]: [line kv T]."""
        heads = self.heads
        for first in (heads.h, heads.h + heads.kv):
            index = where[:, None, :] * heads.rows + first + np.arange(heads.kv)[None, :, None]
            yield index.ravel(), np.broadcast_to(real[:, None, :], index.shape).ravel()

    def tables(
        self, n: int, filled: int
    ) -> tuple[
        tuple[int, ...], Int64[Tensor, " G"], Int64[Tensor, " B"], Int64[Tensor, " Z"], Int64[Tensor, " Q"]
    ]:
        """sizes, gather, back, z_back, z_gather for a pack of `n` tokens filled up to `filled`."""
        gather, _, back = _inverse([*self._places, *self._sums], n * self.heads.rows)
        outputs, real, z_back = _inverse(self._outputs, n * self.heads.h)
        z_gather = np.where(real, outputs, filled * self.heads.h)
        blocks = sum(len(index) for index, _ in self._places)
        # k and v of a block's sums are one part.
        pairs = zip(self._sums[::2], self._sums[1::2], strict=True)
        sums = [len(k) + len(v) for (k, _), (v, _) in pairs]
        sizes = (*(len(index) for index, _ in self._places), *sums, 1)
        # What fills up has no gradient: its q, k and v come back from the row of zeros.
        back = np.pad(back, (0, (filled - n) * self.heads.rows), constant_values=len(gather))
        z_back = np.pad(z_back, (0, (filled - n) * self.heads.h))
        made = map(torch.from_numpy, (gather[:blocks], back, z_back, z_gather))
        gathered, returned, z_returned, z_gathered = made
        return sizes, gathered, returned, z_returned, z_gathered


def _inverse(
    parts: Sequence[tuple[np.ndarray, np.ndarray]], n: int
) -> tuple[Int[np.ndarray, " G"], Bool[np.ndarray, " G"], Int[np.ndarray, " n"]]:
    """Parts of (index, whether it is real) joined, and for each of `n` rows the one real place it has."""
    index = np.concatenate([part for part, _ in parts])
    real = np.concatenate([valid for _, valid in parts])
    back = np.zeros(n, dtype=np.int64)
    back[index[real]] = np.flatnonzero(real)
    return index, real, back


@lru_cache(maxsize=64)
def _looking_back(n: int) -> Float[Tensor, "n n"]:
    """Added to attention scores: minus infinity where a query would look ahead."""
    return torch.full((n, n), float("-inf")).triu(1)
