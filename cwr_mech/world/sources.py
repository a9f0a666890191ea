"""Where the cities of a world come from: the shipped table, a user's CSV file, or a synthetic pattern."""

import csv
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from cwr_mech.errors import ConfigError, MissingArtifact, UnknownName, WorldError

X_MAX = 1800
Y_MAX = 900
"""Coordinates are whole tenths of a degree on a plane: x in [-1800, 1800], y in [-900, 900]."""

N_SHIPPED = 5075
N_CLUSTERS = 20
CLUSTER_SD = 30.0
RING_RADIUS = 800.0

COLUMNS_HINT = (
    "the first line must name the columns id,name,x,y (tenths of a degree) or id,name,lon,lat (degrees)"
)
# int() and float() take more than this: underscores, digits of other scripts, "nan".
WHOLE = re.compile(r"[+-]?[0-9]{1,300}")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True, eq=False)
class Cities:
    """Cities before they form a world: `ids` is None where the world still has to draw them."""

    names: tuple[str, ...]
    xy: Int64[np.ndarray, "city 2"]
    region: tuple[str, ...]
    ids: Int64[np.ndarray, " city"] | None = None


def tenths(degrees: Float[np.ndarray, "city 2"]) -> Int64[np.ndarray, "city 2"]:
    """Longitude and latitude in degrees to whole tenths of a degree, half to even as in the reference."""
    return np.rint(degrees * 10).astype(np.int64)


def shipped() -> Cities:
    """The 5,075 most populous GeoNames cities, most populous first (`world/README.md`)."""
    text = files("cwr_mech.world").joinpath("cities.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    degrees = np.array([(row["lon"], row["lat"]) for row in rows], dtype=np.float64)
    return Cities(tuple(row["name"] for row in rows), tenths(degrees), tuple(row["region"] for row in rows))


def read_csv(path: Path, ids: range) -> Cities:
    """A user's cities: columns id, name, then x and y (whole tenths of a degree) or lon and lat (degrees).

    A column `region` is read when there is one; other columns are ignored; x,y win over lon,lat. Raises
    MissingArtifact, or WorldError naming the file, the line and the fault; an id outside `ids` is a fault.
    """
    lines = _lines(path)
    if not lines:
        raise WorldError(f"{path} is empty", COLUMNS_HINT)
    header = [name.strip().lower() for name in lines[0][1]]
    columns = _coordinate_columns(path, header)
    if len(lines) == 1:
        raise WorldError(f"{path} names its columns but holds no city")
    line_of: dict[int, int] = {}
    names, xy, regions = [], [], []
    for line, fields in lines[1:]:
        place = f"{path}, line {line}"
        if len(fields) != len(header):
            raise WorldError(f"{place}: {len(fields)} fields, but the first line names {len(header)} columns")
        city = dict(zip(header, (field.strip() for field in fields), strict=True))
        number = _id(place, city["id"], ids)
        if number in line_of:
            raise WorldError(f"{place}: id {number} was given already on line {line_of[number]}")
        line_of[number] = line
        names.append(city["name"])
        xy.append([_coordinate(place, column, city[column]) for column in columns])
        regions.append(city.get("region") or "no region")
    return Cities(
        tuple(names), np.array(xy, dtype=np.int64), tuple(regions), np.array(list(line_of), dtype=np.int64)
    )


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Line number and fields of every line of a CSV file that is not blank."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise MissingArtifact(f"no such world file: {path}") from error
    except OSError as error:
        raise WorldError(f"cannot read the world file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise WorldError(
            f"{path}: byte {error.start} is not UTF-8 text", "save the file as CSV in UTF-8"
        ) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        return [(reader.line_num, fields) for fields in reader if fields]
    except csv.Error as error:
        raise WorldError(f"{path}, line {reader.line_num}: broken CSV: {error}") from error


def _coordinate_columns(path: Path, header: list[str]) -> tuple[str, str]:
    degrees = {"lon", "lat"} <= set(header) and not {"x", "y"} <= set(header)
    columns = ("lon", "lat") if degrees else ("x", "y")
    for name in ("id", "name", *columns):
        if name not in header:
            raise WorldError(f"{path} has no column '{name}', only {_quote(','.join(header))}", COLUMNS_HINT)
    for name in header:
        if name and header.count(name) > 1:
            raise WorldError(f"{path} names the column {_quote(name)} twice")
    return columns


def _quote(text: str) -> str:
    """`text` as an error message can show it: on one line, not too long."""
    return repr(text if len(text) <= 60 else text[:60] + "...")


def _id(place: str, text: str, ids: range) -> int:
    if not WHOLE.fullmatch(text):
        raise WorldError(f"{place}: id {_quote(text)} is not a whole number")
    if int(text) not in ids:
        raise WorldError(
            f"{place}: id {_quote(text)} is outside {ids[0]}..{ids[-1]}",
            "change the id, or the settings id_digits and id_min",
        )
    return int(text)


def _coordinate(place: str, column: str, text: str) -> int:
    """One coordinate in whole tenths of a degree."""
    if not NUMBER.fullmatch(text):
        raise WorldError(f"{place}: {column} {_quote(text)} is not a number")
    value, limit, unit = float(text), X_MAX if column in ("x", "lon") else Y_MAX, "tenths of a degree"
    if column in ("lon", "lat"):
        limit, unit = limit // 10, "degrees"
    if not -limit <= value <= limit:
        raise WorldError(f"{place}: {column} {_quote(text)} is outside -{limit}..{limit} {unit}")
    if column in ("lon", "lat"):
        return round(10 * value)
    if not value.is_integer():
        raise WorldError(
            f"{place}: {column} {_quote(text)} is not a whole number of tenths of a degree",
            "degrees go into columns named lon and lat",
        )
    return int(value)


def _blocks(xy: Int64[np.ndarray, "city 2"]) -> tuple[str, ...]:
    """Region names for a pattern with none of its own: 4 by 2 equal blocks of the plane, west to east."""
    column = np.minimum((xy[:, 0] + X_MAX) * 4 // (2 * X_MAX), 3)
    row = np.minimum((xy[:, 1] + Y_MAX) * 2 // (2 * Y_MAX), 1)
    return tuple(f"block {number}" for number in 1 + column + 4 * row)


def _legal(points: Float[np.ndarray, "city 2"]) -> Int64[np.ndarray, "city 2"]:
    return np.clip(np.rint(points), (-X_MAX, -Y_MAX), (X_MAX, Y_MAX)).astype(np.int64)


def uniform(n: int, rng: np.random.Generator) -> Int64[np.ndarray, "city 2"]:
    """`n` points spread evenly at random over the whole rectangle."""
    return _legal(rng.uniform((-X_MAX, -Y_MAX), (X_MAX, Y_MAX), (n, 2)))


def gaussian(
    n: int, centre: tuple[float, float], sd: float, rng: np.random.Generator
) -> Int64[np.ndarray, "city 2"]:
    """`n` points of an isotropic Gaussian, in tenths of a degree, clipped to the rectangle."""
    return _legal(rng.normal(centre, sd, (n, 2)))


def _uniform(n: int, rng: np.random.Generator) -> tuple[Int64[np.ndarray, "city 2"], tuple[str, ...]]:
    xy = uniform(n, rng)
    return xy, _blocks(xy)


def _grid(n: int, rng: np.random.Generator) -> tuple[Int64[np.ndarray, "city 2"], tuple[str, ...]]:
    """Twice as many columns as rows, row by row from the south-west; the last row may be shorter."""
    columns = int(np.ceil(np.sqrt(2 * n)))
    rows = -(-n // columns)
    x = (np.arange(columns) + 0.5) * 2 * X_MAX / columns - X_MAX
    y = (np.arange(rows) + 0.5) * 2 * Y_MAX / rows - Y_MAX
    xy = _legal(np.stack([np.tile(x, rows), np.repeat(y, columns)], axis=1)[:n])
    return xy, _blocks(xy)


def _clusters(n: int, rng: np.random.Generator) -> tuple[Int64[np.ndarray, "city 2"], tuple[str, ...]]:
    """20 Gaussian clusters of standard deviation 3 degrees around uniform centres."""
    centres = rng.uniform((-X_MAX + 100, -Y_MAX + 100), (X_MAX - 100, Y_MAX - 100), (N_CLUSTERS, 2))
    cluster = rng.integers(N_CLUSTERS, size=n)
    xy = _legal(rng.normal(centres[cluster], CLUSTER_SD))
    return xy, tuple(f"cluster {number}" for number in cluster + 1)


def _ring(n: int, rng: np.random.Generator) -> tuple[Int64[np.ndarray, "city 2"], tuple[str, ...]]:
    """A circle of radius 80 degrees around the origin, at uniform random angles; regions are 8 sectors."""
    turn = rng.uniform(0, 1, n)
    xy = _legal(RING_RADIUS * np.stack([np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)], axis=1))
    return xy, tuple(f"sector {number}" for number in 1 + (turn * 8).astype(np.int64))


SYNTHETIC: Mapping[
    str, Callable[[int, np.random.Generator], tuple[Int64[np.ndarray, "city 2"], tuple[str, ...]]]
] = {"uniform": _uniform, "grid": _grid, "clusters": _clusters, "ring": _ring}
"""Worlds that are not the earth, for controls: name -> function of (number of cities, generator)."""


def synthetic(kind: str, n: int, rng: np.random.Generator) -> Cities:
    """`n` cities of the pattern `kind`, named after it."""
    xy, region = SYNTHETIC[kind](n, rng)
    return Cities(tuple(f"{kind}_{number:04d}" for number in range(1, n + 1)), xy, region)


def is_file(source: str) -> bool:
    """Whether the name of a source stands for a file, be it there or not."""
    known = source == "cities" or source in SYNTHETIC
    return not known and ("/" in source or "." in source or Path(source).is_file())


def read_source(source: str, n: int | None, ids: range, rng: np.random.Generator) -> Cities:
    """All cities of `source`: "cities", a name in SYNTHETIC (with `n` cities), or the path of a CSV file,
    whose ids must be in `ids`. Raises ConfigError for a pattern without `n`: it has no end."""
    if source == "cities":
        return shipped()
    if source in SYNTHETIC:
        if n is None:
            raise ConfigError(f"a world '{source}' has any number of cities", "say how many: n_cities=512")
        return synthetic(source, n, rng)
    if is_file(source):
        return read_csv(Path(source), ids)
    raise UnknownName("world", source, ("cities", *SYNTHETIC, "FILE.csv"))
