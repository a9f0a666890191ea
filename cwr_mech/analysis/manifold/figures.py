"""Figures of the manifold: the share that is place, new cities on and off it, what components carry."""

import numpy as np
from matplotlib.figure import Figure

from cwr_mech.render.lines import line
from cwr_mech.render.numbers import layer_name
from cwr_mech.render.shown import plot
from cwr_mech.render.style import BASELINE, GREYS, caption, floats, new_figure, task_look
from cwr_mech.results import Result, groups

OFF_UNITS = {"euclidean": "units of the activation", "residual": "deviations of training cities"}


@plot("On-manifold and off-manifold", "places")
def manifold_figure(result: Result) -> Figure:
    """Left: share of variance that is a function of place, by layer. Middle and right: every city's distance
    along the manifold and off it, at the layer with the largest share.

    Reads table `layers`, arrays `along`, `off`, `is_new`; values `n`, `n_new`.
    """
    figure = new_figure(2.9)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1])
    rows = result.tables["layers"]
    for task, mine in groups(rows, "task").items():
        line(left, mine, "layer", "share", caps=2, label=task, **task_look(task).drawn)
        line(left, mine, "layer", "share_shuffled", marker=".", ls=":", color=BASELINE)
        left.set_xticks([row["layer"] for row in mine])
    left.set_ylim(-0.05, 1)
    left.set_xlabel("layer")
    left.set_title("share that is a function of place")
    left.legend()
    is_new = result.arrays["is_new"]
    for ax, name, unit in (
        (middle, "along", "tenths of a degree"),
        (right, "off", OFF_UNITS[result.params["metric"]]),
    ):
        values = result.arrays[name]
        bins = np.linspace(0, float(np.nanquantile(values, 0.99)) * 1.05, 24)
        ax.hist(values[~is_new], bins, density=True, color=GREYS[2], label="training cities, held out")
        if is_new.any():
            ax.hist(
                np.minimum(values[is_new], bins[-1]),
                bins,
                density=True,
                histtype="step",
                color="black",
                lw=1.6,
                label="new",
            )
        ax.set_title(f"distance {name} the map" if name == "off" else "error along the manifold")
        ax.set_xlabel(unit)
        ax.set_yticks([])
    middle.legend()
    best = result.params["best"]
    return caption(
        figure,
        f"n = {result.values['n']} training cities, each on a map fitted without its fold, and "
        f"{result.values['n_new']} new ones; {layer_name(best['layer'], best['hook'])}, prompt "
        f"{best['task']}. Bars: 95 % over cities. Dotted: map fitted on shuffled places.",
    )


@plot("The map over training")
def timeline_figure(result: Result) -> Figure:
    """Map, similarity to the last checkpoint and dimension against rows seen. Reads table `steps`."""
    rows = result.tables["steps"]
    seen = floats([row["rows"] for row in rows])
    figure = new_figure(2.8)
    left, right = figure.subplots(1, 2)
    curves = (
        ("r2", "R² of the map", "o", "-", "black"),
        ("share", "share that is a function of place", "s", "--", "#666666"),
        ("cka_final", "CKA with the last checkpoint", "^", "-.", "#999999"),
    )
    for column, label, marker, stroke, colour in curves:
        line(left, rows, "rows", column, caps=2, marker=marker, ls=stroke, color=colour, label=label)
    line(left, rows, "rows", "r2_shuffled", ls=":", color=BASELINE, label="R², shuffled places")
    left.set_ylim(-0.3, 1.05)
    left.legend()
    line(right, rows, "rows", "participation_singular", marker="o", color="black", label="effective rank")
    line(right, rows, "rows", "twonn", marker="s", ls="--", color="#888888", label="TwoNN dimension")
    right.set_ylim(0, 1.3 * float(np.nanmax(floats([row["participation_singular"] for row in rows]))))
    right.legend(loc="upper right", ncols=2)
    for ax in (left, right):
        ax.set_xscale("symlog", linthresh=max(float(seen[seen > 0].min()), 1.0) if (seen > 0).any() else 1.0)
        ax.set_xlim(0, float(seen.max()) * 1.15)
        ax.set_xlabel("rows seen")
        ax.grid(axis="y")
    return caption(
        figure,
        f"n = {result.values['n']} training cities, "
        f"{layer_name(result.params['layer'], result.params['hook'])}, prompt {result.params['task']}. R² on "
        "held-out cities, control: shuffled places (dotted); bars: 95 % over cities. Effective rank: "
        "participation ratio of singular values, as in the paper.",
    )
