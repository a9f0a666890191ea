"""Colours, markers and sizes shared by all figures, chosen so that they survive a print in grey."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from cwr_mech.tasks.registry import TASKS
from cwr_mech.world.new_cities import ATLANTIS, NEW

WIDTH = 8.0
"""Inches; at 150 dots an inch a figure is 1200 pixels wide, which a Markdown page shows almost unscaled."""

RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
}
"""matplotlib settings in force while a figure is drawn."""


class Look(NamedTuple):
    """Colour and marker of one region or task."""

    colour: str
    marker: str

    @property
    def drawn(self) -> dict[str, Any]:
        """As options of `Axes.plot`."""
        return {"color": self.colour, "marker": self.marker}


REGION_LOOKS = MappingProxyType(
    {
        "Africa": Look("#e69f00", "o"),
        "Antarctica": Look("#aaaaaa", "P"),
        "Central Asia": Look("#8b5a2b", "s"),
        "China": Look("#d7191c", "^"),
        "Eastern Europe": Look("#56b4e9", "s"),
        "India": Look("#9e4fc1", "v"),
        "Japan": Look("#00a08a", "D"),
        "Korea": Look("#ff7fbf", "X"),
        "Middle East": Look("#a8a800", "^"),
        "North America": Look("#1f4e9e", "o"),
        "Oceania": Look("#555555", "D"),
        "South America": Look("#4daf4a", "v"),
        "Southeast Asia": Look("#a50f5e", "P"),
        "Western Europe": Look("#0b6e4f", "X"),
        ATLANTIS: Look("#000000", "*"),
        NEW: Look("#000000", "*"),
    }
)
"""Regions of the shipped world; neighbours differ in hue, lightness and marker."""

SPARE_LOOKS = tuple(REGION_LOOKS[name] for name in REGION_LOOKS if name not in (ATLANTIS, NEW))

TASK_LOOKS = (
    Look("#000000", "o"),
    Look("#e69f00", "s"),
    Look("#56b4e9", "^"),
    Look("#009e73", "v"),
    Look("#0072b2", "D"),
    Look("#d55e00", "X"),
    Look("#cc79a7", "P"),
)
"""Colours of Okabe and Ito (2008), chosen for readers who do not see red and green; in
the order of the tasks."""

GREYS = ("#5a5a5a", "#9a9a9a", "#c8c8c8", "#e0e0e0")
"""Bars of the first, second, ... model in a figure."""

BASELINE = "#b03030"
"""Lines that stand for a control or a baseline; always dashed or dotted as well."""


def region_looks(regions: Iterable[str]) -> dict[str, Look]:
    """The look of each region present, in a fixed order; regions of other worlds get spare looks in turn."""
    present = set(regions)
    known = [name for name in REGION_LOOKS if name in present]
    others = sorted(present - set(known))
    looks = {name: REGION_LOOKS[name] for name in known}
    return looks | {name: SPARE_LOOKS[i % len(SPARE_LOOKS)] for i, name in enumerate(others)}


def task_look(name: str) -> Look:
    """The look of a task, grey for other names. Tasks after the seventh repeat colours, not markers."""
    if name not in TASKS:
        return Look("#888888", "o")
    turn, place = divmod(TASKS.index(name), len(TASK_LOOKS))
    look = TASK_LOOKS[place]
    return look if not turn else look._replace(marker=TASK_LOOKS[(place + 3 * turn) % len(TASK_LOOKS)].marker)


def new_figure(height: float, *, width: float = WIDTH) -> Figure:
    """An empty figure of report width."""
    return Figure(figsize=(width, height), layout="constrained")


def caption(figure: Figure, text: str) -> Figure:
    """The figure with `text` in small print under it."""
    columns = int(figure.get_figwidth() * 17)
    lines = "\n".join(textwrap.wrap(text, columns))
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=7.5, color="#444444")
    return figure


def floats(values: Sequence[Any]) -> np.ndarray:
    """float64 array of table cells, None as NaN."""
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def with_reach(
    rows: Sequence[Mapping[str, Any]], column: str, least: float = -np.inf
) -> tuple[np.ndarray, np.ndarray]:
    """Values [row] of a column and the lengths [2 row] of their error bars, none where an end is unknown.

    What reaches below `least` is cut there.
    """
    value, (low, high) = floats([row[column] for row in rows]), ends_of(rows, column)
    return value, np.nan_to_num(np.abs(np.stack([np.maximum(low, least), high]) - value))


def ends_of(rows: Sequence[Mapping[str, Any]], column: str) -> tuple[np.ndarray, np.ndarray]:
    """Both ends [row] of a column's interval: columns COLUMN_lo and COLUMN_hi, or lo and hi."""
    named = [f"{column}_{end}" if rows and f"{column}_{end}" in rows[0] else end for end in ("lo", "hi")]
    low, high = (floats([row[end] for row in rows]) for end in named)
    return low, high
