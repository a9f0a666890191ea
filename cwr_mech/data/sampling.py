"""Drawing queries: rejection from uniform draws, block by block, each block from a seed of its own.

A block holds BLOCK_ROWS queries of one (task, split, seed, group) and depends on nothing else but the world,
so any range of rows can be made without the rows before it. Within a block the rows follow a pattern of
strata: every run of as many rows as there are strata holds each stratum once, in random order. Balance is
therefore exact, not only on average. Draws are uniform and ordered, so every symmetric way of writing a
query is equally likely and no further shuffling is needed. Queries are drawn with replacement: in a small
world they repeat within a split, but they never cross into another.

A protocol (`cwr_mech.config.Protocol`) may ask for the reference's choices instead; each is named where it is
followed.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int64

from cwr_mech.config import Protocol
from cwr_mech.data.splits import PERCENT, SPLITS, permute, split_of
from cwr_mech.errors import WorldError, one_of
from cwr_mech.tasks.registry import BLOCK_ROWS, PAPER_TASKS, Stratum, Task
from cwr_mech.world.cities import World

GROUPS = ("old", "new", "all")
"""Which cities a query may name: no new city, at least one new city, any city."""

_MAX_CHUNK = 1 << 17
_PATIENCE, _RAREST = 1 << 21, 2.0**-16
"""A stratum is called empty when, after _PATIENCE draws, less than the share _RAREST of them has fitted."""


@dataclass(frozen=True)
class Source:
    """Where the rows of one kind come from: everything that is the same for all blocks."""

    world: World
    task: Task
    split: str
    seed: int
    group: str
    protocol: Protocol

    def __post_init__(self) -> None:
        for kind, name, choices in (("split", self.split, SPLITS), ("group", self.group, GROUPS)):
            one_of(kind, name, choices)
        if self.group == "new" and not len(self.world.new()):
            raise WorldError("group 'new' needs new cities, and this world has none", "set new=atlantis, say")
        n = len(self.pool)
        if n < self.task.n_max:
            which = "training cities" if self.group == "old" else "cities"
            raise WorldError(
                f"task '{self.task.name}' needs {self.task.n_max} cities and this world has {n} {which}",
                "take a larger n_cities",
            )

    @cached_property
    def pool(self) -> Int64[np.ndarray, " city"]:
        """World rows that a query may name."""
        return self.world.old() if self.group == "old" else np.arange(self.world.n)

    @cached_property
    def _columns(self) -> tuple[np.ndarray, np.ndarray]:
        x, y = self.world.xy.T
        return np.ascontiguousarray(x), np.ascontiguousarray(y)

    def answers(
        self, cities: Int64[np.ndarray, "k row"], sizes: Int64[np.ndarray, " row"]
    ) -> Int64[np.ndarray, " row"]:
        """Answers to queries given as world rows, of which row r uses the first `sizes[r]`."""
        xy = np.stack([column[cities] for column in self._columns])
        return self.task.answer_value(xy.transpose(2, 1, 0), sizes)

    @property
    def strata(self) -> tuple[Stratum, ...]:
        """The kinds of questions that share the rows equally."""
        balanced = self.protocol.inside_balance_within_n
        return self.task.strata if balanced else self.task.reference_strata or self.task.strata

    @property
    def drops_repeats(self) -> bool:
        """Whether rows that name a city twice are drawn, then dropped and not replaced.

        As in the reference this concerns triples of training cities only.
        """
        return not self.protocol.refill_repeats and self.task.n_min == 3 and self.group == "old"

    @property
    def deals_pairs(self) -> bool:
        """Whether pairs are dealt from a shuffled deck of all pairs instead of drawn with replacement.

        As in the reference; this makes no sense where a query's split decides whether it may be used.
        """
        return self.task.n_max == 2 and self.group != "new" and not self.protocol.split_by_hash

    def generator(self, block: int, stream: int = 0) -> np.random.Generator:
        """The generator of one block; `stream` 0 draws queries, 1 label noise."""
        key = (self.task.key, SPLITS.index(self.split), GROUPS.index(self.group), block, stream)
        return np.random.default_rng(np.random.SeedSequence([self.seed, *key]))


def draw_block(source: Source, block: int) -> tuple[Int64[np.ndarray, "row k"], Int64[np.ndarray, " row"]]:
    """City ids (padded with -1) and answer values of the BLOCK_ROWS queries of a block.

    Raises WorldError when the world is too small to hold a query of every stratum in this split.
    """
    rng = source.generator(block)
    if source.deals_pairs:
        return _deal_pairs(source, block, rng)
    kinds = source.strata
    each = BLOCK_ROWS // len(kinds)
    pattern = rng.permuted(np.tile(np.arange(len(kinds)), (each, 1)), axis=1).ravel()
    ids = np.full((source.task.n_max, BLOCK_ROWS), -1, dtype=np.int64)
    values = np.zeros(BLOCK_ROWS, dtype=np.int64)
    for index, stratum in enumerate(kinds):
        rows = np.flatnonzero(pattern == index)
        ids[: max(stratum.sizes), rows], values[rows] = _fill(source, stratum, each, rng)
    return ids.T, values


def _deal_pairs(source: Source, block: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pairs without replacement, each turned round with probability 1/2; the deck starts again at its end.

    distance deals its three splits from one deck, so they are disjoint (while three times the rows asked for
    are in the deck); compass shuffles a deck for each split, so its splits overlap. Both as in the reference.
    """
    row = block * BLOCK_ROWS + np.arange(BLOCK_ROWS)
    split = SPLITS.index(source.split)
    shared = source.task.reference_one_deck
    deck = len(source.pool) * (len(source.pool) - 1) // 2
    place = len(SPLITS) * row + split if shared else row
    key = len(PAPER_TASKS) * source.seed + source.task.key
    card = permute(place % deck, deck, key=len(SPLITS) * key + (0 if shared else split))
    second = ((1 + np.sqrt(1 + 8 * card)) / 2).astype(np.int64)
    second -= second * (second - 1) // 2 > card  # where the square root was rounded up
    pair = np.stack([card - second * (second - 1) // 2, second])
    turned = rng.random(BLOCK_ROWS) < 0.5
    cities = source.pool[np.where(turned, pair[::-1], pair)]
    return source.world.ids[cities].T, source.answers(cities, np.full(BLOCK_ROWS, 2))


def _fill(
    source: Source, stratum: Stratum, need: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`need` queries of a stratum: ids [k need] and values [need]."""
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    found = drawn = 0
    rate = stratum.rate
    if source.protocol.split_by_hash:
        rate *= PERCENT[source.split] / 100
    while found < need:
        chunk = min(int(1.1 * (need - found) / rate) + 32, _MAX_CHUNK)
        parts.append(_candidates(source, stratum, chunk, rng))
        found, drawn = found + len(parts[-1][1]), drawn + chunk
        rate = max(found, 1) / drawn
        if drawn > _PATIENCE and found < _RAREST * drawn:
            raise _too_small(source, stratum)
    ids, values = (np.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True))
    return ids[:, :need], values[:need]


def _candidates(
    source: Source, stratum: Stratum, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Those of `n` uniform draws that fit the stratum and the split: ids [k row], values [row].

    Each condition is tested only on what is left by those before it.
    """
    task, protocol = source.task, source.protocol
    cities, sizes = _draw(source, stratum, n, rng)
    if not source.drops_repeats:
        cities, sizes = _keep(_distinct(cities, sizes), cities, sizes)
    values = source.answers(cities, sizes)
    if stratum.label is not None:
        cities, sizes, values = _keep(values == stratum.label, cities, sizes, values)
    if task.reference_shuffles and not protocol.crossing_keeps_label:
        # The reference permutes the four cities of an accepted row and answers again: 26 % stay TRUE.
        order = rng.permuted(np.tile(np.arange(4), (len(values), 1)), axis=1).T
        cities = np.take_along_axis(cities, order, axis=0)
        values = source.answers(cities, sizes)
    ids = np.where(np.arange(len(cities))[:, None] < sizes, source.world.ids[cities], -1)
    if protocol.split_by_hash:
        ids, values = _keep(split_of(task, ids.T) == SPLITS.index(source.split), ids, values)
    return ids, values


def _keep(mask: np.ndarray, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(np.compress(mask, array, axis=-1) for array in arrays)


def _draw(
    source: Source, stratum: Stratum, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """World rows [k n] drawn uniformly with repetition, and how many of the k places each query uses."""
    cities = source.pool[rng.integers(len(source.pool), size=(max(stratum.sizes), n))]
    sizes = np.array(stratum.sizes)[rng.integers(len(stratum.sizes), size=n)]
    if source.group == "new":
        # One place, uniform among those used, names a new city; the others may, too.
        new = source.world.new()
        cities[rng.integers(sizes), np.arange(n)] = new[rng.integers(len(new), size=n)]
    return cities, sizes


def _distinct(cities: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    fresh = np.ones(cities.shape[1], dtype=bool)
    for j in range(1, len(cities)):
        for i in range(j):
            fresh &= (cities[i] != cities[j]) | (j >= sizes)
    return fresh


def _too_small(source: Source, stratum: Stratum) -> WorldError:
    label = "" if stratum.label is None else f" with answer {source.task.labels[stratum.label]}"
    sizes = "" if source.task.n_min == source.task.n_max else f" about {stratum.sizes[0]} cities"
    return WorldError(
        f"this world of {source.world.n} cities has no, or hardly any, {source.task.name} query"
        f"{sizes}{label} in split '{source.split}', group '{source.group}'",
        "take a larger n_cities, another source, or leave the task out",
    )
