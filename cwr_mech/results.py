"""What an analysis found: one frozen object, saved as JSON (numbers, tables) beside an npz (arrays).

Figures and reports read these files and nothing else, so every number in a report can be traced to its
file, and a report can be rebuilt. Schema "cwr-mech/result/1":

NAME.json   {"schema", "kind", "command", "inputs", "params", "values", "tables", "notes", "provenance",
             "arrays": {array name: {"shape", "dtype", "sha256"}}, "sha256": digest of all the other fields}
NAME.npz    the arrays, readable with `numpy.load`; absent when there are none

The two are one unit. New arrays are written as NAME.next.npz, then the JSON takes its place, then they take
theirs: a process killed in between leaves the old pair or the new one, and the next save tidies up.

A number that is undefined (NaN) is stored as null, and `notes` says why it is. Infinity is refused.
"""

import json
import math
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from cwr_mech.artifacts import (
    atomic_file,
    one_line,
    one_writer,
    other_schema,
    provenance,
    read_json,
    require_file,
    sha256_bytes,
)
from cwr_mech.errors import AnalysisError, ArtifactError, CorruptArtifact, CwrError, one_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SCHEMA = "cwr-mech/result/1"
NAME = re.compile(r"\w[\w.+-]*")
WAITING = ".next.npz"
FIELDS = {
    "kind": str,
    "command": str,
    "inputs": dict,
    "params": dict,
    "values": dict,
    "tables": dict,
    "notes": list,
    "provenance": dict,
}
"""Fields of a result -> JSON type."""
AS_IT_IS = frozenset((str, int, bool, type(None)))
"""Types that JSON has words for as they are: with finite floats most cells of a table, which need no call."""
BROKEN = (BadZipFile, zlib.error, NotImplementedError, ValueError, OSError, EOFError, KeyError, TypeError)
MOST_UNPACKED = 1100
"""Deflate packs at most 1,032 bytes into one: a file that declares more is forged."""
SMALL = 1_000_000

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Result:
    """One analysis: what was asked (`command`, `inputs`, `params`) and what came out.

    `inputs` maps names of files or runs to their sha256; `values` holds scalars, `tables` tidy rows with
    the same keys in every row, `arrays` numeric, bool or text arrays, `notes` sentences for the reader.
    Numpy scalars become Python's and NaN becomes None when the object is made, so that
    `load_result(r.save(...)) == r`. Raises AnalysisError for infinite values, ragged tables and objects.
    """

    kind: str
    command: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, list[Row]] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    provenance: dict[str, str] = field(default_factory=provenance)

    def __post_init__(self) -> None:
        for name in ("inputs", "params", "values", "tables", "notes"):
            object.__setattr__(self, name, plain(getattr(self, name), f"{self.kind}.{name}"))
        for name, rows in self.tables.items():
            keys = set(rows[0]) if rows else set()
            odd = next((row for row in rows if set(row) != keys), None)
            if odd is not None:
                difference = ", ".join(sorted(set(odd) ^ keys))
                raise AnalysisError(f"rows of table '{name}' differ in their columns: {difference}")
        for name, array in self.arrays.items():
            if not isinstance(array, np.ndarray) or array.dtype.hasobject:
                raise AnalysisError(f"array '{name}' of the {self.kind} result is not a plain numpy array")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Result) and self.sha256 == other.sha256

    @property
    def sha256(self) -> str:
        """Digest of the whole content."""
        return str(self._content()["sha256"])

    def to_pandas(self, table: str | None = None) -> "pd.DataFrame":
        """A table as a DataFrame, the first one by default. Raises UnknownName."""
        import pandas as pd

        name = table or next(iter(self.tables), "")
        one_of(f"table of the {self.kind} result", name, self.tables)
        return pd.DataFrame(self.tables[name])

    def plot(self, figure: str | None = None) -> "Figure":
        """One of the figures of this kind of result by its suffix, the first one by default.

        Raises UnknownName, or AnalysisError for a kind that has no figure.
        """
        figures = import_module("cwr_mech.report.figures")
        found: Figure = figures.one_figure(self, figure)
        return found

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(rows)}" for name, rows in self.tables.items())
        return f"Result({self.kind!r}, `{self.command}`; rows of tables: {sizes or 'none'})"

    def __str__(self) -> str:
        """The short tables that the command prints."""
        return str(import_module("cwr_mech.report.short").text(self))

    def save(self, folder: Path | str, name: str) -> Path:
        """Write `folder/name.json` (and `.npz`), the pair whole or not at all; returns the JSON's path.

        Raises AnalysisError for a name that is none, and what `atomic_file` raises.
        """
        if not NAME.fullmatch(name):
            raise AnalysisError(f"'{name}' cannot name a result", "use letters, digits, and . _ + -")
        path = Path(folder) / f"{name}.json"
        arrays, waiting = path.with_suffix(".npz"), path.with_suffix(WAITING)
        with one_writer(path.parent):
            settle(path)
            if self.arrays:
                with atomic_file(waiting) as part, part.open("wb") as handle:
                    np.savez_compressed(handle, allow_pickle=False, **self.arrays)
            try:
                with atomic_file(path) as part:
                    part.write_text(_text(self._content()), encoding="utf-8")
            except BaseException:
                settle(path)
                raise
            if self.arrays:
                os.replace(waiting, arrays)
            else:
                arrays.unlink(missing_ok=True)
        return path

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = {"schema": SCHEMA} | {name: getattr(self, name) for name in FIELDS}
        content["arrays"] = {name: _describe(array) for name, array in sorted(self.arrays.items())}
        return content | {"sha256": _digest(content)}


def groups(rows: Iterable[Row], *columns: str) -> dict[Any, list[Row]]:
    """Rows by the value of a column (by the tuple of values of several), in order of appearance."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        key = row[columns[0]] if len(columns) == 1 else tuple(row[name] for name in columns)
        found.setdefault(key, []).append(row)
    return found


def where(rows: Iterable[Row], **columns: Any) -> list[Row]:
    """The rows that hold these values in these columns."""
    return [row for row in rows if all(row[name] == value for name, value in columns.items())]


def load_result(path: Path | str) -> Result:
    """Read a result back.

    Raises MissingArtifact, SchemaMismatch, or CorruptArtifact when a file is broken or was changed after it
    was written; the hint names the command that makes it anew.
    """
    path = Path(path)
    content = read_json(path)
    command = content.get("command")
    hint = f"make it anew with: {command}" if isinstance(command, str) and command else None
    if content.get("schema") != SCHEMA:
        raise other_schema(path, content.get("schema"), SCHEMA, hint)
    claimed = content.pop("sha256", None)
    if claimed != _digest(content):
        raise CorruptArtifact(f"{path} was changed after it was written", hint)
    for name, kind in (*FIELDS.items(), ("arrays", dict)):
        if not isinstance(content.get(name), kind):
            raise CorruptArtifact(f"{path} lacks '{name}', or it is no {kind.__name__}", hint)
    arrays = _arrays(path, content["arrays"], hint)
    try:
        return Result(arrays=arrays, **{name: content[name] for name in FIELDS})
    except (AnalysisError, TypeError, AttributeError, ValueError) as error:
        raise CorruptArtifact(f"{path} holds no result: {one_line(error)}", hint) from error


def settle(path: Path) -> None:
    """Put the arrays that a killed process left waiting where they belong, if `path` describes them."""
    waiting = path.with_suffix(WAITING)
    if not waiting.exists():
        return
    try:
        content = read_json(path)
        _read_arrays(waiting, content["arrays"])
    except (CwrError, LookupError, TypeError):
        waiting.unlink()
    else:
        os.replace(waiting, path.with_suffix(".npz"))


def load_results(folder: Path | str) -> dict[str, Result]:
    """All results in `folder` by name, in alphabetical order. Raises what `load_result` raises."""
    return {path.stem: load_result(path) for path in sorted(Path(folder).glob("*.json"))}


def plain(value: Any, place: str) -> Any:
    """`value` as plain JSON data: numpy scalars and small arrays converted, tuples as lists, NaN as None.

    Raises AnalysisError naming `place` for an infinite number or an object JSON has no word for.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {
            str(key): item
            if type(item) in AS_IT_IS or (type(item) is float and math.isfinite(item))
            else plain(item, f"{place}.{key}")
            for key, item in value.items()
        }
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float):
        if math.isinf(value):
            raise AnalysisError(f"{place} is infinite")
        return None if math.isnan(value) else value
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Path):
        return value.as_posix()
    raise AnalysisError(f"{place} cannot be stored: {type(value).__name__}")


def _text(content: Mapping[str, Any]) -> str:
    """`content` as JSON with a line for each row of a table: small, and readable in a comparison."""
    parts = []
    for key, value in sorted(content.items()):
        if key == "tables":
            tables = (
                f" {_json(name)}: [" + ",".join(f"\n  {_json(row)}" for row in rows) + "]"
                for name, rows in sorted(value.items())
            )
            body = "{\n" + ",\n".join(tables) + "}"
        else:
            body = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
        parts.append(f"{_json(key)}: {body}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False)


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return sha256_bytes(text.encode())


def _describe(array: np.ndarray) -> dict[str, Any]:
    """Shape, type and digest of an array's content, whatever the byte order or memory layout it came in."""
    raw = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return {"shape": list(array.shape), "dtype": raw.dtype.str, "sha256": sha256_bytes(raw.tobytes())}


def _arrays(path: Path, described: Mapping[str, Any], hint: str | None) -> dict[str, np.ndarray]:
    """The arrays that a JSON file describes, from beside it. Raises MissingArtifact or CorruptArtifact."""
    if not described:
        return {}
    errors: list[ArtifactError] = []
    for place in (path.with_suffix(".npz"), path.with_suffix(WAITING)):
        try:
            return _read_arrays(place, described)
        except ArtifactError as error:
            errors.append(type(error)(error.message, hint))
    raise errors[0]


def _read_arrays(path: Path, described: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of an npz file if they are the ones described. Raises MissingArtifact or CorruptArtifact.

    Types and sizes are compared with the file's headers before any array is made.
    """
    require_file(path)
    wrong = CorruptArtifact(f"{path} does not hold the arrays that its JSON file describes")
    try:
        with ZipFile(path) as packed:
            if {item.filename for item in packed.infolist()} != {f"{name}.npy" for name in described}:
                raise wrong
            for name, about in described.items():
                item = packed.getinfo(f"{name}.npy")
                if item.file_size > SMALL + MOST_UNPACKED * path.stat().st_size or item.flag_bits & 1:
                    raise CorruptArtifact(f"{path} declares {item.file_size:,} bytes for '{name}'")
                with packed.open(item) as member:
                    if _header(member) != (about["shape"], about["dtype"]):
                        raise wrong
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (*BROKEN, MemoryError, RuntimeError) as error:
        raise CorruptArtifact(f"{path} is truncated or no npz file") from error
    if {name: _describe(array) for name, array in arrays.items()} != described:
        raise wrong
    return arrays


def _header(member: Any) -> tuple[list[int], str]:
    """Shape and type, in little-endian order, that an npy file declares."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(member)
    return list(shape), dtype.newbyteorder("<").str
