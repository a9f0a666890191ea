"""Activation files: what a model holds about each city, one HDF5 file for each model state.

`activations/README.md` is the schema. `cwr_mech.activations.extract.extract` makes the files from a model and
`cwr_mech.activations.writer.write_store` from arrays; here they are read, with every fault named, and joined
on city ids.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, Int, Int64

from cwr_mech.errors import (
    AnalysisError,
    CorruptArtifact,
    MissingArtifact,
    SchemaMismatch,
    UnknownName,
)
from cwr_mech.world.cities import World

SCHEMA = "cwr-mech/activations/1"
EMBED, FINAL = "hook_embed", "unembed.hook_in"
MAGIC = b"\x89HDF\r\n\x1a\n"
AXES = ("hooks", "tasks", "sites")

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
    """Where `cwr-mech cache-acts` puts the file of a run's step; step None is the untrained model.

    A model of the zoo, zoo:NAME, has the file zoo-NAME-stepN.h5.
    """
    run = run.replace(":", "-")
    return Path(root) / (f"{run}-untrained.h5" if step is None else f"{run}-step{step}.h5")


def rebuild_command(path: Path | str) -> str:
    """The command that makes an activation file, with run and step where the file's name tells them."""
    named = re.fullmatch(r"(.+)-(untrained|step(\d+))\.h5", Path(path).name)
    if not named:
        return "cwr-mech cache-acts RUN"
    run = re.sub("^zoo-", "zoo:", named[1])
    return f"cwr-mech cache-acts {run} {f'--step {named[3]}' if named[3] else '--untrained'}"


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
            self.hooks, self.tasks, self.sites = (self._list(axis) for axis in AXES)
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
        if not self._is_hdf5():
            raise self._corrupt("is not an HDF5 file")
        try:
            file = h5py.File(self.path, "r")
        except OSError as error:
            raise self._corrupt("is a truncated or damaged HDF5 file") from error
        with file:
            try:
                yield file
            except (OSError, KeyError, RuntimeError) as error:
                raise self._corrupt(f"is damaged: {error}") from error

    def _is_hdf5(self) -> bool:
        """By its first bytes; h5py.is_hdf5 also says no to a file cut off early."""
        if not self.path.is_file():
            return False
        with open(self.path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC

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

    def _list(self, axis: str) -> tuple[str, ...]:
        try:
            return tuple(map(str, json.loads(self.attrs[axis])))
        except (TypeError, ValueError) as error:
            raise self._corrupt(f"has a broken attribute '{axis}'") from error

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

    def width(self, hook: str | int) -> int:
        """Numbers a city at a hook. Raises UnknownName."""
        name = self._known("hook", hook_of(hook), self.hooks)
        with self._file() as file:
            return int(file[f"acts/{name}/{self.tasks[0]}/{self.sites[0]}"].shape[1])

    def _known(self, kind: str, name: str, choices: Sequence[str]) -> str:
        if name not in choices:
            raise UnknownName(f"{kind} in {self.path.name}", name, choices)
        return name

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
        place = f"{self._known('hook', hook_of(hook), self.hooks)}/{self._known('task', task, self.tasks)}"
        parts = []
        with self._file() as file:
            for single in site.split("+"):
                name = f"acts/{place}/{self._known('site', single, self.sites)}"
                values = file[name][()].astype(np.float64)
                if not np.isfinite(values).all():
                    raise self._corrupt(f"holds values that are not finite in {name}")
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
