"""Figures of places: the map beside its decoded copy, and the first principal components."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cwr_mech.analysis.probing.probe import place_errors
from cwr_mech.render.numbers import layer_name, number
from cwr_mech.render.shown import plot
from cwr_mech.render.style import Look, caption, new_figure, region_looks
from cwr_mech.results import Result
from cwr_mech.world.new_cities import shown_regions

MARGIN = 0.15
"""Share of the world's extent shown beyond its borders; decoded cities further out are counted."""

MOST_ARROWS = 400
ARROWS: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1, "headwidth": 4, "zorder": 1}


@plot("The map, true and decoded", "map")
def map_figure(result: Result) -> Figure:
    """True places above, probe-decoded places below, with arrows from true to decoded: grey for old cities
    (at most MOST_ARROWS of them), black for new ones.

    Reads arrays `decoded`, `true` [city 2], `is_new`, `is_test`, `region` [city]; params `map`.
    """
    true, decoded = result.arrays["true"].astype(float), result.arrays["decoded"]
    is_new, is_test = result.arrays["is_new"], result.arrays["is_test"]
    region = shown_regions(result.arrays["region"], true)
    shown = is_new | is_test
    looks = region_looks(region.tolist())
    low, high = true.min(axis=0), true.max(axis=0)
    reach = MARGIN * (high - low)
    span_x, span_y = np.maximum(high - low + 2 * reach, 1.0)
    figure = new_figure(float(np.clip(2 * 7.1 * span_y / span_x, 3, 9)) + 1.7)
    axes = figure.subplots(2, 1, sharex=True, sharey=True)
    _scatter(axes[0], true, region, is_new, looks)
    axes[0].set_title("true places")
    _scatter(axes[1], decoded[shown], region[shown], is_new[shown], looks)
    axes[1].set_title(f"decoded from {_where(result)}, cities the probe was not fitted on")
    old = np.flatnonzero(is_test & ~is_new)
    some = old[:: -(-old.size // MOST_ARROWS) or 1]
    for rows, colour, width in ((some, "#9a9a9a", 0.0012), (np.flatnonzero(is_new), "#000000", 0.0016)):
        way = decoded[rows] - true[rows]
        axes[1].quiver(*true[rows].T, *way.T, color=colour, width=width, **ARROWS)
    for ax in axes:
        ends = np.stack([low - reach, high + reach], axis=1)
        ax.set(xlim=ends[0], ylim=ends[1], aspect="equal", ylabel="y (0.1° of latitude)")
        ax.grid(True)
    axes[1].set_xlabel("x (0.1° of longitude)")
    _legend(figure, looks)
    return caption(figure, _map_caption(result, (low - reach, high + reach)))


def _map_caption(result: Result, frame: tuple[np.ndarray, np.ndarray]) -> str:
    true, decoded = result.arrays["true"].astype(float), result.arrays["decoded"]
    is_new, is_test = result.arrays["is_new"], result.arrays["is_test"]
    old = is_test & ~is_new
    text = (
        f"n = {old.sum()} held-out cities, mean error {number(_mean_error(decoded[old], true[old]))} tenths "
        f"of a degree; each is decoded by a probe fitted without it. Arrows run from true to decoded."
    )
    if is_new.any():
        text += (
            f" Stars: {is_new.sum()} new cities, decoded by a probe fitted on old ones, mean error "
            f"{number(_mean_error(decoded[is_new], true[is_new]))}, black arrows."
        )
    shown = is_new | is_test
    outside = int(((decoded[shown] < frame[0]) | (decoded[shown] > frame[1])).any(axis=1).sum())
    if outside:
        text += f" {outside} decoded cities lie outside the frame."
    control = next((note for note in result.notes if note.startswith("Control")), "")
    return f"{text} {control}".strip()


def _mean_error(decoded: np.ndarray, true: np.ndarray) -> float:
    return float(place_errors(decoded, true).mean()) if len(true) else float("nan")


@plot("First principal components", "pca")
def pca_figure(result: Result) -> Figure:
    """The first two principal components, and the first three in space, cities coloured by region.

    Reads arrays `components` [city 3], `explained` [3], `true` [city 2], `region`, `is_new` [city]; params
    `map`.
    """
    components, explained = result.arrays["components"], result.arrays["explained"]
    region, is_new = shown_regions(result.arrays["region"], result.arrays["true"]), result.arrays["is_new"]
    looks = region_looks(region.tolist())
    figure = new_figure(4.4)
    flat = figure.add_subplot(1, 2, 1)
    space = figure.add_subplot(1, 2, 2, projection="3d")
    _scatter(flat, components[:, :2], region, is_new, looks)
    _scatter(space, components, region, is_new, looks)
    flat.set_aspect("equal", adjustable="datalim")
    names = [f"component {k + 1} ({explained[k]:.0%})" for k in range(3)]
    for ax in (flat, space):
        ax.set_xlabel(names[0])
        ax.set_ylabel(names[1])
    space.set_zlabel(names[2], fontsize=7.5, labelpad=-2)
    space.xaxis.label.set_fontsize(7.5)
    space.yaxis.label.set_fontsize(7.5)
    space.tick_params(labelsize=6, pad=-2)
    space.view_init(elev=24, azim=-62)
    space.set_box_aspect((1, 1, 0.8), zoom=0.86)
    flat.set_title(f"{_where(result)}")
    _legend(figure, looks)
    return caption(
        figure,
        f"n = {len(region)} cities ({int(is_new.sum())} new, stars). Components of the old cities' "
        "activations with their shares of variance, in the model's own units; fitted without looking at "
        "coordinates or regions.",
    )


def _where(result: Result) -> str:
    place = result.params["map"]
    hook = next((row["hook"] for row in result.tables["layers"] if row["layer"] == place["layer"]), None)
    return f"{place['run']}, {layer_name(place['layer'], hook)}, {place['task']} prompt"


def _scatter(
    ax: Axes, points: np.ndarray, region: np.ndarray, is_new: np.ndarray, looks: dict[str, Look]
) -> None:
    size = float(np.clip(4000 / max(len(points), 1), 5, 26))
    for name, look in looks.items():
        mine = region == name
        for rows, scale, marker in ((mine & ~is_new, 1.0, look.marker), (mine & is_new, 2.4, "*")):
            if rows.any():
                style: dict[str, Any] = {"s": size * scale, "c": look.colour, "marker": marker}
                style |= {"linewidths": 0.3 if marker == "*" else 0, "edgecolors": "white"}
                ax.scatter(*points[rows].T, zorder=3 if marker == "*" else 2, **style)


def _legend(figure: Figure, looks: dict[str, Look]) -> None:
    handles: Sequence[Line2D] = [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle="", markersize=5, label=name)
        for name, look in looks.items()
    ]
    style: dict[str, Any] = {"handletextpad": 0.1, "columnspacing": 0.9, "fontsize": 7.5}
    figure.legend(handles=handles, loc="outside upper center", ncols=7, **style)
