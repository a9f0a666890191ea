"""A matplotlib figure as interactive panels: one plotly figure for each of its axes.

What a figure shows is decided once, by the function that draws it. Here its artists are read back, with the
names that its legends and tick labels give, so that every point answers to the mouse.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.quiver import Quiver
from matplotlib.ticker import FixedLocator

from cwr_mech.render import traces
from cwr_mech.render.traces import Names, Trace, short

if TYPE_CHECKING:
    import plotly.graph_objects as go

SHADES = 11
"""Colours by which a colour map is passed on."""
INCH = 62
"""Pixels on the page for an inch of the figure."""


def panels(figure: Figure) -> "list[go.Figure]":
    """One plotly figure for each visible pair of axes of `figure`, in their order; without colour bars."""
    figure.set_layout_engine("none")  # the page lays panels out; fitting labels would take seconds
    figure.draw_without_rendering()  # settles ticks and limits
    axes = [ax for ax in figure.axes if ax.get_visible() and not hasattr(ax, "_colorbar")]
    names = traces.names_of([*figure.legends, *(legend for ax in axes if (legend := ax.get_legend()))])
    shared = bool(figure.legends)
    return [
        _panel(ax, axes, names, legend=ax.get_legend() is not None or (shared and ax is axes[0]))
        for ax in axes
    ]


def _panel(ax: Axes, axes: Sequence[Axes], names: Names, *, legend: bool) -> "go.Figure":
    import plotly.graph_objects as go

    drawn: list[Trace] = []
    shapes: list[Trace] = []
    space = ax.name == "3d"
    for trace in _traces(ax, axes, names):
        (shapes if trace.get("type") == "rect" else drawn).append(trace)
    shown: set[str] = set()
    for trace in drawn:
        name = trace.get("name", "")
        trace["showlegend"] = bool(legend and name and name not in shown and trace["type"] != "heatmap")
        shown.add(name)
    title = ax.get_title("left") or ax.get_title("center") or ax.get_title("right")
    layout: Trace = {
        "template": "none",
        "title": {"text": title.replace("\n", "<br>")},
        "shapes": shapes,
        "height": int(np.clip(ax.get_window_extent().height / ax.figure.dpi * INCH + 110, 260, 620)),
        "showlegend": any(trace["showlegend"] for trace in drawn),
    }
    if space:
        layout["scene"] = {f"{d}axis": {"title": {"text": getattr(ax, f"get_{d}label")()}} for d in "xyz"}
    else:
        layout |= {"xaxis": _axis(ax, axes, "x"), "yaxis": _axis(ax, axes, "y")}
        layout["annotations"] = _annotations(ax)
        if ax.get_aspect() == 1.0:
            layout["yaxis"] |= {"scaleanchor": "x", "scaleratio": 1}
            layout["xaxis"]["constrain"] = "domain"
    return go.Figure({"data": drawn, "layout": layout})


def _axis(ax: Axes, axes: Sequence[Axes], way: str) -> Trace:
    axis = ax.xaxis if way == "x" else ax.yaxis
    low, high = ax.get_xlim() if way == "x" else ax.get_ylim()
    scale = axis.get_scale()
    found: Trace = {"title": {"text": axis.get_label_text()}, "type": "log" if scale == "log" else "linear"}
    if low <= 0 and scale == "log":
        return found
    found["range"] = [float(np.log10(end)) if scale == "log" else float(end) for end in (low, high)]
    labels = _tick_labels(ax, axes, way)
    if labels:
        found |= {"tickmode": "array", "tickvals": list(labels), "ticktext": list(labels.values())}
    return found


def _tick_labels(ax: Axes, axes: Sequence[Axes], way: str) -> dict[float, str]:
    """Position -> words along an axis whose ticks are fixed; those of a panel beside it where it has none."""
    for other in (ax, *(one for one in axes if _beside(ax, one, way))):
        axis = other.xaxis if way == "x" else other.yaxis
        if isinstance(axis.get_major_locator(), FixedLocator):
            texts = [label.get_text().replace("\n", " ") for label in axis.get_ticklabels()]
            if any(texts):
                return dict(zip(map(float, axis.get_ticklocs()), texts, strict=False))
    return {}


def _beside(ax: Axes, other: Axes, way: str) -> bool:
    """Whether two panels share an axis: those of one row or column, and matrices of one shape."""
    if ax.images and other.images and ax.images[0].get_size() == other.images[0].get_size():
        return True
    mine, theirs = ax.get_subplotspec(), other.get_subplotspec()
    if mine is None or theirs is None or mine.get_gridspec() is not theirs.get_gridspec():
        return False
    return mine.colspan == theirs.colspan if way == "x" else mine.rowspan == theirs.rowspan


def _traces(ax: Axes, axes: Sequence[Axes], names: Names) -> Iterator[Trace]:
    """What plotly should draw for the artists of `ax`, lowest first."""
    used: set[int] = set()
    for container in ax.containers:
        if isinstance(container, ErrorbarContainer):
            line, caps, bars = container
            used |= {id(part) for part in (line, *caps, *bars)}
            if line is not None:
                yield traces.line(ax, line, names, container.get_label()) | traces.reach(line, bars)
        elif isinstance(container, BarContainer):
            used |= {id(part) for part in container}
            yield traces.bars(container)
    for artist in sorted(ax.get_children(), key=lambda one: one.get_zorder()):
        if id(artist) in used or not artist.get_visible() or artist is ax.patch:
            continue
        if isinstance(artist, AxesImage):
            yield _matrix(ax, axes, artist)
        elif isinstance(artist, Line2D):
            yield traces.line(ax, artist, names)
        elif isinstance(artist, PathCollection):
            yield traces.points(ax, artist, names)
        elif isinstance(artist, Quiver):
            ends = artist.XY + np.stack([artist.U, artist.V], axis=1)
            yield traces.segments(np.stack([artist.XY, ends], axis=1), artist)
        elif isinstance(artist, LineCollection):
            segments = [part for part in artist.get_segments() if len(part) >= 2]
            if segments and ax.name != "3d":
                yield traces.segments(np.stack([part[[0, -1]] for part in segments]), artist)
        elif isinstance(artist, PolyCollection) and artist.get_paths():
            yield traces.band(artist)
        elif isinstance(artist, Rectangle):
            yield traces.span(ax, artist)


def _matrix(ax: Axes, axes: Sequence[Axes], image: AxesImage) -> Trace:
    """A heat map that names row and column on hover; with numbers where the figure has them."""
    grid = short(image.get_array())
    lines, columns = _labels(ax, axes, "y", grid.shape[0]), _labels(ax, axes, "x", grid.shape[1])
    written = {
        (round(text.get_position()[1]), round(text.get_position()[0])): text.get_text()
        for text in ax.texts
        if text.get_transform() == ax.transData
    }
    places = np.indices(grid.shape).reshape(2, -1).T.tolist()
    words = np.array([written.get((line, column), "") for line, column in places]).reshape(grid.shape)
    shades = np.linspace(0, 1, SHADES)
    return {
        "type": "heatmap", "z": grid, "x": list(range(grid.shape[1])), "y": list(range(grid.shape[0])),
        "zmin": image.norm.vmin, "zmax": image.norm.vmax, "name": "",
        "colorscale": [[float(shade), to_hex(image.cmap(shade))] for shade in shades],
        "customdata": [[f"{line} · {column}" for column in columns] for line in lines],
        "hovertemplate": "%{customdata}<br><b>%{z:.3~f}</b><extra></extra>",
        "hoverongaps": False, "colorbar": {"thickness": 10, "len": 0.9, "outlinewidth": 0},
        **({"text": words.tolist(), "texttemplate": "%{text}"} if written else {}),
    }  # fmt: skip


def _labels(ax: Axes, axes: Sequence[Axes], way: str, count: int) -> list[str]:
    """A name for every row or column: its tick's, or that of the tick before it (blocks), or its number."""
    ticks = _tick_labels(ax, axes, way)
    return [
        ticks.get(float(place), f"{'column' if way == 'x' else 'row'} {place + 1}") for place in range(count)
    ]


def _annotations(ax: Axes) -> list[Trace]:
    """Words at places of a panel; the numbers in a matrix belong to its cells."""
    if ax.images:
        return []
    return [
        {
            "x": float(text.get_position()[0]), "y": float(text.get_position()[1]), "showarrow": False,
            "text": text.get_text().replace("\n", "<br>"), "font": {"size": 10},
            "xanchor": {"ha": "left"}.get("ha", text.get_horizontalalignment()),
        }
        for text in ax.texts
        if text.get_transform() == ax.transData and text.get_text()
    ]  # fmt: skip
