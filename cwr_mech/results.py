"""What an analysis found: one frozen object, saved as JSON (numbers, tables) beside an npz (arrays).

Figures and reports read these files and nothing else, so every number in a report can be traced to its
file, and a report can be rebuilt. Schema "cwr-mech/result/1":

NAME.json   {"schema", "kind", "command", "inputs", "params", "values", "tables", "notes", "provenance",
             "arrays": {array name: {"shape", "dtype", "sha256"}}, "sha256": digest of all the other fields}
NAME.npz    the arrays, readable with `numpy.load`; absent when there are none

A number that is undefined (NaN) is stored as null, and `notes` says why it is. Infinity is refused.
"""

import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from cwr_mech.artifacts import atomic_file, provenance, read_json, sha256_bytes
from cwr_mech.config import RENAMED_CONDITIONS
from cwr_mech.errors import AnalysisError, CorruptArtifact, MissingArtifact, SchemaMismatch, UnknownName

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SCHEMA = "cwr-mech/result/1"
NAME = re.compile(r"[a-z0-9][A-Za-z0-9._+-]*")
FIELDS = ("kind", "command", "inputs", "params", "values", "tables", "notes", "provenance")

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
        if name not in self.tables:
            raise UnknownName(f"table of the {self.kind} result", name, self.tables)
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
        """Write `folder/name.json` (and `.npz`), each whole or not at all; returns the JSON's path.

        The JSON is written last and holds the arrays' digests: a pair torn by a crash is noticed on reading.
        """
        if not NAME.fullmatch(name):
            raise AnalysisError(f"'{name}' cannot name a result", "use letters, digits, and . _ + -")
        path = Path(folder) / f"{name}.json"
        if self.arrays:
            with atomic_file(path.with_suffix(".npz")) as part, part.open("wb") as handle:
                np.savez_compressed(handle, allow_pickle=False, **self.arrays)
        else:
            path.with_suffix(".npz").unlink(missing_ok=True)
        with atomic_file(path) as part:
            part.write_text(_text(self._content()), encoding="utf-8")
        return path

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = {"schema": SCHEMA} | {name: getattr(self, name) for name in FIELDS}
        content["arrays"] = {name: _describe(array) for name, array in sorted(self.arrays.items())}
        return content | {"sha256": _digest(content)}


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
        raise SchemaMismatch(
            f"{path} has schema {content.get('schema')!r}; this version reads {SCHEMA!r}", hint
        )
    claimed = content.pop("sha256", None)
    if claimed != _digest(content) or any(name not in content for name in FIELDS):
        raise CorruptArtifact(f"{path} was changed after it was written", hint)
    arrays = _arrays(path.with_suffix(".npz"), content["arrays"], hint)
    tables = {name: [_renamed(row) for row in rows] for name, rows in content["tables"].items()}
    return Result(arrays=arrays, **{name: content[name] for name in FIELDS} | {"tables": tables})


def _renamed(row: Row) -> Row:
    """A row of an older result in today's words."""
    route = RENAMED_CONDITIONS.get(str(row.get("route")))
    return row | {"route": route} if route else row


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
        return {str(key): plain(item, f"{place}.{key}") for key, item in value.items()}
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
    if not described:
        return {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except FileNotFoundError as error:
        raise MissingArtifact(f"no such file: {path}", hint) from error
    except (ValueError, OSError, EOFError, BadZipFile, zlib.error) as error:
        raise CorruptArtifact(f"{path} is truncated or no npz file", hint) from error
    if {name: _describe(array) for name, array in arrays.items()} != described:
        raise CorruptArtifact(f"{path} does not hold the arrays that {path.stem}.json describes", hint)
    return arrays
