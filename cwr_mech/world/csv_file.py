"""A user's cities from a CSV file."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from cwr_mech.config import EARTH_UNIT
from cwr_mech.errors import MissingArtifact, WorldError
from cwr_mech.world.places import X_MAX, Y_MAX, Cities, shared, tenths

COLUMNS_HINT = (
    "the first line must name the columns name,lon,lat (degrees) or name,x,y (whole units); id and region "
    "may be there, too"
)
# int() and float() take more than this: underscores, digits of other scripts, "nan".
WHOLE = re.compile(r"[+-]?[0-9]{1,300}")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def read_csv(path: Path, ids: range, unit: float = EARTH_UNIT) -> Cities:
    """A user's cities, a line each; the first line names the columns, in any order, others are ignored.

    name          what a city is called
    lon, lat      degrees; or x, y: whole units as they shall be, which win over lon, lat
    id            optional: a number in `ids`, none twice; without the column ids are drawn
    region        optional

    Degrees become whole units of `unit` degrees (`to_units`). Raises MissingArtifact, or WorldError naming
    the file, the line and the fault.
    """
    lines = read_table(path)
    if not lines:
        raise WorldError(f"{path} is empty", COLUMNS_HINT)
    header = [name.strip().lower() for name in lines[0][1]]
    columns = _coordinate_columns(path, header)
    if len(lines) == 1:
        raise WorldError(f"{path} names its columns but holds no city")
    line_of: dict[int, int] = {}
    names, places, regions = [], [], []
    for line, fields in lines[1:]:
        place = f"{path}, line {line}"
        if len(fields) != len(header):
            raise WorldError(f"{place}: {len(fields)} fields, but the first line names {len(header)} columns")
        city = dict(zip(header, (field.strip() for field in fields), strict=True))
        if "id" in city:
            number = _id(place, city["id"], ids)
            if number in line_of:
                raise WorldError(f"{place}: id {number} was given already on line {line_of[number]}")
            line_of[number] = line
        names.append(city["name"])
        places.append([_coordinate(place, column, city[column]) for column in columns])
        regions.append(city.get("region") or "no region")
    given = np.array(places, dtype=np.float64)
    xy = to_units(path, given, unit) if columns == ("lon", "lat") else given.astype(np.int64)
    own = np.array(list(line_of), dtype=np.int64) if line_of else None
    return Cities(tuple(names), xy, tuple(regions), own)


def to_units(path: Path, degrees: Float[np.ndarray, "city 2"], unit: float) -> Int64[np.ndarray, "city 2"]:
    """Longitude and latitude to whole units: on the earth's own plane at tenths of a degree, else counted
    from the middle of the places, so that those of a town fill the plane, too.

    Raises WorldError when the places do not fit on the plane at this unit.
    """
    if unit == EARTH_UNIT:
        return tenths(degrees)
    low, high = degrees.min(axis=0), degrees.max(axis=0)
    xy = np.rint((degrees - (low + high) / 2) / unit).astype(np.int64)
    if (np.abs(xy) > (X_MAX, Y_MAX)).any():
        wide, tall = high - low
        raise WorldError(
            f"the places of {path} span {wide:g} by {tall:g} degrees: too far for units of {unit:g} degrees",
            f"the plane has {2 * X_MAX} by {2 * Y_MAX} units; set world.unit={_smallest(wide, tall):g}",
        )
    return xy


def _nice() -> Iterator[float]:
    """Units from coarse to fine: 1, 0.5, 0.2, 0.1, ... degrees."""
    return (digit / 10**power for power in range(7) for digit in ((1,) if not power else (5, 2, 1)))


def _smallest(wide: float, tall: float) -> float:
    """The finest unit at which places of this span in degrees fit on the plane."""
    return min(unit for unit in _nice() if wide <= 2 * X_MAX * unit and tall <= 2 * Y_MAX * unit)


def finer_unit(path: Path, ids: range, most: float) -> float | None:
    """The coarsest unit at which at most the share `most` of a file's cities share their coordinates; None
    when there is none, or the file gives units itself. Raises what `read_csv` raises.
    """
    header = [name.strip().lower() for name in read_table(path)[0][1]]
    if _coordinate_columns(path, header) != ("lon", "lat"):
        return None
    for unit in _nice():
        try:
            xy = read_csv(path, ids, unit).xy
        except WorldError:  # finer units do not fit on the plane
            return None
        if shared(xy) <= most:
            return unit
    return None


def read_table(path: Path, kind: str = "world file") -> list[tuple[int, list[str]]]:
    """Line number and fields of every line of a CSV file that is not blank; the first line shows whether
    commas, semicolons or tabs stand between them.

    Raises MissingArtifact, or WorldError, which call the file by its `kind`.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise WorldError(f"cannot read the {kind} {path}: it is a pipe or device")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise MissingArtifact(f"no such {kind}: {path}") from error
    except UnicodeDecodeError as error:
        raise WorldError(f"{path}: byte {error.start} is not UTF-8", "save it as CSV in UTF-8") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise WorldError(
            f"cannot read the {kind} {path}: {getattr(error, 'strerror', None) or error}"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise WorldError(f"{path}, line {line} holds a NUL character", "save the file as CSV in UTF-8")
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = next((letter for letter in ",;\t" if letter in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    try:
        return [(reader.line_num, fields) for fields in reader if fields]
    except csv.Error as error:
        raise WorldError(f"{path}, line {reader.line_num}: broken CSV: {error}") from error


def _coordinate_columns(path: Path, header: list[str]) -> tuple[str, str]:
    degrees = {"lon", "lat"} <= set(header) and not {"x", "y"} <= set(header)
    columns = ("lon", "lat") if degrees else ("x", "y")
    for name in ("name", *columns):
        if name not in header:
            raise WorldError(f"{path} has no column '{name}', only {_quote(','.join(header))}", COLUMNS_HINT)
    for name in header:
        if name and header.count(name) > 1:
            raise WorldError(f"{path} names the column {_quote(name)} twice")
    return columns


def _quote(text: str) -> str:
    """`text` as an error message can show it: on one line, not too long."""
    return repr(text if len(text) <= 60 else text[:60] + "...")


def decimals(text: str) -> str | None:
    """A hint about a coordinate that is no number: where semicolons separate, decimals often have commas."""
    return "write decimals with a point" if "," in text else None


def _id(place: str, text: str, ids: range) -> int:
    if not WHOLE.fullmatch(text):
        raise WorldError(f"{place}: id {_quote(text)} is not a whole number")
    if int(text) not in ids:
        raise WorldError(
            f"{place}: id {_quote(text)} is outside {ids[0]}..{ids[-1]}",
            "change the id, or the settings id_digits and id_min",
        )
    return int(text)


def _coordinate(place: str, column: str, text: str) -> float:
    """One coordinate as given: degrees, or whole units."""
    if not NUMBER.fullmatch(text):
        raise WorldError(f"{place}: {column} {_quote(text)} is not a number", decimals(text))
    value, limit, unit = float(text), X_MAX if column in ("x", "lon") else Y_MAX, "units"
    if column in ("lon", "lat"):
        limit, unit = limit // 10, "degrees"
    if not -limit <= value <= limit:
        raise WorldError(f"{place}: {column} {_quote(text)} is outside -{limit}..{limit} {unit}")
    if column in ("x", "y") and not value.is_integer():
        raise WorldError(
            f"{place}: {column} {_quote(text)} is not a whole number",
            "degrees stand in columns lon and lat; the setting world.unit says how fine they are read",
        )
    return value
