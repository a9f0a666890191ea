"""Figures of where updates go: shares in the map's directions, and movement towards the true place."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cwr_mech.figures_style import BASELINE, caption, floats, layer_name, new_figure, task_look
from cwr_mech.results import Result, Row

UPDATE_TITLES = {
    "gradient": "gradient at the city",
    "adam": "one Adam step",
    "plain": "one plain step",
}
SITE_NAMES = {"last_digit": "last digit", "delimiter": "delimiter"}


def subspace_figure(result: Result) -> Figure:
    """Share of new cities' updates inside the manifold's directions, by layer and task, with both nulls.

    Reads table `shares` {task, update, group, site, layer, basis, share, lo, hi, null, null_hi, like,
    like_hi, n}; params `updates`, `sites`.
    """
    table = [r for r in result.tables["shares"] if r["group"] == "new" and r["basis"] == "manifold"]
    updates = [name for name in UPDATE_TITLES if any(row["update"] == name for row in table)]
    sites = list(result.params["sites"])
    figure = new_figure(1.0 + 2.1 * len(sites))
    grid = figure.subplots(len(sites), len(updates), squeeze=False, sharey=True)
    for i, site in enumerate(sites):
        for j, update in enumerate(updates):
            rows = [row for row in table if row["site"] == site and row["update"] == update]
            ax = grid[i, j]
            _shares(ax, rows)
            ax.set_title(UPDATE_TITLES[update] if i == 0 else "")
            if j == 0:
                ax.set_ylabel(f"share of energy\n{SITE_NAMES.get(site, site)}")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    n = max((row["n"] for row in table), default=0)
    caption(
        figure,
        f"{result.params['runs'][0]}: {n} new cities, inside directions of the map fitted on old ones; bars "
        "95 % over cities. Red: random directions of equal rank (band: 95 %), and directions drawn with the "
        "activations' own covariance (dashed, its 97.5 % point dotted), mean over tasks.",
    )
    return figure


def _shares(ax: Axes, rows: list[Row]) -> None:
    layers = sorted({row["layer"] for row in rows})
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = sorted((row for row in rows if row["task"] == task), key=lambda row: row["layer"])
        look, x = task_look(task), [layers.index(row["layer"]) for row in mine]
        ax.vlines(
            x, floats([r["lo"] for r in mine]), floats([r["hi"] for r in mine]), color=look.colour, lw=0.7
        )
        ax.plot(x, floats([r["share"] for r in mine]), color=look.colour, marker=look.marker, label=task)
    means = {
        key: [float(np.mean([row[key] for row in rows if row["layer"] == layer])) for layer in layers]
        for key in ("null_lo", "null_hi", "like", "like_hi")
    }
    x = list(range(len(layers)))
    ax.fill_between(x, means["null_lo"], means["null_hi"], color=BASELINE, alpha=0.2, lw=0, label="random")
    ax.plot(x, means["like"], color=BASELINE, ls="--", lw=1.2, label="random, like the activations")
    ax.plot(x, means["like_hi"], color=BASELINE, ls=":", lw=1)
    ax.set_xticks(x, [layer_name(layer) for layer in layers])
    ax.set_ylim(0, 1)


def directions_figure(result: Result) -> Figure:
    """Distance gained by one Adam step towards the true place, split into the parts on and off the map.

    Reads table `directions` {task, update, group, site, layer, gain, gain_on, gain_off, cosine, lo, hi,
    cosine_shuffled, n}; params `sites`, `lr`.
    """
    table = [r for r in result.tables["directions"] if r["group"] == "new" and r["update"] == "adam"]
    sites = list(result.params["sites"])
    figure = new_figure(1.0 + 2.1 * len(sites))
    grid = figure.subplots(len(sites), 3, squeeze=False)
    for i, site in enumerate(sites):
        rows = [row for row in table if row["site"] == site]
        layers = sorted({row["layer"] for row in rows})
        for j, (key, title) in enumerate(
            (
                ("cosine", "cosine with the way"),
                ("gain_on", "gained on the map"),
                ("gain_off", "gained off it"),
            )
        ):
            ax = grid[i, j]
            for task in dict.fromkeys(row["task"] for row in rows):
                mine = sorted((row for row in rows if row["task"] == task), key=lambda row: row["layer"])
                look, x = task_look(task), [layers.index(row["layer"]) for row in mine]
                if key == "cosine":
                    ends = floats([r["lo"] for r in mine]), floats([r["hi"] for r in mine])
                    ax.vlines(x, *ends, color=look.colour, lw=0.7)
                ax.plot(x, floats([r[key] for r in mine]), color=look.colour, marker=look.marker, label=task)
            if key == "cosine":
                means = [
                    np.mean([r["cosine_shuffled"] for r in rows if r["layer"] == layer]) for layer in layers
                ]
                ax.plot(range(len(layers)), means, color=BASELINE, ls="--", lw=1.2, label="exchanged")
                ax.set_ylim(-1.05, 1.05)
                ax.set_ylabel(SITE_NAMES.get(site, site))
            ax.axhline(0, color="#888888", lw=0.6)
            ax.set_xticks(range(len(layers)), [layer_name(layer) for layer in layers])
            ax.set_title(title if i == 0 else "")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    n = max((row["n"] for row in table), default=0)
    caption(
        figure,
        f"{result.params['runs'][0]}: {n} new cities. Cosine between the movement of the decoded place and "
        "the way to the true place (bars: 95 % over cities; red: ways of cities exchanged). Gains: tenths of "
        f"a degree a step at rate {result.params['lr']:g}.",
    )
    return figure
