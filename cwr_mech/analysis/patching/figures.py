"""Figures of patching beside the heat map: digits, subspaces, parts of states, tasks."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cwr_mech.render.grids import grid_of, matrix
from cwr_mech.render.lines import BARS, layer_ticks, line, panels
from cwr_mech.render.numbers import layer_name
from cwr_mech.render.shown import plot
from cwr_mech.render.style import BASELINE, caption, new_figure, task_look
from cwr_mech.results import Result, Row, groups, where

SHADES = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#888888")
SMALL = 0.02
"""Shares below this are not drawn."""

MARKS = ("o", "s", "^", "v", "D", "X", "P", "*")

PART_LINES = {
    None: "whole state",
    "manifold": "manifold",
    "not-manifold": "its complement",
    "pca": "PCA",
    "covariance-matched": "covariance-matched",
    "random": "random",
}
PART_COLUMNS = {
    ("old", "noise"): "old cities",
    ("new", "noise"): "new city asked, source old",
    ("new", "denoise"): "old city asked, source new",
}


FEW = 4
"""With more token positions than this, panels of sites take half of the width each."""


@plot("Where a city is read")
def sites_figure(result: Result) -> Figure:
    """Interchange intervention accuracy of every layer and token position, a panel for each task and city.

    Reads tables `sites` {task, slot, layer, position, n, iia, weak} and `reading` {task, slot, layer,
    position}; params `run`, `n_layers`.
    """
    rows, reading = result.tables["sites"], result.tables["reading"]
    layers = sorted({row["layer"] for row in rows})
    few = len({row["position"] for row in rows}) <= FEW
    most, line = (4, 0.9) if few else (2, 1.2)
    figure, axes = panels(len(reading), margin=0.9, line=line + 0.3 * len(layers), most=most, sharey=True)
    image = None
    for ax, read in zip(axes, reading, strict=True):
        mine = where(rows, task=read["task"], slot=read["slot"])
        positions = list(dict.fromkeys(row["position"] for row in mine))
        grid = grid_of(mine, "iia", layer=layers, position=positions)
        ends = [(name.split("+")[0], name.split("+")[-1]) for name in positions]
        told = [" to ".join(dict.fromkeys(pair)) for pair in ends]
        names = [layer_name(layer) for layer in layers]
        image = matrix(ax, grid, names, told, ends=(0, 1), cmap="viridis", numbers=7, upwards=True)
        if not read["weak"]:
            spot = positions.index(read["position"]) - 0.5, layers.index(read["layer"]) - 0.5
            ax.add_patch(Rectangle(spot, 1, 1, fill=False, ec=BASELINE, lw=2))
        ax.set_title(f"{read['task']}, city {read['slot'] + 1}")
    if image is not None:
        figure.colorbar(image, ax=axes, shrink=0.7, pad=0.01, label="IIA")
    n = sorted({row["n"] for row in rows})
    return caption(
        figure,
        f"{result.params['run']}: the residual stream of one layer and token position is replaced by that of "
        "a question with another city; IIA is the share of answers that become the model's answer to that "
        "question. Red: where the city is read, the last site that carries the whole effect. n = "
        f"{n[0] if len(n) == 1 else f'{n[0]} to {n[-1]}'} pairs.",
    )


@plot("Interchange of a part of the state", "subspaces", needs="subspaces")
def subspaces_figure(result: Result) -> Figure:
    """IIA when only a part of the first city's state is replaced, by layer.

    Reads table `subspaces` {layer, span, subspace, rank, draws, n, iia, lo, hi}; a panel for the subspaces,
    one for their complements, and one for the row and null spaces of the readers where they were fitted.
    """
    rows = result.tables["subspaces"]
    names = [name for name in dict.fromkeys(row["subspace"] for row in rows) if name]
    read = [name for name in names if name.endswith(("row-space", "null-space"))]
    kinds = [name for name in names if name not in read and not name.startswith("not-")]
    main = [name for name in read if name.startswith(("row", "null", kinds[0] if kinds else "row"))]
    sides = [("inside the subspace", kinds), ("everything but it", [f"not-{name}" for name in kinds])]
    sides += [("what later blocks read", main)] if main else []
    figure = new_figure(3.9)
    panels = figure.subplots(1, len(sides), sharey=True)
    for ax, (title, chosen) in zip(panels, sides, strict=True):
        followed(ax, where(rows, subspace=None), "whole state", 0)
        for number, name in enumerate(chosen, start=1):
            mine = where(rows, subspace=name)
            ranks = sorted({round(row["rank"]) for row in mine if row["rank"] is not None})
            size = "" if not ranks else f" ({ranks[0]})" if len(ranks) == 1 else f" ({ranks[0]}-{ranks[-1]})"
            followed(ax, mine, f"{name.removeprefix('not-')}{size}", number, shift=0.05 * (number - 2))
        layers_axis(ax, rows, "IIA" if ax is panels[0] else "")
        ax.set_title(title)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), fontsize=7)
    n = max((row["n"] for row in rows), default=0)
    unit = "models" if "n_models" in result.values else "pairs"
    return caption(
        figure,
        f"{result.params['task']}: {n} {unit}, the first city where it is read; dimensions in brackets. IIA: "
        "share of answers that become the model's answer to the source question. covariance-matched: "
        "directions in which cities vary at all; random: drawn evenly; both of the manifold's rank, mean "
        f"over draws. Bars: 95 % over {'models' if unit == 'models' else 'cities'}.",
    )


@plot("Effect on each answer token", "digits", needs="digits")
def digits_figure(result: Result) -> Figure:
    """Share of each answer token's part of the log-probability difference, by layer, at '=' and after it.

    Reads table `digits` {direction, layer, span, metric, recovered}.
    """
    rows = where(result.tables["digits"], direction="denoise")
    metrics = groups(rows, "metric")
    active = {row["span"] for row in rows if abs(row["recovered"] or 0.0) > SMALL}
    spans = [span for span in dict.fromkeys(row["span"] for row in rows) if span in active]
    layers = sorted({row["layer"] for row in rows})
    figure = new_figure(1.2 + 0.3 * len(layers))
    names = [layer_name(layer) for layer in layers]
    style: dict[str, Any] = {"ends": (-1, 1), "cmap": "RdBu_r", "numbers": None, "rotation": 60}
    image = None
    axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for ax, (metric, mine) in zip(axes, metrics.items(), strict=True):
        grid = grid_of(mine, "recovered", layer=layers, span=spans)
        image = matrix(ax, grid, names, spans, upwards=True, **style)
        ax.set_title(metric.replace("digit", "token "))
    if image is not None:
        figure.colorbar(image, ax=figure.axes, shrink=0.8, label="share recovered")
    return caption(
        figure,
        f"{result.params['task']}, clean into corrupt, residual stream: the N-th answer token's part of the "
        "log-probability difference, each answer after its own beginning. Only places with an effect.",
    )


@plot("Tasks beside each other")
def tasks_figure(result: Result) -> Figure:
    """Where the city is held and where the answer stands, task beside task: share recovered by layer.

    Reads table `lines` {task, layer, span, recovered, lo, hi, null}; params `metric`.
    """
    rows = result.tables["lines"]
    figure = new_figure(3.2)
    panels = figure.subplots(1, 2, sharey=True)
    titles = ("the city, where it is read", "'=', where the answer is read")
    for ax, title in zip(panels, titles, strict=True):
        mine = [row for row in rows if (row["span"] == "equals") == (ax is panels[1])]
        for task, own in groups(sorted(mine, key=lambda row: row["layer"]), "task").items():
            look = task_look(task)
            line(ax, own, "layer", "recovered", bars=BARS, label=task, **look.drawn)
            line(ax, own, "layer", "null", color=look.colour, lw=0.8, ls=":")
        ax.set_title(title)
        layer_ticks(ax, [row["layer"] for row in own])
    panels[0].set_ylabel(f"share of the {result.params['metric'].replace('_', ' ')} recovered")
    panels[0].legend(loc="best")
    return caption(
        figure,
        "Residual stream after each layer, clean into corrupt; dotted: an unrelated city in that place. "
        "Bars: 95 % over cities, or over models where there are several.",
    )


@plot("Interchange inside and outside of the manifold")
def parts_figure(result: Result) -> Figure:
    """Share of decoded answers that follow the source, whole, inside and outside of the manifold, by layer.

    Reads table `pooled` {training_tasks, task, group, direction, states_from, layer, subspace, models, n,
    iia, lo, hi}. A row of panels for training tasks and evaluated task, a column for old cities and for both
    directions of new ones.
    """
    rows = where(result.tables["pooled"], states_from="own")
    lines, kinds = groups(rows, "training_tasks", "task"), groups(rows, "group", "direction")
    columns = [key for key in PART_COLUMNS if key in kinds]
    figure = new_figure(0.8 + 1.75 * len(lines))
    axes = figure.subplots(len(lines), len(columns), squeeze=False, sharex=True, sharey=True)
    for i, ((taught, task), of_line) in enumerate(lines.items()):
        for j, (group, direction) in enumerate(columns):
            ax = axes[i, j]
            mine = where(of_line, group=group, direction=direction)
            for number, (subspace, label) in enumerate(PART_LINES.items()):
                followed(ax, where(mine, subspace=subspace), label, number, shift=0.06 * (number - 2.5))
            models = mine[0]["models"] if mine else 0
            n = f"{models} models" if models > 1 else f"{mine[0]['n'] if mine else 0} pairs"
            ax.set_title(f"{taught}, asked {task}\n{PART_COLUMNS[group, direction]}, {n}", fontsize=7.5)
            ax.set_ylim(-0.03, 1.03)
            layer_ticks(ax, sorted({row["layer"] for row in rows}))
        axes[i, 0].set_ylabel("IIA")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return caption(
        figure,
        "IIA: share of decoded answers that become the source's when only a part of the first city's state, "
        "where the model reads it, is the source's. PCA, covariance-matched and random directions: as many "
        "as the manifold's. Bars: 95 % over models, over cities where there is one. Empty: too few answers.",
    )


def followed(ax: Axes, rows: list[Row], label: str, number: int, *, shift: float = 0.0) -> None:
    """IIA over layers with its intervals, moved aside by `shift` so that intervals do not meet."""
    rows = sorted(rows, key=lambda row: row["layer"])
    look: dict[str, Any] = {"color": SHADES[number % len(SHADES)], "marker": MARKS[number % len(MARKS)]}
    line(ax, rows, [row["layer"] + shift for row in rows], "iia", bars=BARS, label=label, **look)


def layers_axis(ax: Axes, rows: list[Row], label: str) -> None:
    """Layers along the bottom, a share upwards."""
    layer_ticks(ax, sorted({row["layer"] for row in rows}))
    ax.set_ylim(-0.03, 1.03)
    ax.set_ylabel(label)
