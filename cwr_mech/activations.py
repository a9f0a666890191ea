"""Activation files: what a model holds about each city, one HDF5 file for each model state.

`activations/README.md` is the schema. `cwr_mech.extraction.extract` makes the files from a model; here they
are written from arrays, read back with every fault named, and joined on city ids.
"""

import io
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, Int, Int64

from cwr_mech.artifacts import atomic_file, provenance
from cwr_mech.errors import (
    AnalysisError,
    CorruptArtifact,
    MissingArtifact,
    SchemaMismatch,
    UnknownName,
)
from cwr_mech.tokenizer import Tokenizer
from cwr_mech.world import World

SCHEMA = "cwr-mech/activations/1"
EMBED, FINAL = "hook_embed", "unembed.hook_in"
AXES = ("hooks", "tasks", "sites")
CHUNK_ROWS = 1024
TEXT = h5py.string_dtype("utf-8")

Key = tuple[str, str, str]
"""(hook, task, site)."""


def hook_of(layer: str | int) -> str:
    """Hook name of a layer: "embed", 0, 1, ... (after that block), "final" (after the final norm).

    Layers count from 0 as in TransformerLens; the paper's layer L is our L - 1, its last is "final".
    A full hook name is returned as it is.
    """
    text = str(layer)
    if text == "embed":
        return EMBED
    if text == "final":
        return FINAL
    return f"blocks.{text}.hook_resid_post" if text.isdigit() else text


def activations_path(run: str, step: int | None, root: Path | str = "activations") -> Path:
    """Where `cwr-mech cache-acts` puts the file of a run's step; step None is the untrained model."""
    return Path(root) / (f"{run}-untrained.h5" if step is None else f"{run}-step{step}.h5")


def rebuild_command(path: Path | str) -> str:
    """The command that makes an activation file, with run and step where the file's name tells them."""
    named = re.fullmatch(r"(.+)-(untrained|step(\d+))\.h5", Path(path).name)
    if not named:
        return "cwr-mech cache-acts RUN"
    return f"cwr-mech cache-acts {named[1]} {f'--step {named[3]}' if named[3] else '--untrained'}"


class _Disk(io.FileIO):
    """A new file whose write errors wait for the end: HDF5 crashes the process when the disk is full.

    After the first error nothing more is written; `check` raises it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of `data`, or keep the error."""
        view = memoryview(data).cast("B")
        done = 0
        while self.error is None and done < len(view):
            try:
                done += super().write(view[done:]) or 0
            except OSError as error:
                self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the size, or keep the error."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def check(self) -> None:
        """Raise the error that was kept."""
        if self.error is not None:
            raise self.error


class StoreWriter:
    """Fills an open file; made by `store_writer`."""

    def __init__(self, file: h5py.File, disk: _Disk, n_cities: int, keys: Collection[Key]) -> None:
        self._disk, self._file, self._n, self._missing = disk, file, n_cities, dict.fromkeys(keys, n_cities)

    def put(self, key: Key, start: int, values: Float[np.ndarray, "row width"]) -> None:
        """Write the rows from `start` on. Raises AnalysisError where a value is not a finite number."""
        if not np.isfinite(values).all():
            raise AnalysisError(
                f"activations at {key[0]} for {key[1]} are not finite", "the model's weights are broken"
            )
        name = "acts/" + "/".join(key)
        if name not in self._file:
            width = values.shape[1]
            rows = min(self._n, CHUNK_ROWS)
            self._file.create_dataset(name, (self._n, width), np.float32, chunks=(rows, width))
        self._file[name][start : start + len(values)] = values
        self._missing[key] -= len(values)
        self._disk.check()

    def finish(self) -> None:
        """Raise AnalysisError when an array is missing or incomplete."""
        for key, missing in self._missing.items():
            if missing:
                raise AnalysisError(f"{missing} of {self._n} rows of {'/'.join(key)} were not written")


@contextmanager
def store_writer(
    path: Path | str,
    world: World,
    hooks: Sequence[str],
    tasks: Sequence[str],
    sites: Sequence[str],
    *,
    attrs: Mapping[str, str | int] | None = None,
    partners: Mapping[str, Int64[np.ndarray, "city k"]] | None = None,
) -> Iterator[StoreWriter]:
    """Yield a StoreWriter for all `hooks` x `tasks` x `sites`; the file appears at `path` when all is there.

    `attrs` are added to the root attributes (texts and whole numbers): `run`, `step`, `model_sha256`, ...
    `partners`: task -> city ids of the other cities in each city's question.
    """
    root: dict[str, str | int] = {
        "schema": SCHEMA,
        "run": "",
        "step": -1,
        "model_sha256": "",
        "tokenizer_sha256": Tokenizer().sha256,
        "world_sha256": world.sha256,
        "world": world.config.model_dump_json(),
        "hooks": json.dumps(list(hooks)),
        "tasks": json.dumps(list(tasks)),
        "sites": json.dumps(list(sites)),
        "versions": json.dumps(provenance()),
    }
    with atomic_file(path) as part, _Disk(part) as disk:
        with h5py.File(disk, "w") as file:
            file.attrs.update({**root, **(attrs or {})})
            for name, values in (("id", world.ids), ("x", world.xy[:, 0]), ("y", world.xy[:, 1])):
                file.create_dataset(f"cities/{name}", data=values.astype("<i8"))
            file.create_dataset("cities/is_new", data=world.is_new.astype("u1"))
            file.create_dataset("cities/region", data=[str(region) for region in world.region], dtype=TEXT)
            file.create_dataset("cities/name", data=list(world.names), dtype=TEXT)
            for task, ids in (partners or {}).items():
                file.create_dataset(f"partners/{task}", data=ids.astype("<i8"))
            keys = [(hook, task, site) for hook in hooks for task in tasks for site in sites]
            writer = StoreWriter(file, disk, world.n, keys)
            yield writer
            writer.finish()
        disk.check()


def write_store(
    path: Path | str,
    world: World,
    arrays: Mapping[Key, Float[np.ndarray, "city width"]],
    *,
    attrs: Mapping[str, str | int] | None = None,
) -> None:
    """Write arrays given by (hook, task, site), rows in the order of `world`, as an activation file.

    Every combination of the hooks, tasks and sites named must be there. Raises AnalysisError.
    """
    hooks, tasks, sites = (list(dict.fromkeys(key[axis] for key in arrays)) for axis in range(3))
    with store_writer(path, world, hooks, tasks, sites, attrs=attrs) as writer:
        for key, values in arrays.items():
            writer.put(key, 0, values)


class ActivationStore:
    """An activation file, open for reading. Arrays are read when asked for.

    attrs: root attributes. city_ids int64 [city], xy float64 [city 2] in tenths of a degree, region and names
    [city] texts, is_new bool [city]. hooks, tasks, sites: what there is, in the order it was asked for.
    """

    def __init__(
        self, path: Path | str, *, world: World | None = None, model_sha256: str | None = None
    ) -> None:
        """Open a file; with `world` or `model_sha256`, insist that it was made from these.

        Raises MissingArtifact, CorruptArtifact (truncated, or another kind of file), SchemaMismatch, or
        AnalysisError for another world or model. Each hint names the command that makes the file anew.
        """
        self.path = Path(path)
        self._hint = f"make it with: {rebuild_command(path)}"
        with self._file() as file:
            self.attrs = self._read_attrs(file)
            self.hooks, self.tasks, self.sites = (tuple(json.loads(self.attrs[axis])) for axis in AXES)
            self.city_ids: Int64[np.ndarray, " city"] = self._column(file, "id").astype(np.int64)
            xy = [self._column(file, "x"), self._column(file, "y")]
            self.xy: Float[np.ndarray, "city 2"] = np.stack(xy, axis=1).astype(np.float64)
            self.is_new = self._column(file, "is_new").astype(bool)
            self.region = self._texts(file, "region")
            self.names = self._texts(file, "name")
            self.partners = {
                task: data[()].astype(np.int64) for task, data in file.get("partners", {}).items()
            }
            self._check_arrays(file)
        self._row_of = {city: row for row, city in enumerate(self.city_ids.tolist())}
        if len(self._row_of) != len(self.city_ids):
            raise self._corrupt("names a city twice")
        if world is not None and world.sha256 != self.attrs["world_sha256"]:
            raise AnalysisError(f"{self.path} was made with another world", self._hint)
        if model_sha256 is not None and model_sha256 != self.attrs["model_sha256"]:
            raise AnalysisError(f"{self.path} was made from another state of the model", self._hint)

    def __len__(self) -> int:
        return len(self.city_ids)

    @contextmanager
    def _file(self) -> Iterator[h5py.File]:
        if not self.path.exists():
            raise MissingArtifact(f"no such activation file: {self.path}", self._hint)
        if not self.path.is_file() or not h5py.is_hdf5(self.path):
            raise self._corrupt("is not an HDF5 file")
        try:
            file = h5py.File(self.path, "r")
        except OSError as error:
            reason = "is truncated" if "truncated" in str(error) else f"cannot be opened: {error}"
            raise self._corrupt(reason) from error
        with file:
            try:
                yield file
            except (OSError, KeyError, RuntimeError) as error:
                raise self._corrupt(f"is damaged: {error}") from error

    def _corrupt(self, reason: str) -> CorruptArtifact:
        return CorruptArtifact(f"{self.path} {reason}", self._hint)

    def _read_attrs(self, file: h5py.File) -> dict[str, Any]:
        found = {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in file.attrs.items()
        }
        schema = found.get("schema")
        if not str(schema).startswith("cwr-mech/activations/"):
            raise self._corrupt("is an HDF5 file of another program: it has no cwr-mech schema")
        if schema != SCHEMA:
            raise SchemaMismatch(
                f"{self.path} has schema '{schema}'; this version reads '{SCHEMA}'", self._hint
            )
        for name in ("world_sha256", "model_sha256", *AXES):
            if name not in found:
                raise self._corrupt(f"has no attribute '{name}'")
        return found

    @staticmethod
    def _column(file: h5py.File, name: str) -> np.ndarray:
        return np.asarray(file[f"cities/{name}"][()])

    @staticmethod
    def _texts(file: h5py.File, name: str) -> np.ndarray:
        return np.array(file[f"cities/{name}"].asstr()[()], dtype=str)

    def _check_arrays(self, file: h5py.File) -> None:
        for hook in self.hooks:
            for task in self.tasks:
                for site in self.sites:
                    name = f"acts/{hook}/{task}/{site}"
                    if name not in file:
                        raise self._corrupt(f"has no array {name}")
                    if file[name].shape[0] != len(self.city_ids):
                        raise self._corrupt(
                            f"holds {file[name].shape[0]} rows of {name} for {len(self)} cities"
                        )

    def rows(self, ids: Int[np.ndarray, " picked"] | Iterable[int]) -> Int64[np.ndarray, " picked"]:
        """Row of each city id. Raises AnalysisError for an id that is not in the file."""
        wanted = np.asarray(ids).tolist()
        missing = [city for city in wanted if city not in self._row_of]
        if missing:
            raise AnalysisError(
                f"{self.path} holds no city {missing[0]} ({len(missing)} of the ids asked for)"
            )
        return np.array([self._row_of[city] for city in wanted], dtype=np.int64)

    def get(
        self,
        hook: str | int,
        task: str,
        site: str = "last_digit",
        ids: Int[np.ndarray, " picked"] | None = None,
    ) -> Float[np.ndarray, "city width"]:
        """Activations in float64, a row for each city (or each of `ids`, in that order).

        `hook`: a hook name or a layer as `hook_of` takes it. `site`: one of `sites`, or several joined by
        "+", whose vectors are put side by side ("last_digit+delimiter" is the paper's choice).
        Raises UnknownName, AnalysisError for an id that is not there, CorruptArtifact for NaN.
        """
        hook = hook_of(hook)
        for kind, name, choices in (("hook", hook, self.hooks), ("task", task, self.tasks)):
            if name not in choices:
                raise UnknownName(f"{kind} in {self.path.name}", name, choices)
        parts = []
        with self._file() as file:
            for single in site.split("+"):
                if single not in self.sites:
                    raise UnknownName(f"site in {self.path.name}", single, self.sites)
                values = file[f"acts/{hook}/{task}/{single}"][()].astype(np.float64)
                if not np.isfinite(values).all():
                    raise self._corrupt(f"holds values that are not finite in {hook}/{task}/{single}")
                parts.append(values)
        joined = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        return joined if ids is None else joined[self.rows(ids)]


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
