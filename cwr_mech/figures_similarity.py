"""Figures of similarity between models, of the manifold, of read-outs, erasure and checkpoints."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cwr_mech.figures_grids import heat, hundredths, write_cells
from cwr_mech.figures_style import BASELINE, GREYS, caption, floats, layer_name, new_figure, task_look
from cwr_mech.results import Result, Row

OFF_UNITS = {
    "euclidean": "units of the activation",
    "residual": "deviations of what is left of ordinary cities",
}
LINES = ("-", "--", "-.", ":")


def _bars(
    low: Sequence[float | None], value: Sequence[float | None], high: Sequence[float | None]
) -> np.ndarray:
    """Lengths of error bars; none where an end is unknown."""
    ends, middle = np.stack([floats(low), floats(high)]), floats(value)
    return np.nan_to_num(np.abs(ends - middle))


def groups_figure(result: Result) -> Figure:
    """Means over groups of pairs of models at the deepest layer, a panel a measure, intervals over models.

    Reads table `groups` {measure, layer, models, group, value, ci_lo, ci_hi, n}; values `n`, `models`.
    """
    rows = [row for row in result.tables["groups"] if row["models"] == "all models"]
    layer = max((row["layer"] for row in rows), default=0)
    rows = [row for row in rows if row["layer"] == layer and row["group"] != "disjoint, of the ceiling"]
    measures = list(dict.fromkeys(row["measure"] for row in rows)) or ["none"]
    columns = min(4, len(measures))
    lines = -(-len(measures) // columns)
    names = list(dict.fromkeys(row["group"] for row in rows))
    figure = new_figure(1.0 + lines * (0.55 + 0.26 * max(2, len(names))))
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for ax in axes.flat[len(measures) :]:
        ax.set_visible(False)
    for ax, measure in zip(axes.flat, measures, strict=False):
        mine = [row for row in rows if row["measure"] == measure]
        spots = [names.index(row["group"]) for row in mine]
        value = [row["value"] for row in mine]
        reach = _bars([row["ci_lo"] for row in mine], value, [row["ci_hi"] for row in mine])
        ax.errorbar(floats(value), spots, xerr=reach, fmt="o", color="black", capsize=2)
        ax.set_title(measure)
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.grid(axis="x")
    caption(
        figure,
        f"{result.values['models']} models, {layer_name(layer)}, n = {result.values['n']} cities. Means over "
        "pairs of models; bars: 95 % over models (none where a group has too few). Models of the same tasks "
        "are the ceiling. procrustes and angular are distances: 0 is alike.",
    )
    return figure


def references_figure(result: Result) -> Figure:
    """Each model beside its references at each layer, by debiased CKA (or the first measure there is).

    Reads tables `references` {measure, layer, run, reference, value}, `pairs` {measure, layer, null_best}.
    """
    measures = list(dict.fromkeys(row["measure"] for row in result.tables["references"]))
    measure = "cka" if "cka" in measures else measures[0]
    rows = [row for row in result.tables["references"] if row["measure"] == measure]
    references = list(dict.fromkeys(row["reference"] for row in rows))
    runs = list(dict.fromkeys(row["run"] for row in rows))
    figure = new_figure(2.9)
    axes = figure.subplots(1, len(references), squeeze=False, sharey=True)[0]
    for ax, reference in zip(axes, references, strict=True):
        for index, run in enumerate(runs):
            mine = [row for row in rows if (row["run"], row["reference"]) == (run, reference)]
            style = LINES[index % len(LINES)]
            grey = GREYS[index % 3]
            ax.plot([row["layer"] for row in mine], floats([row["value"] for row in mine]), style, color=grey)
        ax.set_title(reference)
        ax.set_xlabel("layer")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(axis="y")
    axes[0].set_ylabel(measure)
    figure.legend(
        handles=[
            axes[0].plot([], [], LINES[i % len(LINES)], color=GREYS[i % 3], label=run)[0]
            for i, run in enumerate(runs[:12])
        ],
        loc="outside upper center",
        ncols=min(4, len(runs)),
    )
    null = max(
        (
            row["null_best"]
            for row in result.tables["pairs"]
            if row["measure"] == measure and row["null_best"]
        ),
        default=None,
    )
    caption(
        figure,
        f"n = {result.values['n']} cities, {measure}. Largest 95 % quantile with shuffled cities: "
        f"{hundredths(null)}. The digits of the id are what a model knows without any map.",
    )
    return figure


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
        left.plot(
            layers,
            floats([row["variance"] for row in mine]),
            look.marker + "-",
            color=look.colour,
            label=task,
        )
        left.plot(layers, floats([row["variance_shuffled"] for row in mine]), ":", color=BASELINE)
    left.set_ylim(-0.05, 1)
    left.set_xlabel("layer")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
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
        f"{best['task']}. Dotted: map fitted on shuffled places.",
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
    panels = (
        ("variance", "share of variance"),
        ("r2", "R² of the map on them alone"),
        ("alignment", "share of the probe inside them"),
    )
    for ax, (column, title) in zip(axes, panels, strict=True):
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


def readout_figure(result: Result) -> Figure:
    """Left: R2 of a probe fitted in one prompt and read in another. Right: R2 against training cities.

    Reads arrays `transfer` [fitted read], `prompts`; table `learning`.
    """
    prompts = [str(name) for name in result.arrays["prompts"]]
    figure = new_figure(3.4)
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
    grid = result.arrays["transfer"]
    image = heat(left, grid, vmin=-1.0, vmax=1.0, cmap="RdBu_r")
    write_cells(left, image, grid, size=7.0, form=hundredths)
    left.set_xticks(range(len(prompts)), prompts, rotation=40, ha="right")
    left.set_yticks(range(len(prompts)), prompts)
    left.tick_params(length=0)
    left.set_xlabel("read in")
    left.set_ylabel("fitted in")
    left.set_title("R² across prompts")
    for task in dict.fromkeys(row["task"] for row in result.tables["learning"]):
        mine = [row for row in result.tables["learning"] if row["task"] == task]
        look = task_look(task)
        right.plot(
            [row["n_train"] for row in mine],
            np.maximum(floats([row["r2"] for row in mine]), -0.5),
            look.marker + "-",
            color=look.colour,
            label=task,
        )
    right.set_xscale("log")
    right.set_ylim(-0.55, 1.05)
    right.set_xlabel("training cities")
    right.set_title("R² on a fifth of the cities")
    right.grid(axis="y")
    right.legend(ncols=2)
    caption(
        figure,
        f"n = {result.values['n']} old cities, always held out. A prompt whose column is low codes places in "
        "another way, so a probe must be read in the prompt it was fitted in. R² below -0.5: drawn there.",
    )
    return figure


def erasure_figure(result: Result) -> Figure:
    """Share of each task's gain that is lost when a subspace is erased, by block, with intervals.

    Reads table `arms` {task, layer, arm, lost, lost_lo, lost_hi}.
    """
    rows = result.tables["arms"]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    columns = min(4, len(tasks))
    lines = -(-len(tasks) // columns)
    figure = new_figure(0.9 + 1.9 * lines)
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True, sharex=True)
    for ax in axes.flat[len(tasks) :]:
        ax.set_visible(False)
    styles = (("black", "o", "-"), ("#7a7a7a", "s", "--"), ("#aaaaaa", "^", ":"))
    for ax, task in zip(axes.flat, tasks, strict=False):
        for arm, (colour, marker, line) in zip(arms, styles, strict=False):
            mine = [row for row in rows if (row["task"], row["arm"]) == (task, arm)]
            _with_bars(ax, mine, colour, marker, line, {"leace": "places (LEACE)"}.get(arm, arm))
        ax.axhline(0, color="#cccccc", lw=0.8, zorder=0)
        ax.axhline(1, color=BASELINE, lw=0.8, ls=":", zorder=0)
        ax.set_ylim(-0.25, 1.6)
        ax.set_title(task)
        ax.set_xlabel("after block")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].set_ylabel("share of the gain lost")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    caption(
        figure,
        f"n = {rows[0]['n']} test questions a task; bars: 95 % over questions. 0: nothing lost, 1 "
        "(dotted): no better than the best constant answer. Controls: random subspaces of the same rank.",
    )
    return figure


def _with_bars(ax: Axes, rows: list[Row], colour: str, marker: str, line: str, label: str) -> None:
    value = [row["lost"] for row in rows]
    reach = _bars([row["lost_lo"] for row in rows], value, [row["lost_hi"] for row in rows])
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


def timeline_figure(result: Result) -> Figure:
    """Map, likeness to the last checkpoint and dimension against rows seen. Reads table `steps`."""
    rows = result.tables["steps"]
    seen = floats([row["rows"] for row in rows])
    figure = new_figure(2.8)
    left, right = figure.subplots(1, 2)
    curves = (
        ("r2", "R² of the map", "o-", "black"),
        ("variance_of_place", "share that is a function of place", "s--", "#666666"),
        ("cka_final", "CKA with the last checkpoint", "^-.", "#999999"),
        ("r2_shuffled", "R², shuffled places", ":", BASELINE),
    )
    for column, label, style, colour in curves:
        left.plot(seen, floats([row[column] for row in rows]), style, color=colour, label=label)
    left.set_ylim(-0.3, 1.05)
    left.legend()
    right.plot(
        seen,
        floats([row["participation_singular"] for row in rows]),
        "o-",
        color="black",
        label="effective rank",
    )
    right.plot(seen, floats([row["twonn"] for row in rows]), "s--", color="#888888", label="TwoNN dimension")
    right.set_ylim(bottom=0)
    right.legend()
    for ax in (left, right):
        ax.set_xscale("symlog", linthresh=max(float(seen[seen > 0].min()), 1.0) if (seen > 0).any() else 1.0)
        ax.set_xlim(0, float(seen.max()) * 1.15)
        ax.set_xlabel("rows seen")
        ax.grid(axis="y")
    caption(
        figure,
        f"n = {result.values['n']} old cities, {layer_name(result.params['layer'], result.params['hook'])}, "
        f"prompt {result.params['task']}. R² on held-out cities, control: shuffled places (dotted). "
        "Effective rank: participation ratio of singular values, as in the paper.",
    )
    return figure
