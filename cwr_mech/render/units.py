"""Units of coordinates. All texts are written for the earth's unit, tenths of a degree; where a result is
about a world of another unit (`world.unit`), that one is said in whatever leaves: text, table or figure.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from cwr_mech.config import EARTH_UNIT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cwr_mech.results import Result

EARTH = "tenths of a degree"
WORDS: Mapping[float, str] = MappingProxyType(
    {1.0: "degrees", EARTH_UNIT: EARTH, 0.01: "hundredths of a degree", 0.001: "thousandths of a degree"}
)
"""Degrees a unit -> what it is called."""


def unit_of(result: "Result") -> float:
    """Degrees a unit of the coordinates in a result: what it records, or the settings it holds."""
    config = result.params.get("config")
    world = config.get("world") if isinstance(config, Mapping) else None
    settings = world if isinstance(world, Mapping) else {}
    unit = result.params.get("unit", settings.get("unit", EARTH_UNIT))
    return float(unit) if isinstance(unit, int | float) else EARTH_UNIT


def in_unit(text: str, unit: float) -> str:
    """`text`, which is about tenths of a degree, about another unit; `unit` in degrees."""
    if math.isclose(unit, EARTH_UNIT):
        return text
    words = next((name for known, name in WORDS.items() if math.isclose(known, unit)), "")
    said = text.replace(EARTH, words or f"units of {unit:g} degrees")
    return said.replace("error, 0.1°", f"error, {unit:g}°").replace("0.01 sq °", f"{unit**2:g} sq °")


def figure_in_unit(figure: "Figure", unit: float) -> "Figure":
    """The figure with all its words about another unit."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_text(in_unit(text.get_text(), unit))
    return figure
