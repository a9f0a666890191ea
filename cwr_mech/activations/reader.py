"""Activation files: what a model holds about each city, one HDF5 file for each model state.

`activations/README.md` is the schema. `cwr_mech.activations.extract.extract` makes the files from a model and
`cwr_mech.activations.writer.write_store` from arrays; here they are read, with every fault named, and joined
on city ids.
"""

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import h5py
import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from cwr_mech.activations import h5
from cwr_mech.activations.site import HOOKS, Site
from cwr_mech.activations.texts import TokenRows
from cwr_mech.artifacts import other_schema, require_file, sha256_bytes, sha256_file
from cwr_mech.config import WorldConfig, parse
from cwr_mech.errors import (
    AnalysisError,
    ArtifactError,
    ArtifactLocked,
    CorruptArtifact,
    MissingArtifact,
    one_of,
)
from cwr_mech.world.cities import World, cities_digest

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

SCHEMA = "cwr-mech/activations/1"
EMBED, FINAL = HOOKS["embed"], HOOKS["final"]
IDENTITY = "#model+world"
AXES = ("hooks", "tasks", "sites")
MOST_COORDINATE = 2**31
CITY_GROUPS = ("old", "new", "all")
OPTIONAL: dict[str, str | int] = {"run": "", "step": -1, "tokenizer_sha256": "", "folder": ""}
"""Attributes that a file may do without, and what stands for them then."""

Key = tuple[str, str, str]
"""(hook, task, site)."""


def activations_path(run: str, step: int | None, root: Path | str = "activations") -> Path:
    """Where `cwr-mech cache-acts` puts the file of a run's step; step None is the untrained model.

    `run` is its `Run.reference`. A model of the zoo, zoo:NAME, has the file zoo-NAME-stepN.h5; a run that
    lies elsewhere than in runs/ has its path in the name, FOLDER%2FNAME-stepN.h5, so that runs of one name
    have files of their own.
    """
    run = f"zoo-{run.removeprefix('zoo:')}" if run.startswith("zoo:") else quote(run, safe="+")
    return Path(root) / (f"{run}-untrained.h5" if step is None else f"{run}-step{step}.h5")


def rebuild_command(path: Path | str) -> str:
    """The command that makes an activation file, with run and step where the file's name tells them."""
    named = re.fullmatch(r"(.+)-(untrained|step(\d+))\.h5", Path(path).name)
    if not named:
        return "cwr-mech cache-acts RUN"
    run = shlex.quote(unquote(re.sub("^zoo-", "zoo:", named[1])))
    return f"cwr-mech cache-acts {run} {f'--step {named[3]}' if named[3] else '--untrained'}"


def digests(store: "ActivationStore") -> dict[str, str]:
    """What a result records of an activation file it was computed from: the file's sha256, and under
    NAME#model+world the identity of what it was made from, which no processor changes.
    """
    name = store.path.as_posix()
    return {name: sha256_file(store.path), f"{name}{IDENTITY}": identity(store)}


def identity(store: "ActivationStore") -> str:
    """sha256 of the hashes of the model and the world that an activation file was made from."""
    return sha256_bytes(f"{store.attrs['model_sha256']} {store.attrs['world_sha256']}".encode())


class ActivationStore:
    """An activation file, open for reading. Arrays are read when asked for.

    attrs: root attributes. reads_text: whether the prompts are texts about entities (see `token_rows`), not
    our questions about cities. city_ids int64 [city], xy float64 [city 2] in tenths of a degree, region and
    names [city] texts, is_new bool [city]. hooks, tasks, sites: what there is, in the order asked for.
    A group of cities is always said, or is the training cities: new ones never slip into a mean or a fit.
    """

    def __init__(
        self, path: Path | str, *, world: World | None = None, model_sha256: str | None = None
    ) -> None:
        """Open a file; with `world` or `model_sha256`, insist that it was made from these.

        Raises MissingArtifact, CorruptArtifact (truncated, changed, or another kind of file), SchemaMismatch,
        ArtifactLocked (another program writes it), or AnalysisError for another world or model. Each hint
        names the command that makes the file anew.
        """
        self.path = Path(path)
        self._held, self._depth = ExitStack(), 0
        self._open: h5py.File | None = None
        self._hint = f"make it with: {rebuild_command(path)}"
        self._check_file()
        with self._file() as file:
            self.attrs = self._read_attrs(file)
            self.hooks, self.tasks, self.sites = (self._list(axis) for axis in AXES)
            self._read_cities(file)
            self.partners = self._read_partners(file)
            self.reads_text = file.get("texts", getlink=True) is not None
            self._widths = self._read_widths(file)
        if world is not None and world.sha256 != self.attrs["world_sha256"]:
            raise AnalysisError(f"{self.path} was made with another world", self._hint)
        if model_sha256 is not None and model_sha256 != self.attrs["model_sha256"]:
            raise AnalysisError(f"{self.path} was made from another state of the model", self._hint)

    def __enter__(self) -> "ActivationStore":
        """Keep the file open until the end of the outermost block, instead of opening it for each array."""
        self._depth += 1
        if self._depth == 1:
            self._open = self._held.enter_context(self._file())
        return self

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._open = None
            self._held.close()

    def _check_file(self) -> None:
        """A file to read, that nobody writes, with the bytes it was written with."""
        if not self.path.exists():
            raise MissingArtifact(f"no such activation file: {self.path}", self._hint)
        require_file(self.path, self._hint)
        if h5.held_by_writer(self.path):
            raise ArtifactLocked(
                f"{self.path} is open for writing in another program", "close it there: a notebook, perhaps"
            )
        try:
            h5.check_seal(self.path)
        except h5.Damaged as error:
            raise self._corrupt(str(error)) from error

    @contextmanager
    def _file(self) -> Iterator[h5py.File]:
        if self._open is not None:
            yield self._open
            return
        if not self.path.is_file():
            raise MissingArtifact(f"no such activation file: {self.path}", self._hint)
        try:
            with h5.opened(self.path) as file:
                yield file
        except h5.Damaged as error:
            raise self._corrupt(str(error)) from error

    def _corrupt(self, reason: str) -> CorruptArtifact:
        return CorruptArtifact(f"{self.path} {reason}", self._hint)

    def _read_attrs(self, file: h5py.File) -> dict[str, Any]:
        found = {**OPTIONAL, **h5.attributes(file)}
        schema = found.get("schema")
        if not str(schema).startswith("cwr-mech/activations/"):
            raise self._corrupt("is an HDF5 file of another program: it has no cwr-mech schema")
        if schema != SCHEMA:
            raise other_schema(self.path, schema, SCHEMA, self._hint)
        for name in ("world_sha256", "model_sha256", *AXES):
            if not isinstance(found.get(name), str):
                raise self._corrupt(f"has no attribute '{name}' that is a text")
        for name, value in OPTIONAL.items():
            if type(found[name]) is not type(value):
                raise self._corrupt(f"has a broken attribute '{name}'")
        return found

    def _list(self, axis: str) -> tuple[str, ...]:
        try:
            names = json.loads(self.attrs[axis])
        except (ValueError, RecursionError) as error:
            raise self._corrupt(f"has a broken attribute '{axis}'") from error
        plain = isinstance(names, list) and all(
            isinstance(name, str) and name.isprintable() and name for name in names
        )
        if not plain or not names or len(set(names)) != len(names):
            raise self._corrupt(f"has a broken attribute '{axis}'")
        return tuple(names)

    def _read_cities(self, file: h5py.File) -> None:
        """The columns of `cities/`, which the digest of the world vouches for."""
        self.city_ids: Int64[np.ndarray, " city"] = h5.numbers(file, "cities/id", "iu", 1).astype(np.int64)
        xy = [h5.numbers(file, f"cities/{name}", "iuf", 1) for name in "xy"]
        is_new = h5.numbers(file, "cities/is_new", "iub", 1)
        self.region, self.names = h5.texts(file, "cities/region"), h5.texts(file, "cities/name")
        columns = (self.city_ids, *xy, is_new, self.region, self.names)
        if len({len(column) for column in columns}) > 1 or not len(self.city_ids):
            raise self._corrupt("has columns of cities of different lengths, or none")
        self.xy: Float[np.ndarray, "city 2"] = np.stack(xy, axis=1).astype(np.float64)
        self._row_of = {city: row for row, city in enumerate(self.city_ids.tolist())}
        if len(self._row_of) != len(self.city_ids):
            raise self._corrupt("names a city twice")
        if not (np.abs(self.xy) < MOST_COORDINATE).all() or (self.xy != np.rint(self.xy)).any():
            raise self._corrupt("holds cities whose places are not whole tenths of a degree")
        self.is_new: Bool[np.ndarray, " city"] = is_new.astype(bool)
        found = cities_digest(self.city_ids, self.xy, self.is_new, self.names.tolist(), self.region.tolist())
        if found != self.attrs["world_sha256"]:
            raise self._corrupt("holds other cities than its world_sha256 says")

    def _read_partners(self, file: h5py.File) -> dict[str, Int64[np.ndarray, "city k"]]:
        if file.get("partners", getlink=True) is None:
            return {}
        group = file["partners"]
        if not isinstance(group, h5py.Group):
            raise self._corrupt("has a broken group 'partners'")
        found = {name: h5.numbers(file, f"partners/{name}", "iu", 2) for name in group if name in self.tasks}
        if any(len(ids) != len(self) for ids in found.values()):
            raise self._corrupt("has partners for another number of cities")
        return {name: ids.astype(np.int64) for name, ids in found.items()}

    def _read_widths(self, file: h5py.File) -> dict[str, int]:
        """Hook -> numbers a city. Every array is there, of floats, with a row a city."""
        widths: dict[str, int] = {}
        for hook, task, site in product(self.hooks, self.tasks, self.sites):
            name = f"acts/{hook}/{task}/{site}"
            found = h5.dataset(file, name)
            if found.dtype.kind != "f" or found.ndim != 2:
                raise self._corrupt(f"holds {found.dtype} of shape {found.shape} at {name}")
            if found.shape[0] != len(self):
                raise self._corrupt(f"holds {found.shape[0]} rows of {name} for {len(self)} cities")
            if found.shape[1] != widths.setdefault(hook, found.shape[1]) or not found.shape[1]:
                raise self._corrupt(f"holds arrays of different widths at {hook}")
        return widths

    def world(self) -> World:
        """The cities, or the entities of texts, as a world."""
        settings = parse(WorldConfig, json.loads(str(self.attrs.get("world") or "{}")))
        xy = self.xy.astype(np.int64)
        return World(self.city_ids, tuple(self.names.tolist()), xy, self.region, self.is_new, settings)

    def token_rows(self, task: str) -> TokenRows:
        """What was read in a prompt. Raises UnknownName, CorruptArtifact, or AnalysisError without texts."""
        if not self.reads_text:
            raise AnalysisError(f"{self.path} holds questions about cities, not texts")
        group = f"texts/{self._known('task', task, self.tasks)}"
        with self._file() as file:
            texts = h5.texts(file, f"{group}/text")
            tokens, span = (h5.numbers(file, f"{group}/{name}", "iu", 2) for name in ("tokens", "span"))
            known = file.get(f"{group}/answer", getlink=True) is not None
            answer = h5.numbers(file, f"{group}/answer", "iu", 1).astype(np.int32) if known else None
        found = TokenRows(tuple(texts.tolist()), tokens.astype(np.int32), span.astype(np.int32), answer)
        if not found.fits(len(self)):
            raise self._corrupt(f"holds broken tokens in {group}")
        return found

    def width(self, hook: str | int) -> int:
        """Numbers a city at a hook. Raises UnknownName."""
        return self._widths[self._known("hook", Site.parse(hook).hook, self.hooks)]

    def _known(self, kind: str, name: str, choices: Sequence[str]) -> str:
        return one_of(f"{kind} in {self.path.name}", name, choices)

    def rows(self, ids: Int[np.ndarray, " picked"] | Iterable[int]) -> Int64[np.ndarray, " picked"]:
        """Row of each city id. Raises AnalysisError for an id that is not in the file."""
        wanted = np.asarray(ids).tolist()
        missing = [city for city in wanted if city not in self._row_of]
        if missing:
            raise AnalysisError(f"{self.path} holds no city {missing[0]} ({len(missing)} of the ids asked)")
        return np.array([self._row_of[city] for city in wanted], dtype=np.int64)

    def get(
        self,
        hook: str | int,
        task: str,
        site: str = "last_digit",
        ids: Int[np.ndarray, " picked"] | None = None,
    ) -> Float[np.ndarray, "city width"]:
        """Activations in float64, a row for each city (or each of `ids`, in that order).

        `hook`: a hook name or a layer as `Site.parse` takes it. `site`: one of `sites`, or several joined by
        "+", whose vectors are put side by side ("last_digit+delimiter" is the paper's choice).
        Rows of all cities, new ones included, unless `ids` says which: `store[hook, task, site]` takes the
        training cities alone. Raises UnknownName, AnalysisError for an id that is not there, CorruptArtifact
        for NaN.
        """
        found = self._known("hook", Site.parse(hook).hook, self.hooks)
        place = f"{found}/{self._known('task', task, self.tasks)}"
        parts = []
        with self._file() as file:
            for single in site.split("+"):
                name = f"acts/{place}/{self._known('site', single, self.sites)}"
                values = h5.numbers(file, name, "f", 2).astype(np.float64)
                if not np.isfinite(values).all():
                    raise self._corrupt(f"holds values that are not finite in {name}")
                parts.append(values)
        joined = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        return joined if ids is None else joined[self.rows(ids)]

    def __len__(self) -> int:
        return len(self.city_ids)

    def __repr__(self) -> str:
        new = f" ({int(self.is_new.sum())} new)" if self.is_new.any() else ""
        axes = f"{len(self.hooks)} hooks x {len(self.tasks)} prompts x {len(self.sites)} sites"
        return f"ActivationStore({str(self.path)!r}: {len(self)} cities{new}, {axes})"

    def __getitem__(self, place: tuple[str | int, ...]) -> Float[np.ndarray, "city width"]:
        """`store[hook, prompt, site]`: training cities; with a fourth word, "new",
        the new ones, "all" both. Rows are those of `store.select(...)`. Raises what `get` raises.
        """
        hook, task, site, *group = place
        ids = self.select(str(group[0]) if group else "old")
        return self.get(hook, str(task), str(site), ids)

    def select(self, cities: str = "old") -> Int64[np.ndarray, " picked"]:
        """Ids of the "old" (training) cities, the "new" ones or "all", in the file's order.

        Raises UnknownName, or AnalysisError where there is none.
        """
        one_of("group of cities", cities, CITY_GROUPS)
        kept = {"old": ~self.is_new, "new": self.is_new, "all": np.ones(len(self), dtype=bool)}[cities]
        if not kept.any():
            raise AnalysisError(f"{self.path} holds no {cities} city")
        return self.city_ids[kept]

    def to_pandas(self, hook: str | int, task: str, site: str, cities: str = "old") -> "pd.DataFrame":
        """A row a city of the group by id: name, x, y, region, is_new, then the activation 0, 1, ..."""
        import pandas as pd

        ids = self.select(cities)
        x = pd.DataFrame(self.get(hook, task, site, ids), index=pd.Index(ids, name="id"))
        return pd.concat([pd.DataFrame(self._about(ids), index=x.index), x], axis=1)

    def to_xarray(self, hooks: Sequence[str | int] | None = None, cities: str = "old") -> "xr.DataArray":
        """[hook prompt site city width] with names on all axes; hooks of one width, by default all.

        Needs the package xarray (`pip install cwr-mech[xarray]`). Raises AnalysisError for hooks of different
        widths, UnknownName.
        """
        import xarray as xr

        chosen = self.hooks if hooks is None else [Site.parse(hook).hook for hook in hooks]
        if len({self.width(hook) for hook in chosen}) > 1:
            raise AnalysisError("hooks of different widths do not fit one array", "name hooks of one width")
        ids = self.select(cities)
        with self:
            values = [[[self.get(h, t, s, ids) for s in self.sites] for t in self.tasks] for h in chosen]
        about = {name: ("city", column) for name, column in self._about(ids).items()}
        axes = {"hook": list(chosen), "prompt": list(self.tasks), "site": list(self.sites), "city": ids}
        return xr.DataArray(np.array(values), dims=(*axes, "width"), coords=axes | about, name="activation")

    def _about(self, ids: Int64[np.ndarray, " picked"]) -> dict[str, np.ndarray]:
        """What is known of some cities, as columns."""
        rows = self.rows(ids)
        places = {"x": self.xy[rows, 0], "y": self.xy[rows, 1]}
        return (
            {"name": self.names[rows]} | places | {"region": self.region[rows], "is_new": self.is_new[rows]}
        )


def reusable(
    path: Path | str, *, world: World | None = None, model_sha256: str | None = None
) -> ActivationStore | None:
    """The file at `path`; None where it must be made: it is missing, broken, or of another world or model."""
    try:
        return ActivationStore(path, world=world, model_sha256=model_sha256)
    except (ArtifactError, AnalysisError):
        return None


def join(a: ActivationStore, b: ActivationStore) -> Int64[np.ndarray, " common"]:
    """City ids that two files share, in the order of `a`, for `get(..., ids=...)` on both.

    Raises AnalysisError when there are none, or when worlds differ in where a shared city lies.
    """
    common = a.city_ids[np.isin(a.city_ids, b.city_ids)]
    if not len(common):
        raise AnalysisError(f"{a.path} and {b.path} have no city in common")
    if a.attrs["world_sha256"] != b.attrs["world_sha256"]:
        here, there = a.xy[a.rows(common)], b.xy[b.rows(common)]
        moved = np.flatnonzero((here != there).any(axis=1))
        if len(moved):
            raise AnalysisError(
                f"{a.path} and {b.path} are about different worlds: city {common[moved[0]]} lies elsewhere "
                f"in each ({len(moved)} of {len(common)} common ids)",
                "compare models of the same world",
            )
    return common
