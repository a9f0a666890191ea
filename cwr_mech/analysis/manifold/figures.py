"""Figures of the manifold: the share that is place, new cities on and off it, what components carry."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cwr_mech.render.style import (
    BASELINE,
    GREYS,
    caption,
    error_bars,
    floats,
    layer_name,
    new_figure,
    task_look,
)
from cwr_mech.results import Result

OFF_UNITS = {
    "euclidean": "units of the activation",
    "residual": "deviations of ordinary cities",
}

SURFACING = (
    ("variance", "share of variance"),
    ("r2", "R² of the map on them alone"),
    ("alignment", "share of the probe inside them"),
)
MARKERS = ("o", "s", "^", "v", "D", "X", "P")


def manifold_figure(result: Result) -> Figure:
    """Left: share of variance that is a function of place, by layer. Middle and right: every city's distance
    along the map and off it, at the layer with the largest share.

    Reads table `layers`, arrays `along`, `off`, `is_new`; values `n`, `n_new`.
    """
    figure = new_figure(2.9)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1])
    rows = result.tables["layers"]
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == task]
        look = task_look(task)
        layers = [row["layer"] for row in mine]
        value = [row["share"] for row in mine]
        reach = error_bars([row["share_lo"] for row in mine], value, [row["share_hi"] for row in mine])
        style: dict[str, Any] = {"color": look.colour, "capsize": 2, "label": task}
        left.errorbar(layers, floats(value), yerr=reach, fmt=look.marker + "-", **style)
        left.plot(layers, floats([row["share_shuffled"] for row in mine]), ".:", color=BASELINE)
        left.set_xticks(layers)
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
        ax.hist(values[~is_new], bins, density=True, color=GREYS[2], label="ordinary, held out")
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
        ax.set_title(f"distance {name} the map" if name == "off" else "error along the map")
        ax.set_xlabel(unit)
        ax.set_yticks([])
    middle.legend()
    best = result.params["best"]
    caption(
        figure,
        f"n = {result.values['n']} ordinary cities, each on a map fitted without its fold, and "
        f"{result.values['n_new']} new ones; {layer_name(best['layer'], best['hook'])}, prompt "
        f"{best['task']}. Bars: 95 % over cities. Dotted: map fitted on shuffled places.",
    )
    return figure


def surfacing_figure(result: Result) -> Figure:
    """Variance, held-out R2 and probe alignment carried by the first k principal components, by layer.

    Reads table `surfacing` {layer, task, k, variance, r2, alignment, alignment_random}.
    """
    rows = [row for row in result.tables["surfacing"] if row["task"] == result.params["best"]["task"]]
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    figure = new_figure(2.8)
    axes = figure.subplots(1, 3, sharey=True)
    shades = [str(shade) for shade in np.linspace(0.7, 0.0, len(layers))]
    for ax, (column, title) in zip(axes, SURFACING, strict=True):
        for layer, shade in zip(layers, shades, strict=True):
            mine = [row for row in rows if row["layer"] == layer]
            k = [row["k"] for row in mine]
            ax.plot(k, floats([row[column] for row in mine]), "o-", color=shade, label=layer_name(layer))
        if column == "alignment":
            ax.plot(
                k, [row["alignment_random"] for row in mine], ":", color=BASELINE, label="random directions"
            )
        ax.set_xscale("log", base=2)
        ax.set_ylim(-0.05, 1.05)
        ax.set_xlabel("first k components")
        ax.set_title(title)
        ax.grid(axis="y")
    axes[2].legend()
    caption(
        figure,
        f"n = {result.values['n']} cities, prompt {result.params['best']['task']}; R² on held-out cities, "
        "0 without a map.",
    )
    return figure


def surfacing_tasks_figure(result: Result) -> Figure:
    """What the first k components carry at the deepest layer, by number of tasks: means with intervals over
    models, and single models.

    Reads tables `components` {run, n_tasks, layer, k, variance, r2, r2_shuffled, alignment, alignment_random}
    and `by_tasks` {layer, n_tasks, k, models, variance, ..._lo, ..._hi}; values `n`.
    """
    layer = max(row["layer"] for row in result.tables["components"])
    single = [row for row in result.tables["components"] if row["layer"] == layer]
    means = [row for row in result.tables["by_tasks"] if row["layer"] == layer]
    counts = sorted({row["n_tasks"] for row in means})
    shades = [str(shade) for shade in np.linspace(0.65, 0.0, len(counts))]
    figure = new_figure(3.2)
    axes = figure.subplots(1, 3, sharey=True)
    for ax, (column, title) in zip(axes, SURFACING, strict=True):
        for run in dict.fromkeys(row["run"] for row in single):
            mine = [row for row in single if row["run"] == run]
            shade = shades[counts.index(mine[0]["n_tasks"])]
            ax.plot([row["k"] for row in mine], floats([row[column] for row in mine]), color=shade, lw=0.5)
        for count, shade, marker in zip(counts, shades, MARKERS, strict=False):
            mine = [row for row in means if row["n_tasks"] == count]
            value = [row[column] for row in mine]
            reach = error_bars(
                [row[f"{column}_lo"] for row in mine], value, [row[f"{column}_hi"] for row in mine]
            )
            label = f"{count} task{'s' if count > 1 else ''}, {mine[0]['models']} model(s)"
            ks = [row["k"] for row in mine]
            ax.errorbar(ks, floats(value), yerr=reach, fmt=marker + "-", color=shade, capsize=2, label=label)
        control = {"r2": "r2_shuffled", "alignment": "alignment_random"}.get(column)
        if control:
            run = single[0]["run"]
            mine = [row for row in single if row["run"] == run]
            ax.plot([row["k"] for row in mine], floats([row[control] for row in mine]), ":", color=BASELINE)
        ax.set_xscale("log", base=2)
        ax.set_ylim(-0.15, 1.05)
        ax.set_xlabel("first k components")
        ax.set_title(title)
        ax.grid(axis="y")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    caption(
        figure,
        f"n = {result.values['n']} cities, {layer_name(layer)}. Bars: 95 % over models; thin lines: single "
        "models. Dotted controls: shuffled places (R²), random directions (probe).",
    )
    return figure
