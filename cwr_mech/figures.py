"""Figures of results: FIGURES names, for each kind of result, the functions that draw it.

A figure is drawn from a Result and nothing else. Kinds and what they read are in each function's docstring.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from cwr_mech.artifacts import atomic_file
from cwr_mech.results import Result


class Plot(NamedTuple):
    """One figure of a kind of result: `suffix` names the file NAME[-suffix].png."""

    suffix: str
    function: Callable[[Result], Figure]


FIGURES: Mapping[str, tuple[Plot, ...]] = {}
"""Kind of result -> its figures, in the order of the report."""


def draw(result: Result, folder: Path | str, name: str) -> list[Path]:
    """Draw all figures of `result` as PNG files in `folder`; returns their paths (none for kinds without)."""
    paths = []
    for plot in FIGURES.get(result.kind, ()):
        path = Path(folder) / f"{name}{'-' if plot.suffix else ''}{plot.suffix}.png"
        with atomic_file(path) as part:
            plot.function(result).savefig(part, format="png", dpi=150)
        paths.append(path)
    return paths
