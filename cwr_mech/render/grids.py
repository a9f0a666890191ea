"""Figures that are matrices: similarity of representations, effects of patches."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from cwr_mech.render.numbers import layer_name, number
from cwr_mech.render.style import (
    caption,
    error_bars,
    floats,
    new_figure,
)
from cwr_mech.results import Result, Row

MOST_NUMBERED = 24
"""Matrices with more items than this show colours only."""


def hundredths(value: float | None) -> str:
    """A share of one with two decimals and no leading zero, so that it fits a cell."""
    if value is None or not np.isfinite(value):
        return "n/a"
    text = f"{value:.2f}".replace("-0.00", "0.00")
    return text.replace("0.", ".", 1) if abs(value) < 0.995 else text


DIRECTIONS = {
    "denoise": "denoise: clean into corrupt",
    "noise": "noise: corrupt into clean",
}


def patch_figure(result: Result) -> Figure:
    """Share of the effect recovered by patching one place: layers (and heads) by spans, a panel a direction.

    Reads table `cells` {direction, component, layer, head, span, metric, n, recovered, p_adj}; array `spans`
    (their order); values `n_kept`, `self_patch_max`, `null_recovered`. One row of panels a component.
    """
    metric = result.params.get("metric") or result.tables["cells"][0]["metric"]
    cells = [row for row in result.tables["cells"] if row["metric"] == metric]
    components = list(dict.fromkeys(_component(row) for row in cells))
    directions = list(dict.fromkeys(row["direction"] for row in cells))
    spans = [str(span) for span in result.arrays["spans"] if any(row["span"] == span for row in cells)]
    heights = [len(_places(cells, component)) for component in components]
    figure = new_figure(1.3 + sum(0.75 + 0.2 * height for height in heights))
    axes = figure.subplots(
        len(components), len(directions), squeeze=False, height_ratios=[height + 2 for height in heights]
    )
    top = max(1.0, float(np.nanmax(floats([row["recovered"] for row in cells]))))
    image: AxesImage | None = None
    for line, component in enumerate(components):
        for column, direction in enumerate(directions):
            ax = axes[line, column]
            mine = [row for row in cells if (_component(row), row["direction"]) == (component, direction)]
            image = _patch_panel(ax, mine, _places(cells, component), spans, top)
            ax.set_title(f"{component}, {DIRECTIONS.get(direction, direction)}" if line == 0 else component)
            if line < len(components) - 1:
                ax.set_xticklabels([])
            if column:
                ax.set_yticklabels([])
    if image is not None:
        figure.colorbar(image, ax=axes, shrink=0.5, pad=0.01, label="share of the effect recovered")
    caption(figure, _patch_caption(result, str(metric)))
    return figure


def _component(row: Row) -> str:
    subspace = row.get("subspace")
    return f"{row['component']} within {subspace}" if subspace else str(row["component"])


def _places(cells: list[Row], component: str) -> list[tuple[int, int | None]]:
    found = {(row["layer"], row["head"]) for row in cells if _component(row) == component}
    return sorted(found, key=lambda place: (place[0], -1 if place[1] is None else place[1]))


def _patch_panel(
    ax: Axes, cells: list[Row], places: list[tuple[int, int | None]], spans: list[str], top: float
) -> AxesImage:
    grid = np.full((len(places), len(spans)), np.nan)
    sure = np.zeros(grid.shape, dtype=bool)
    for row in cells:
        spot = places.index((row["layer"], row["head"])), spans.index(row["span"])
        grid[spot] = np.nan if row["recovered"] is None else row["recovered"]
        sure[spot] = row["p_adj"] is not None and row["p_adj"] < 0.05
    image = heat(ax, grid, vmin=-top, vmax=top, cmap="RdBu_r", origin="lower")
    write_cells(ax, image, grid, size=6.5, form=hundredths, bold=sure)
    ax.set_xticks(range(len(spans)), [span.replace("_", " ") for span in spans], rotation=40, ha="right")
    ax.set_yticks(range(len(places)), [_place_name(*place) for place in places])
    ax.tick_params(labelsize=7, length=0)
    return image


def _place_name(layer: int, head: int | None) -> str:
    return layer_name(layer) if head is None else f"{layer_name(layer)} head {head}"


def _patch_caption(result: Result, metric: str) -> str:
    values = result.values
    task = result.params.get("task", "")
    text = (
        f"{task}: n = {values.get('n_kept')} pairs answered correctly both ways; {metric.replace('_', ' ')}. "
        "0: the patch does nothing, 1: it does what replacing the whole prompt does. Bold: p < 0.05 after "
        "correction over the grid."
    )
    if values.get("self_patch_max") is not None:
        text += f" Controls: a self-patch changes at most {values['self_patch_max']:.1g}"
        if values.get("null_recovered") is not None:
            text += f", an unrelated city recovers at most {number(float(values['null_recovered']))}"
        text += "."
    return text


def heat(
    ax: Axes, grid: np.ndarray, *, vmin: float, vmax: float, cmap: str, origin: str = "upper"
) -> AxesImage:
    """A matrix as colours on `ax`; grey where there is no number."""
    ax.spines[:].set_visible(False)
    ax.set_facecolor("#eeeeee")
    return ax.imshow(
        grid,
        norm=Normalize(vmin, vmax),
        cmap=cmap,
        aspect="auto",
        origin="lower" if origin == "lower" else "upper",
        interpolation="nearest",
    )


def write_cells(
    ax: Axes,
    image: AxesImage,
    grid: np.ndarray,
    *,
    size: float | int,
    form: Callable[[float], str],
    bold: np.ndarray | None = None,
) -> None:
    """Numbers in the cells, black or white by the lightness of what is behind them."""
    for (line, column), value in np.ndenumerate(grid):
        red, green, blue, _ = image.cmap(image.norm(value))
        dark = np.isfinite(value) and 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        ax.text(
            column,
            line,
            form(value) if np.isfinite(value) else "·",
            ha="center",
            va="center",
            fontsize=size,
            color="white" if dark else "black",
            fontweight="bold" if bold is not None and bold[line, column] else "normal",
        )


def with_bars(ax: Axes, rows: list[Row], colour: str, marker: str, line: str, label: str) -> None:
    value = [row["lost"] for row in rows]
    reach = error_bars([row["lost_lo"] for row in rows], value, [row["lost_hi"] for row in rows])
    ax.errorbar(
        [row["layer"] for row in rows],
        floats(value),
        yerr=reach,
        color=colour,
        marker=marker,
        ls=line,
        capsize=2,
        label=label,
    )
