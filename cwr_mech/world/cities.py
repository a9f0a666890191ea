"""The world: cities with sparse random ids and integer positions, old ones and new ones.

Every random choice has its own stream of the world's seed, so that one choice never moves another: new
entities change neither the ids nor the positions of the training cities, and therefore no answer about them.
The i-th city of the seeded order carries the i-th id of the seeded permutation of all ids, so a smaller world
of real cities is a part of every larger one of the same seed; new entities take their ids from the far end.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int64, Num, Shaped

from cwr_mech.artifacts import sha256_bytes
from cwr_mech.config import WorldConfig, parse
from cwr_mech.errors import UnknownName, WorldError
from cwr_mech.world.new_cities import NEW_PLACES, Invented, kinds_of
from cwr_mech.world.places import shared
from cwr_mech.world.sources import is_file, read_source

if TYPE_CHECKING:
    import pandas as pd

_ORDER, _IDS, _PLACES, _NEW_PLACES = range(4)


class City(NamedTuple):
    """One city: its row in the world's arrays, its id in texts, and what is known of it."""

    row: int
    id: int
    name: str
    x: int
    y: int
    region: str
    is_new: bool


@dataclass(frozen=True, eq=False, repr=False)
class World:
    """Cities, old ones first. Arrays are read-only; two worlds are the same when their `sha256` is.

    `ids`: what the text shows, zero-padded to `config.id_digits`. `xy`: whole units, by default tenths of
    a degree.
    `is_new`: the city is withheld from pretraining.
    """

    ids: Int64[np.ndarray, " city"]
    names: tuple[str, ...]
    xy: Int64[np.ndarray, "city 2"]
    region: Shaped[np.ndarray, " city"]
    is_new: Bool[np.ndarray, " city"]
    config: WorldConfig

    def __post_init__(self) -> None:
        for array in (self.ids, self.xy, self.region, self.is_new):
            array.setflags(write=False)

    @property
    def n(self) -> int:
        """Number of cities, new ones included."""
        return len(self.ids)

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        new = f", {int(self.is_new.sum())} of them new" if self.is_new.any() else ""
        return f"World({self.n} cities{new}, from {self.config.source})"

    def __getitem__(self, name: str | int) -> City:
        """The city of a name, whatever its case, or of an id.

        Raises UnknownName, or WorldError for an id that no city has and a name that several have.
        """
        if isinstance(name, str):
            found = [row for row, own in enumerate(self.names) if own.casefold() == name.casefold()]
            if not found:
                raise UnknownName("city", name, self.names)
            if len(found) > 1:
                ids = ", ".join(str(self.ids[row]) for row in found)
                raise WorldError(f"{len(found)} cities are called {name}", f"name one by its id: {ids}")
            row = found[0]
        else:
            row = int(self.rows(np.array([name]))[0])
        return self._city(row)

    def __iter__(self) -> Iterator[City]:
        return map(self._city, range(self.n))

    def _city(self, row: int) -> City:
        x, y = self.xy[row].tolist()
        place = str(self.region[row]), bool(self.is_new[row])
        return City(row, int(self.ids[row]), self.names[row], x, y, *place)

    def to_pandas(self) -> "pd.DataFrame":
        """A row a city: id, name, x, y, region, is_new."""
        import pandas as pd

        columns = {"id": self.ids, "name": self.names, "x": self.xy[:, 0], "y": self.xy[:, 1]}
        return pd.DataFrame(columns | {"region": self.region, "is_new": self.is_new})

    def old(self) -> Int64[np.ndarray, " old"]:
        """Rows of the cities that pretraining may show."""
        return np.flatnonzero(~self.is_new)

    def new(self) -> Int64[np.ndarray, " new"]:
        """Rows of the new cities."""
        return np.flatnonzero(self.is_new)

    @cached_property
    def _row_of(self) -> Int64[np.ndarray, " id"]:
        table = np.full(10**self.config.id_digits, -1, dtype=np.int64)
        table[self.ids] = np.arange(self.n)
        return table

    def rows(self, ids: Int[np.ndarray, "*shape"]) -> Int64[np.ndarray, "*shape"]:
        """Row of each city id, in the shape given. Raises WorldError on an id that no city has."""
        legal = (ids >= 0) & (ids < len(self._row_of))
        rows = np.where(legal, self._row_of[np.where(legal, ids, 0)], -1)
        if (rows < 0).any():
            missing = np.unique(ids[rows < 0])
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise WorldError(f"no city has the id {missing[0]}{more}", f"this world has {self.n} cities")
        return rows

    def xy_of(self, ids: Int[np.ndarray, "*shape"]) -> Int64[np.ndarray, "*shape 2"]:
        """Positions of city ids. Raises WorldError on an id that no city has."""
        return self.xy[self.rows(ids)]

    @property
    def shared(self) -> float:
        """Share of the cities at whose coordinates another city lies, too."""
        return shared(self.xy)

    @cached_property
    def sha256(self) -> str:
        """Digest of what the world holds: ids, positions, names, regions and which cities are new."""
        return cities_digest(self.ids, self.xy, self.is_new, self.names, self.region.tolist())


def cities_digest(
    ids: Int[np.ndarray, " city"],
    xy: Num[np.ndarray, "city 2"],
    is_new: Bool[np.ndarray, " city"],
    names: Sequence[str],
    region: Sequence[str],
) -> str:
    """Digest of cities by their content, whatever the arrays' types."""
    text = json.dumps([list(names), list(region)])
    arrays = (ids.astype("<i8"), xy.astype("<i8"), is_new)
    return sha256_bytes(text.encode(), *(array.tobytes() for array in arrays))


def load_world(config: WorldConfig | None = None, **overrides: Any) -> World:
    """The world that `config` describes, with single settings replaced by `overrides`.

    `n_cities` cities are a uniform random subset of the source's, kept in the source's order (by population
    for the shipped table); "all" takes every one, and a CSV file with fewer is taken whole. Ids are
    drawn without replacement from [id_min, 10**id_digits), or read from the CSV file if it has any.
    Overrides that change the source to a file and name no number of cities take the whole file.
    Raises ConfigError, UnknownName, MissingArtifact or WorldError.
    """
    config = config or WorldConfig()
    if overrides:
        config = parse(WorldConfig, config.changed(overrides))
    world = _source_world(config)
    regions, invented = kinds_of(config)
    for region in regions:
        world = _with_withheld(world, region)
    return _with_invented(world, invented) if invented else world


def _generator(config: WorldConfig, *stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=stream))


def id_range(config: WorldConfig) -> range:
    """All ids that a city may have. Raises WorldError when there is none."""
    lowest = 10 ** (config.id_digits - 1) if config.id_min is None else config.id_min
    ids = range(lowest, 10**config.id_digits)
    if not ids:
        raise WorldError(f"no id of {config.id_digits} digits is {lowest} or more", "lower id_min")
    return ids


def _id_order(config: WorldConfig, n: int) -> Int64[np.ndarray, " id"]:
    """All ids in seeded order. Raises WorldError when they are fewer than `n`."""
    ids = id_range(config)
    if len(ids) < n:
        raise WorldError(
            f"{n} cities do not fit into the {len(ids)} ids from {ids[0]} to {ids[-1]}",
            "use more id_digits, a lower id_min or fewer cities",
        )
    return _generator(config, _IDS).permutation(np.array(ids, dtype=np.int64))


def _source_world(config: WorldConfig) -> World:
    """The cities of the source with their ids, none of them new."""
    asked = None if config.n_cities == "all" else config.n_cities
    source = read_source(config, id_range(config), _generator(config, _PLACES))
    total = len(source.names)
    n = total if asked is None or (is_file(config.source) and asked > total) else asked
    if n > total:
        raise WorldError(f"{n} cities asked for, but the source '{config.source}' has {total}")
    order = _generator(config, _ORDER).permutation(total)[:n]
    by_source = np.argsort(order)
    kept = order[by_source]
    ids = _id_order(config, n)[:n][by_source] if source.ids is None else source.ids[kept]
    names = tuple(source.names[row] for row in kept)
    return World(ids, names, source.xy[kept], np.array(source.region)[kept], np.zeros(n, dtype=bool), config)


def _with_invented(world: World, kinds: Sequence[Invented]) -> World:
    """`world` and invented cities after its own, with ids that none of those has.

    A kind's cities are drawn from a stream of their own and take the next ids, so that a further kind moves
    none of those before it; the first kind's are those of a world that has it alone.
    """
    config, n = world.config, sum(kind.n for kind in kinds)
    free = _id_order(config, world.n + n)[::-1]
    free = free[~np.isin(free, world.ids)]
    streams = [(_NEW_PLACES,), *((_NEW_PLACES, number) for number in range(1, len(kinds)))]
    places = [
        NEW_PLACES[kind.kind](kind.n, _generator(config, *stream))
        for kind, stream in zip(kinds, streams, strict=True)
    ]
    names = (f"{kind.kind.capitalize()}_{number:03d}" for kind in kinds for number in range(1, kind.n + 1))
    return World(
        np.concatenate([world.ids, free[:n]]),
        world.names + tuple(names),
        np.concatenate([world.xy, *places]),
        np.concatenate([world.region, *(np.full(kind.n, kind.region) for kind in kinds)]),
        np.concatenate([world.is_new, np.ones(n, dtype=bool)]),
        config,
    )


def _with_withheld(world: World, region: str) -> World:
    """`world` with the cities of `region` moved to its end and flagged new."""
    named = {_plain(name): name for name in np.unique(world.region).tolist()}
    if _plain(region) not in named:
        raise UnknownName("region", region, named.values())
    is_new = world.is_new | (world.region == named[_plain(region)])
    if is_new.all():
        raise WorldError(f"all {world.n} cities lie in '{region}': withholding it leaves no world")
    rows = np.argsort(is_new, kind="stable")
    return World(
        world.ids[rows],
        tuple(world.names[row] for row in rows),
        world.xy[rows],
        world.region[rows],
        is_new[rows],
        world.config,
    )


def _plain(name: str) -> str:
    """A region's name as one may type it: case, hyphens and underscores do not count."""
    return name.replace("-", " ").replace("_", " ").casefold().strip()
