"""Figures of lines and of many panels: a quantity of table rows against layer, step, number of components."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cwr_mech.render.numbers import layer_name
from cwr_mech.render.style import ends_of, floats, new_figure, with_reach
from cwr_mech.results import Row

BARS: Mapping[str, Any] = {"lw": 0.7}
"""Intervals as thin lines without caps."""


def line(
    ax: Axes,
    rows: Sequence[Row],
    x: str | Sequence[float | int],
    y: str,
    *,
    bars: Mapping[str, Any] | None = None,
    caps: int = 0,
    least: float = -np.inf,
    **style: Any,
) -> None:
    """Column `y` of the rows against column `x`, or against places given; a gap where there is no number.

    bars: draw the interval (columns Y_lo and Y_hi, or lo and hi) as lines of this style; caps: or as error
    bars with caps of this size. What lies below `least` is drawn there. style: as `Axes.plot` takes it.
    """
    at = floats([row[x] for row in rows] if isinstance(x, str) else x)
    value = np.maximum(floats([row[y] for row in rows]), least)
    if caps:
        ax.errorbar(at, value, yerr=with_reach(rows, y)[1], capsize=caps, **style)
        return
    if bars is not None:
        low, high = ends_of(rows, y)
        ax.vlines(at, np.maximum(low, least), high, color=style["color"], **bars)
    ax.plot(at, value, **style)


def panels(n: int, *, margin: float, line: float, most: int = 4, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure with `n` panels in lines of at most `most`, each `line` inches high beside `margin` for all;
    places that stay empty are not shown."""
    columns = min(most, n)
    lines = -(-n // columns)
    figure = new_figure(margin + lines * line)
    axes = figure.subplots(lines, columns, squeeze=False, **options).ravel()
    for ax in axes[n:]:
        ax.set_visible(False)
    return figure, list(axes[:n])


def layer_ticks(ax: Axes, layers: Sequence[int], at: Sequence[int] | None = None) -> None:
    """Names of layers along the bottom, at their numbers or at the places given."""
    ax.set_xticks(layers if at is None else at, [layer_name(layer) for layer in layers])
