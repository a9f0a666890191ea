"""What plotly draws for each kind of matplotlib artist: lines, error bars, points, arrows, bars and bands."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.patches import Rectangle
from matplotlib.quiver import Quiver

Trace = dict[str, Any]
"""A trace or shape as plotly takes it."""
Names = dict[tuple[str, ...], str]
"""How an artist looks -> what the legends call it."""
SYMBOLS = {
    "o": "circle", "s": "square", "^": "triangle-up", "v": "triangle-down", "D": "diamond", "X": "x",
    "P": "cross", "*": "star", "+": "cross-thin-open", "x": "x-thin-open", "d": "diamond-tall",
    "|": "line-ns-open", "_": "line-ew-open", ".": "circle", "<": "triangle-left", ">": "triangle-right",
}  # fmt: skip
"""matplotlib's markers by plotly's names: shapes, so that a print in grey still tells series apart."""
SOLID = ("circle", "square", "diamond", "cross", "x")
"""Symbols that plotly draws in space."""
DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}
HOVER = "%{x}, %{y}"


def hexed(colour: Any) -> str:
    """A colour of matplotlib as plotly takes it."""
    return to_hex(colour)


def names_of(legends: Sequence[Legend]) -> Names:
    """How an artist looks -> what the legends call it."""
    found: Names = {}
    for legend in legends:
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=False):
            if isinstance(handle, Line2D):
                found.setdefault(_look(handle), text.get_text().replace("\n", " "))
    return found


def _look(line: Line2D) -> tuple[str, ...]:
    return hexed(line.get_color()), str(line.get_marker()), str(line.get_linestyle())


def _called(artist: Artist, names: Names, colour: str, marker: str) -> str:
    """The name of an artist: its own label, or that of the legend entry that looks like it."""
    own = str(artist.get_label())
    if own and not own.startswith("_"):
        return own.replace("\n", " ")
    exact = names.get(_look(artist)) if isinstance(artist, Line2D) else None
    near = [
        name
        for look, name in names.items()
        if look[0] == colour and (not marker or look[1] in (marker, "None"))
    ]
    return exact or (near[0] if len(near) == 1 else "")


def short(values: Any) -> np.ndarray:
    """float32: more than a screen or a reader can tell apart."""
    return np.ma.filled(np.ma.asarray(values, dtype=np.float64), np.nan).astype(np.float32)


def line(ax: Axes, line: Line2D, names: Names, label: object = "") -> Trace:
    xy = np.stack([np.asarray(values, dtype=float) for values in line.get_data(orig=False)], axis=1)
    if line.get_transform() != ax.transData:  # a line across the whole panel: axhline, axvline
        xy = ax.transData.inverted().transform(line.get_transform().transform(xy))
    colour, marker, style = hexed(line.get_color()), str(line.get_marker()), str(line.get_linestyle())
    mode = [word for word, there in (("lines", style in DASHES), ("markers", marker in SYMBOLS)) if there]
    own = str(label) if label and not str(label).startswith("_") else ""
    name = own.replace("\n", " ") or _called(line, names, colour, marker if marker in SYMBOLS else "")
    face: Any = line.get_markerfacecolor()
    open_face = face == "none" or hexed(face) == "#ffffff"
    symbol = SYMBOLS.get(marker, "circle") + ("-open" if open_face and marker in "osDv^*XP" else "")
    return {
        "type": "scatter",
        "mode": "+".join(mode) or "lines",
        "x": short(xy[:, 0]),
        "y": short(xy[:, 1]),
        "name": name,
        "opacity": line.get_alpha() or 1.0,
        "line": {"color": colour, "dash": DASHES.get(style, "solid"), "width": 1.6},
        "marker": {
            "symbol": symbol,
            "size": float(np.clip(line.get_markersize() * 1.6, 5, 14)),
            "color": colour,
        },
        "hovertemplate": f"{HOVER}<extra>{name}</extra>",
    }


def reach(line: Line2D, bars: Sequence[LineCollection]) -> Trace:
    """Error bars of plotly from the segments that matplotlib drew."""
    x, y = (np.asarray(values, dtype=float) for values in line.get_data(orig=False))
    found: Trace = {}
    for bar in bars:
        ends = np.array([part[[0, -1]] for part in bar.get_segments()])
        if len(ends) != len(x):
            continue
        for way, middle, axis in (("error_x", x, 0), ("error_y", y, 1)):
            low, high = middle - ends[:, 0, axis], ends[:, 1, axis] - middle
            if np.nanmax(np.abs([low, high]), initial=0.0) > 0:
                about = {"type": "data", "symmetric": False, "thickness": 1, "width": 3}
                found[way] = about | {"array": short(high), "arrayminus": short(low)}
    if found:
        way = next(iter(found))
        middle = y if way == "error_y" else x
        reach = found[way]["arrayminus"], found[way]["array"]
        found["customdata"] = short(np.stack([middle - reach[0], middle + reach[1]], axis=1))
        told = "from %{customdata[0]:.3~f} to %{customdata[1]:.3~f}"
        found["hovertemplate"] = f"{HOVER}<br>{told}<extra>%{{fullData.name}}</extra>"
    return found


def points(ax: Axes, points: PathCollection, names: Names) -> Trace:
    offsets: Any = getattr(points, "_offsets3d", None)
    xy = np.stack(offsets, 1) if offsets is not None else np.ma.filled(points.get_offsets(), np.nan)
    colours = list(map(hexed, points.get_facecolor())) or list(map(hexed, points.get_edgecolor()))
    marker = _marker_of(points)
    hollow = len(set(colours)) == 1 and colours[0] == "#ffffff"
    if hollow:
        colours = [hexed(colour) for colour in points.get_edgecolor()]
    one = colours[0] if colours and len(set(colours)) == 1 else None
    name = _called(points, names, one or "", marker)
    symbol = SYMBOLS.get(marker, "circle")
    size = float(np.clip(np.sqrt(np.median(points.get_sizes())) * 1.4, 4, 14))
    look = {"symbol": symbol + ("-open" if hollow else ""), "size": size, "color": one or colours}
    extra = f"<extra>{name}</extra>"
    if offsets is not None:
        look |= {"symbol": symbol if symbol in SOLID else "diamond-open", "size": max(2.0, size / 2.2)}
        return {
            "type": "scatter3d", "mode": "markers", "name": name, "marker": look,
            **{way: short(xy[:, axis]) for axis, way in enumerate("xyz")},
            "hovertemplate": "%{x}, %{y}, %{z}" + extra,
        }  # fmt: skip
    return {
        "type": "scatter", "mode": "markers", "name": name, "marker": look,
        "x": short(xy[:, 0]), "y": short(xy[:, 1]), "hovertemplate": HOVER + extra,
    }  # fmt: skip


def _marker_of(points: PathCollection) -> str:
    """The marker that a scatter was drawn with: matplotlib keeps its outline only."""
    outline = np.asarray(points.get_paths()[0].vertices)
    for name in SYMBOLS:
        style = MarkerStyle(name)
        vertices = np.asarray(style.get_path().transformed(style.get_transform()).vertices)
        if vertices.shape == outline.shape and np.allclose(vertices, outline):
            return name
    return "o"


def segments(ends: np.ndarray, artist: Any) -> Trace:
    """Arrows and bars as lines from one end to the other: [segment 2 2]."""
    gaps = np.full((len(ends), 1, 2), np.nan)
    xy = np.concatenate([np.asarray(ends, dtype=float), gaps], axis=1).reshape(-1, 2)
    face = artist.get_facecolor() if isinstance(artist, Quiver) else artist.get_color()
    colour = to_hex(np.atleast_2d(face)[0])
    return {
        "type": "scatter", "mode": "lines", "hoverinfo": "skip", "name": "",
        "x": short(xy[:, 0]), "y": short(xy[:, 1]), "line": {"color": colour, "width": 1},
    }  # fmt: skip


def band(band: PolyCollection) -> Trace:
    xy = np.asarray(band.get_paths()[0].vertices)
    return {
        "type": "scatter", "mode": "none", "fill": "toself", "hoverinfo": "skip", "name": "",
        "x": short(xy[:, 0]), "y": short(xy[:, 1]), "opacity": float(band.get_alpha() or 0.3),
        "fillcolor": to_hex(np.atleast_2d(band.get_facecolor())[0]),
    }  # fmt: skip


def bars(bars: BarContainer) -> Trace:
    boxes = [bar.get_bbox() for bar in bars.patches]
    lying = bars.orientation == "horizontal"
    middle = [(box.y0 + box.y1) / 2 if lying else (box.x0 + box.x1) / 2 for box in boxes]
    ends = [(box.x0, box.x1) if lying else (box.y0, box.y1) for box in boxes]
    label = str(bars.get_label())
    length = [high - low for low, high in ends]
    return {
        "type": "bar",
        "orientation": "h" if lying else "v",
        "x": short(length if lying else middle),
        "y": short(middle if lying else length),
        "base": short([low for low, _ in ends]),
        "width": short([box.height if lying else box.width for box in boxes]),
        "name": "" if label.startswith("_") else label,
        "marker": {
            "color": [hexed(bar.get_facecolor()) for bar in bars.patches],
            "pattern": {"shape": "/" if bars.patches and bars.patches[0].get_hatch() else ""},
        },
        "hovertemplate": "%{value:.4~g}<extra></extra>",
    }


def span(ax: Axes, box: Rectangle) -> Trace:
    """A shaded part of a panel, or a frame around a cell."""
    outline = ax.transData.inverted().transform(box.get_transform().transform(box.get_path().vertices))
    (x0, y0), (x1, y1) = outline.min(axis=0), outline.max(axis=0)
    filled = box.get_fill()
    return {
        "type": "rect", "x0": x0, "x1": x1, "y0": y0, "y1": y1, "layer": "below" if filled else "above",
        "fillcolor": hexed(box.get_facecolor()) if filled else "rgba(0,0,0,0)",
        "opacity": float(box.get_alpha() or 1.0) if filled else 1.0,
        "line": {"width": 0 if filled else 2, "color": hexed(box.get_edgecolor())},
    }  # fmt: skip
