"""Writing activation files: whole or not at all, also when the disk is full.

The schema is `activations/README.md`; `cwr_mech.activations.reader` reads the files. A file is put together
in memory and then written in one go: HDF5 ends the process with a segmentation fault when a disk is full,
and loses data without a word when Ctrl-C falls into one of its writes through Python. Files too large for
that are written on the disk, after the space for them has been reserved.
"""

import errno
import hashlib
import io
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float, Int64

from cwr_mech.activations import h5
from cwr_mech.activations.reader import SCHEMA, Key
from cwr_mech.activations.texts import TokenRows
from cwr_mech.artifacts import atomic_file, provenance
from cwr_mech.errors import AnalysisError
from cwr_mech.tasks.tokenizer import Tokenizer
from cwr_mech.world.cities import World

CHUNK_ROWS = 1024
MOST_IN_MEMORY = 500_000_000
"""Bytes of arrays that are put together in memory."""
TEXT = h5py.string_dtype("utf-8")


class StoreWriter:
    """Fills an open file; made by `store_writer`."""

    def __init__(self, file: h5py.File, n_cities: int, keys: Collection[Key]) -> None:
        self._file, self._n, self._missing = file, n_cities, dict.fromkeys(keys, n_cities)

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

    def put_texts(self, task: str, rows: TokenRows) -> None:
        """Write what was read in a prompt of texts, row by row as the activations."""
        group = f"texts/{task}"
        self._file.create_dataset(f"{group}/text", data=list(rows.texts), dtype=TEXT)
        self._file.create_dataset(f"{group}/tokens", data=rows.tokens.astype("<i4"))
        self._file.create_dataset(f"{group}/span", data=rows.span.astype("<i4"))
        if rows.answer is not None:
            self._file.create_dataset(f"{group}/answer", data=rows.answer.astype("<i4"))

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
    n_bytes: int = 0,
) -> Iterator[StoreWriter]:
    """Yield a StoreWriter for all `hooks` x `tasks` x `sites`; the file appears at `path` when all is there.

    `attrs` are added to the root attributes (texts and whole numbers): `run`, `step`, `model_sha256`, ...
    `partners`: task -> city ids of the other cities in each city's question. `n_bytes`: how large the arrays
    will be together; a large file is written on the disk, in space that is reserved first.
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
    with _new_file(Path(path), n_bytes) as file:
        file.attrs.update({**root, **(attrs or {})})
        for name, values in (("id", world.ids), ("x", world.xy[:, 0]), ("y", world.xy[:, 1])):
            file.create_dataset(f"cities/{name}", data=values.astype("<i8"))
        file.create_dataset("cities/is_new", data=world.is_new.astype("u1"))
        file.create_dataset("cities/region", data=[str(region) for region in world.region], dtype=TEXT)
        file.create_dataset("cities/name", data=list(world.names), dtype=TEXT)
        for task, ids in (partners or {}).items():
            file.create_dataset(f"partners/{task}", data=ids.astype("<i8"))
        keys = [(hook, task, site) for hook in hooks for task in tasks for site in sites]
        writer = StoreWriter(file, world.n, keys)
        yield writer
        writer.finish()


@contextmanager
def _new_file(path: Path, n_bytes: int) -> Iterator[h5py.File]:
    """An HDF5 file to fill, sealed and put at `path` when all went well."""
    if n_bytes <= MOST_IN_MEMORY:
        memory = io.BytesIO()
        with h5py.File(memory, "w") as file:
            yield file
        with atomic_file(path) as part, part.open("wb") as written:
            written.write(memory.getbuffer())
            written.write(h5.sealed(memory.getbuffer()))
        return
    with atomic_file(path) as part:
        _reserve(part, n_bytes)
        with h5py.File(part, "w", locking=False) as file:  # by its path: no write of HDF5 runs Python
            yield file
        with part.open("r+b") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
            written.seek(0, os.SEEK_END)
            written.write(h5.seal_line(digest))


def _reserve(file: Path, n_bytes: int) -> None:
    """Ask the disk for space, so that a full one is found here and not inside HDF5. Raises OSError."""
    with file.open("r+b") as handle:
        try:
            os.posix_fallocate(handle.fileno(), 0, n_bytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):  # a disk that cannot
                raise


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
