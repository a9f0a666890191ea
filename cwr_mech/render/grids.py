"""Figures that are matrices: similarity of representations, effects of patches."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage

from cwr_mech.results import Row

Number = float | int
MOST_NUMBERED = 24
"""Matrices with more items than this show colours only."""


def grid_of(rows: Sequence[Row], value: str, **axes: Sequence[object]) -> np.ndarray:
    """Column `value` of the rows as a matrix: the first of two columns `axes` downwards, the second to the
    right, in the order of the entries given. NaN where no row has a number; other entries are left out.
    """
    grid = np.full([len(entries) for entries in axes.values()], np.nan)
    for row in rows:
        if row[value] is not None and all(row[name] in entries for name, entries in axes.items()):
            grid[tuple(entries.index(row[name]) for name, entries in axes.items())] = row[value]
    return grid


def hundredths(value: float | None) -> str:
    """A share of one with two decimals and no leading zero, so that it fits a cell."""
    if value is None or not np.isfinite(value):
        return "n/a"
    text = f"{value:.2f}".replace("-0.00", "0.00")
    return text.replace("0.", ".", 1) if abs(value) < 0.995 else text


def matrix(
    ax: Axes,
    grid: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    ends: tuple[Number, Number],
    cmap: str,
    numbers: Number | None = 6.5,
    bold: np.ndarray | None = None,
    labels: Number = 7,
    rotation: Number = 40,
    upwards: bool = False,
) -> AxesImage:
    """A matrix as colours between `ends`, with the names of its rows and columns; grey without a number.

    `numbers`: size of the numbers in the cells, None for none of them; `bold` marks some. `labels`: size of
    the names, those of columns turned by `rotation` degrees. `upwards`: the first row is the lowest.
    """
    ax.spines[:].set_visible(False)
    ax.set_facecolor("#eeeeee")
    image = ax.imshow(
        grid,
        norm=Normalize(*ends),
        cmap=cmap,
        aspect="auto",
        origin="lower" if upwards else "upper",
        interpolation="nearest",
    )
    if numbers is not None:
        _write_cells(ax, image, grid, numbers, bold)
    told = [name.replace("_", " ") for name in columns]
    ax.set_xticks(range(len(told)), told, rotation=rotation, ha="right" if 0 < rotation < 90 else "center")
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(labelsize=labels, length=0)
    return image


def _write_cells(ax: Axes, image: AxesImage, grid: np.ndarray, size: Number, bold: np.ndarray | None) -> None:
    """Numbers in the cells, black or white by the lightness of what is behind them."""
    for (line, column), value in np.ndenumerate(grid):
        red, green, blue, _ = image.cmap(image.norm(value))
        dark = np.isfinite(value) and 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        ax.text(
            column,
            line,
            hundredths(float(value)) if np.isfinite(value) else "·",
            ha="center",
            va="center",
            fontsize=size,
            color="white" if dark else "black",
            fontweight="bold" if bold is not None and bold[line, column] else "normal",
        )
