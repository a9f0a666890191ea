"""Which cities are new: the words of `world.new`, and where invented cities lie.

`world.new` is "none" or kinds joined by "+": "atlantis" or "scattered", each with its own number if one is
given ("scattered:32+atlantis:100"), and "holdout:REGION", which withholds the source's cities of a region.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Int64, Real

from cwr_mech.config import WorldConfig
from cwr_mech.errors import ConfigError, UnknownName
from cwr_mech.world.patterns import gaussian, uniform

ATLANTIS_CENTRE = (-350.0, 350.0)
ATLANTIS_SD = 30.0
"""Atlantis in tenths of a degree: longitude -35, latitude 35, standard deviation 3 degrees on each axis."""

ATLANTIS, NEW = "Atlantis", "new cities"
"""The region of invented cities of one kind, and what it is called where they do not lie in Atlantis."""

NEW_PLACES: Mapping[str, Callable[[int, np.random.Generator], Int64[np.ndarray, "city 2"]]] = (
    MappingProxyType(
        {"atlantis": lambda n, rng: gaussian(n, ATLANTIS_CENTRE, ATLANTIS_SD, rng), "scattered": uniform}
    )
)
"""Kinds of invented new cities -> function of (number of cities, generator)."""

_KIND = re.compile(r"\+(?=none|atlantis|scattered|holdout:)")


@dataclass(frozen=True)
class Invented:
    """One kind of invented cities: how many, and what their region is called."""

    kind: str
    n: int
    region: str


def kinds_of(config: WorldConfig) -> tuple[tuple[str, ...], tuple[Invented, ...]]:
    """Regions withheld and kinds invented, in the order written. Raises ConfigError or UnknownName.

    All invented cities of a world with one kind lie in the region "Atlantis"; of several kinds, each lies in
    a region of its own name, so that they can be told apart.
    """
    if config.new == "none":
        return (), ()
    words = _KIND.split(config.new)
    regions = tuple(word.partition(":")[2] for word in words if word.startswith("holdout:"))
    numbers: dict[str, int] = {}
    for word in (word for word in words if not word.startswith("holdout:")):
        kind, colon, number = word.partition(":")
        if kind not in NEW_PLACES:
            raise UnknownName("kind of new cities", word, ("none", *NEW_PLACES, "holdout:REGION"))
        if kind in numbers:
            raise ConfigError(f"new cities '{kind}' are asked for twice in '{config.new}'")
        if colon and not re.fullmatch(r"[1-9][0-9]{0,5}", number):
            raise ConfigError(f"'{number}' is no number of new cities", f"write {kind}:{config.n_new}")
        numbers[kind] = int(number) if colon else config.n_new
    several = len(words) > 1
    invented = (Invented(k, n, k.capitalize() if several else ATLANTIS) for k, n in numbers.items())
    return regions, tuple(invented)


def shown_regions(region: np.ndarray, xy: Real[np.ndarray, "city 2"]) -> np.ndarray:
    """Regions [city] as figures call them: NEW for the region ATLANTIS of invented cities that lie elsewhere.

    All lie in Atlantis where none is farther from its centre than six standard deviations along an axis,
    which one normal draw in 500 million is.
    """
    invented = region == ATLANTIS
    far = np.abs(xy[invented] - ATLANTIS_CENTRE) > 6 * ATLANTIS_SD
    return np.where(invented, NEW, region) if far.any() else region
