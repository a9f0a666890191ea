"""Figures of where updates go: shares in the map's directions, and movement towards the true place."""

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cwr_mech.render.grids import heat, hundredths, write_cells
from cwr_mech.render.style import (
    BASELINE,
    caption,
    floats,
    layer_name,
    new_figure,
    task_look,
)
from cwr_mech.results import Result, Row

UPDATE_TITLES = {
    "gradient": "gradient at the city",
    "adam": "one Adam step",
    "plain": "one plain step",
}
LEAST_MAP = 0.3
"""Share of the variance that place must explain for directions of a map to mean anything."""
SITE_NAMES = {"last_digit": "last digit", "delimiter": "delimiter"}


def subspace_figure(result: Result) -> Figure:
    """Share of new cities' updates inside the manifold's directions, by layer and task, with both nulls.

    Reads tables `shares` {task, update, group, site, layer, basis, share, lo, hi, null, null_hi, like,
    like_hi, n} and `spaces`; params `updates`, `sites`.
    """
    table = [row for row in _on_a_map(result, "shares") if row["basis"] == "manifold"]
    layers = sorted({row["layer"] for row in result.tables["shares"]})
    updates = [name for name in UPDATE_TITLES if name in result.params["updates"]]
    sites = list(result.params["sites"])
    figure = new_figure(1.0 + 2.1 * len(sites))
    grid = figure.subplots(len(sites), len(updates), squeeze=False, sharey=True)
    for i, site in enumerate(sites):
        for j, update in enumerate(updates):
            rows = [row for row in table if row["site"] == site and row["update"] == update]
            ax = grid[i, j]
            _shares(ax, rows, layers)
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
        "activations' own covariance (dashed, its 97.5 % point dotted), mean over tasks. "
        f"Shown where place explains at least {LEAST_MAP} of the activations' variance.",
    )
    return figure


def _on_a_map(result: Result, table: str) -> list[Row]:
    """Rows about new cities at prompts, sites and layers where there is a map."""
    clear = {
        (row["task"], row["site"], row["layer"])
        for row in result.tables["spaces"]
        if row["map_variance"] >= LEAST_MAP
    }
    rows = [row for row in result.tables[table] if row["group"] == "new"]
    return [row for row in rows if (row["task"], row["site"], row["layer"]) in clear]


def _shares(ax: Axes, rows: list[Row], layers: list[int]) -> None:
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = sorted((row for row in rows if row["task"] == task), key=lambda row: row["layer"])
        look, x = task_look(task), [layers.index(row["layer"]) for row in mine]
        ax.vlines(
            x, floats([r["lo"] for r in mine]), floats([r["hi"] for r in mine]), color=look.colour, lw=0.7
        )
        ax.plot(x, floats([r["share"] for r in mine]), color=look.colour, marker=look.marker, label=task)
    here = sorted({row["layer"] for row in rows})
    means = {
        key: [float(np.mean([row[key] for row in rows if row["layer"] == layer])) for layer in here]
        for key in ("null_lo", "null_hi", "like", "like_hi")
    }
    x = [layers.index(layer) for layer in here]
    ax.fill_between(x, means["null_lo"], means["null_hi"], color=BASELINE, alpha=0.2, lw=0, label="random")
    ax.plot(x, means["like"], color=BASELINE, ls="--", lw=1.2, label="random, like the activations")
    ax.plot(x, means["like_hi"], color=BASELINE, ls=":", lw=1)
    ax.set_xticks(range(len(layers)), [layer_name(layer) for layer in layers])
    ax.set_xlim(-0.3, len(layers) - 0.7)
    ax.set_ylim(0, 1)


def directions_figure(result: Result) -> Figure:
    """Distance gained by one Adam step towards the true place, split into the parts on and off the map.

    Reads tables `directions` {task, update, group, site, layer, gain, gain_on, gain_off, cosine, lo, hi,
    cosine_shuffled, n} and `spaces`; params `sites`, `lr`.
    """
    table = [row for row in _on_a_map(result, "directions") if row["update"] == "adam"]
    sites = list(result.params["sites"])
    layers = sorted({row["layer"] for row in result.tables["directions"]})
    figure = new_figure(1.0 + 2.1 * len(sites))
    grid = figure.subplots(len(sites), 3, squeeze=False)
    for i, site in enumerate(sites):
        rows = [row for row in table if row["site"] == site]
        here = sorted({row["layer"] for row in rows})
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
                    np.mean([r["cosine_shuffled"] for r in rows if r["layer"] == layer]) for layer in here
                ]
                x = [layers.index(layer) for layer in here]
                ax.plot(x, means, color=BASELINE, ls="--", lw=1.2, label="exchanged")
                ax.set_ylim(-1.05, 1.05)
                ax.set_ylabel(SITE_NAMES.get(site, site))
            ax.axhline(0, color="#888888", lw=0.6)
            ax.set_xticks(range(len(layers)), [layer_name(layer) for layer in layers])
            ax.set_xlim(-0.3, len(layers) - 0.7)
            ax.set_title(title if i == 0 else "")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    n = max((row["n"] for row in table), default=0)
    caption(
        figure,
        f"{result.params['runs'][0]}: {n} new cities. Cosine between the movement of the decoded place and "
        "the way to the true place (bars: 95 % over cities; red: ways of cities exchanged). Gains: tenths of "
        f"a degree a step at rate {result.params['lr']:g}. Shown where place explains at least {LEAST_MAP} "
        "of the activations' variance.",
    )
    return figure


CONDITION_LOOKS = {
    "unprojected": ("#000000", "o"),
    "on-manifold": ("#0072b2", "s"),
    "random": ("#56b4e9", "D"),
    "off-manifold": ("#d55e00", "^"),
    "random-complement": ("#e69f00", "v"),
    "covariance-matched": ("#56b4e9", "P"),
    "penalty": ("#009e73", "X"),
}


def arms_figure(result: Result) -> Figure:
    """Transfer, own integration and distance off the map of every condition, one dot a base model.

    Reads table `models` {base, set, route, own, transfer, off}; values `n_bases`.
    """
    table = result.tables["models"]
    there = {(row["set"], row["route"]) for row in table}
    sets = list(dict.fromkeys(row["set"] for row in table))
    lines = [[route for route in CONDITION_LOOKS if (tasks, route) in there] for tasks in sets]
    heights: list[int] = []
    labels: list[str] = []
    for i, (tasks, routes) in enumerate(zip(sets, lines, strict=True)):
        first = len(heights) + i  # one empty line between tasks
        heights += [first + j for j in range(len(routes))]
        labels += [f"{tasks}  {route}" if not j else route for j, route in enumerate(routes)]
    named = [(tasks, route) for tasks, routes in zip(sets, lines, strict=True) for route in routes]
    panels = (("transfer", "transfer"), ("own", "trained prompt"), ("off", "distance off the map"))
    figure = new_figure(1.5 + 0.22 * (len(heights) + len(sets)))
    axes = figure.subplots(1, len(panels), sharey=True)
    for ax, (column, title) in zip(axes, panels, strict=True):
        for y, (tasks, route) in zip(heights, named, strict=True):
            values = floats([r[column] for r in table if (r["set"], r["route"]) == (tasks, route)])
            colour, marker = CONDITION_LOOKS[route]
            ax.plot(values, np.full(len(values), y), marker, color=colour, alpha=0.6, mec="none")
            if np.isfinite(values).any():
                ax.plot([np.nanmean(values)] * 2, [y - 0.4, y + 0.4], color=colour, lw=2)
        ax.set_title(title)
        ax.axvline(1.0 if column == "off" else 0.0, color="#888888", lw=0.6)
        if column != "off":
            ax.axvline(1.0, color="#888888", lw=0.6, ls=":")
    axes[0].set_yticks(heights, labels)
    axes[0].invert_yaxis()
    caption(
        figure,
        f"One dot a base model (n = {result.values['n_bases']}), bar: mean. Transfer and trained prompt: "
        "integration of new cities along the map, 0 as before fine-tuning, 1 as ordinary cities. Distance "
        "off the map in units of the median ordinary city. Placebos: random beside manifold, "
        "random-complement beside complement.",
    )
    return figure


def ways_figure(result: Result) -> Figure:
    """Way of new cities during fine-tuning: error along the map against distance off it, by condition.

    Reads table `paths` {set, route, step, along_new, along_old, off_new, off_old}; values `n_bases`.
    """

    def panel(ax: Axes, ways: Mapping[str, list[Row]]) -> None:
        for route, rows in ways.items():
            colour, marker = CONDITION_LOOKS[route]
            x, y = floats([r["off_new"] for r in rows]), floats([r["along_new"] for r in rows])
            ax.plot(x, y, color=colour, lw=1)
            ax.plot(x[-1:], y[-1:], marker, color=colour, label=route, clip_on=False)
            ax.plot([rows[-1]["off_old"]], [rows[-1]["along_old"]], "+", color="#666666", ms=9)
        ax.set_ylim(0, None)

    return _by_task(
        result,
        panel,
        ("distance off the map", "error along the map (0.1°)"),
        f"New cities in the trained prompt, mean over {result.values['n_bases']} base models, from before "
        "fine-tuning (top) to its end (marker). Cross: ordinary cities at the end. Distance off the map in "
        "units of the median ordinary city.",
    )


def sums_figure(result: Result) -> Figure:
    """Share of new cities' whole displacement so far in the map's directions, by steps and condition.

    Reads table `paths` {set, route, step, moved_new, moved_new_null, moved_new_like}; values `n_bases`.
    """

    def panel(ax: Axes, ways: Mapping[str, list[Row]]) -> None:
        for route, rows in ways.items():
            colour, marker = CONDITION_LOOKS[route]
            moved = [row for row in rows if row.get("moved_new") is not None]
            x = [row["step"] for row in moved]
            ax.plot(x, floats([r["moved_new"] for r in moved]), color=colour, lw=1)
            ax.plot(x[-1:], floats([r["moved_new"] for r in moved[-1:]]), marker, color=colour, label=route)
            if route == "unprojected":
                ax.plot(x, floats([r["moved_new_like"] for r in moved]), color=BASELINE, ls="--", lw=1)
                ax.plot(x, floats([r["moved_new_null"] for r in moved]), color=BASELINE, ls=":", lw=1)
        ax.set_xscale("log")
        ax.set_ylim(0, 1)

    return _by_task(
        result,
        panel,
        ("step", "share in the map's directions"),
        "Displacement of new cities from where they stood before fine-tuning, trained prompt, mean over "
        f"{result.values['n_bases']} base models; directions of the base's map. Dashed: random directions "
        "with the activations' covariance, dotted: random ones, for the untouched fine-tuning.",
    )


def _by_task(
    result: Result,
    panel: Callable[[Axes, Mapping[str, list[Row]]], None],
    labels: tuple[str, str],
    words: str,
) -> Figure:
    """A panel for each trained set, drawn by `panel(axes, condition -> rows by step)`, with one legend."""
    table = result.tables["paths"]
    sets = list(dict.fromkeys(row["set"] for row in table))
    columns = min(4, len(sets))
    lines = -(-len(sets) // columns)
    figure = new_figure(0.9 + 2.4 * lines)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for index, ax in enumerate(grid.ravel()):
        if index >= len(sets):
            ax.set_axis_off()
            continue
        mine = sorted((row for row in table if row["set"] == sets[index]), key=lambda row: row["step"])
        routes = [route for route in CONDITION_LOOKS if any(row["route"] == route for row in mine)]
        panel(ax, {route: [row for row in mine if row["route"] == route] for route in routes})
        ax.set_title(sets[index])
        if index % columns == 0:
            ax.set_ylabel(labels[1])
        if index // columns == lines - 1:
            ax.set_xlabel(labels[0])
    shown = {line.get_label(): line for ax in grid.ravel() for line in ax.get_lines()}
    present = [route for route in CONDITION_LOOKS if route in shown]
    figure.legend([shown[route] for route in present], present, loc="outside right center")
    caption(figure, words)
    return figure


def conflict_figure(result: Result) -> Figure:
    """Cosines between tasks' expected parameter gradients, all weight matrices together.

    Reads arrays `cosine` [task task] and `tasks`; params `group`, `batches`, `batch`.
    """
    tasks = [str(task) for task in result.arrays["tasks"]]
    grid = result.arrays["cosine"]
    figure = new_figure(3.6, width=5.2)
    ax = figure.subplots()
    image = heat(ax, grid, vmin=-1.0, vmax=1.0, cmap="RdBu_r")
    write_cells(ax, image, grid, size=7, form=hundredths)
    ax.set_xticks(range(len(tasks)), tasks, rotation=60, ha="right")
    ax.set_yticks(range(len(tasks)), tasks)
    caption(
        figure,
        f"{result.params['runs'][0]}: cosine of expected gradients over {result.params['batches']} batches "
        f"of {result.params['batch']} questions about {result.params['group']} cities a task.",
    )
    return figure
