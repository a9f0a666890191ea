"""Where the cities of a world come from: the shipped table, a user's CSV file, or a pattern."""

import csv
from importlib.resources import files
from pathlib import Path

import numpy as np

from cwr_mech.config import WorldConfig, is_path
from cwr_mech.errors import ConfigError, UnknownName
from cwr_mech.world.csv_file import read_csv
from cwr_mech.world.patterns import WORLDS, synthetic
from cwr_mech.world.places import Cities, tenths

N_SHIPPED = 5075


def shipped() -> Cities:
    """The 5,075 most populous GeoNames cities, most populous first (`world/README.md`)."""
    text = files("cwr_mech.world").joinpath("cities.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    degrees = np.array([(row["lon"], row["lat"]) for row in rows], dtype=np.float64)
    return Cities(tuple(row["name"] for row in rows), tenths(degrees), tuple(row["region"] for row in rows))


def is_file(source: str) -> bool:
    """Whether the name of a source stands for a file, be it there or not."""
    return is_path(source) or (source != "cities" and source not in WORLDS and Path(source).is_file())


def read_source(config: WorldConfig, ids: range, rng: np.random.Generator) -> Cities:
    """All cities of a world's source: "cities", a name in WORLDS (with `n_cities` cities), or the path of a
    CSV file, whose ids must be in `ids`. Raises ConfigError for a pattern without a number: it has no end."""
    source = config.source
    if source == "cities":
        return shipped()
    if is_file(source):
        return read_csv(Path(source), ids, config.unit)
    if source not in WORLDS:
        unknown = UnknownName("world", source, ("cities", *WORLDS, "FILE.csv"))
        unknown.hint = f"{unknown.hint}; a world of your own needs its package installed, or register_world"
        raise unknown
    if config.n_cities == "all":
        raise ConfigError(f"a world '{source}' has any number of cities", "say how many: n_cities=512")
    return synthetic(source, config.n_cities, rng)
