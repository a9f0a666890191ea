"""Figures of probes: by layer, their generalisation, coordinate variance in the first components."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cwr_mech.render.grids import matrix
from cwr_mech.render.lines import line
from cwr_mech.render.numbers import layer_name
from cwr_mech.render.shown import plot
from cwr_mech.render.style import BASELINE, caption, floats, new_figure, task_look
from cwr_mech.results import Result, Row, groups, where

R2_FLOOR = -0.5


@plot("Probes across prompts and numbers of cities")
def readout_figure(result: Result) -> Figure:
    """Left, for several prompts: R2 of a probe fitted in one prompt and read in another. Right: R2 against
    training cities.

    Reads arrays `transfer` [fitted read], `prompts`; table `learning`.
    """
    prompts = [str(name) for name in result.arrays["prompts"]]
    several = len(prompts) > 1
    figure = new_figure(3.4) if several else new_figure(2.9, width=5.2)
    *left, right = figure.subplots(1, 1 + several, squeeze=False, width_ratios=[1.15, 1][1 - several :])[0]
    words = f"n = {result.values['n']} old cities, always held out. R² below {R2_FLOOR}: drawn there."
    for ax in left:
        _across_prompts(ax, result.arrays["transfer"], prompts)
        words += " A prompt whose column is low codes places in another way, so a probe must be read in the "
        words += "prompt it was fitted in."
    for task, mine in groups(result.tables["learning"], "task").items():
        line(right, mine, "n_train", "r2", least=R2_FLOOR, label=task, **task_look(task).drawn)
    right.set_xscale("log")
    right.set_ylim(R2_FLOOR - 0.05, 1.05)
    right.set_xlabel("training cities")
    right.set_title("R² on a fifth of the cities")
    right.grid(axis="y")
    right.legend(ncols=2)
    return caption(figure, words)


def _across_prompts(ax: Axes, grid: np.ndarray, prompts: list[str]) -> None:
    matrix(ax, grid, prompts, prompts, ends=(-1, 1), cmap="RdBu_r", numbers=7, labels=9)
    ax.set_xlabel("read in")
    ax.set_ylabel("fitted in")
    ax.set_title("R² across prompts")


@plot("Probe by layer", "layers")
def probe_layers_figure(result: Result) -> Figure:
    """Held-out R2 and distance error by layer, one line a prompt, controls in red.

    Reads table `layers` {layer, hook, task, site, r2, error_mean, control_r2_shuffled, n_test} and, where
    there, lo, hi, control_r2_untrained, control_r2_digits; params `map` (only its site is drawn).
    """
    site = result.params["map"]["site"]
    table = where(result.tables["layers"], site=site)
    layers = sorted({(row["layer"], row["hook"]) for row in table})
    spots = {layer: index for index, (layer, _) in enumerate(layers)}
    figure = new_figure(3.6)
    left, right = figure.subplots(1, 2)
    bars = {"lw": 0.8, "alpha": 0.6} if "lo" in table[0] else None
    for task, mine in groups(sorted(table, key=lambda row: row["layer"]), "task").items():
        x, style = [spots[row["layer"]] for row in mine], {"label": task, **task_look(task).drawn}
        line(left, mine, x, "r2", bars=bars, least=R2_FLOOR, **style)
        line(right, mine, x, "error_mean", **style)
    _controls(left, table, spots)
    left.set_ylim(R2_FLOOR - 0.04, 1.04)
    left.set_ylabel("R² on held-out cities")
    right.set_ylabel("mean distance error (0.1°)")
    right.set_ylim(0, None)
    left.set_title(f"{result.params['runs'][0]}, at {site.replace('_', ' ').replace('+', ' and ')}")
    for ax in (left, right):
        ax.set_xticks(range(len(layers)), [layer_name(*layer) for layer in layers])
        ax.set_xlabel("residual stream after block")
        ax.grid(True, axis="y")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", title="prompt / control", alignment="left")
    return caption(
        figure,
        f"n = {table[0]['n_test']} held-out cities, {table[0]['n_train']} fitted; bars: 95 % over cities. "
        f"Red: controls, mean over prompts. Values below {R2_FLOOR} are drawn at that height.",
    )


CONTROLS = {
    "control_r2_shuffled": ("shuffled places", ":"),
    "control_r2_untrained": ("untrained model", "--"),
    "control_r2_digits": ("digits of the id", "-."),
    "control_r2_tokens": ("tokens of the name", "-."),
}


def _controls(ax: Axes, table: list[Row], spots: dict[int, int]) -> None:
    for column, (label, style) in CONTROLS.items():
        means = []
        for layer in spots:
            cells = floats([row.get(column) for row in where(table, layer=layer)])
            means.append(np.nanmean(cells) if np.isfinite(cells).any() else np.nan)
        if np.isfinite(means).any():
            drawn = np.maximum(means, R2_FLOOR)
            ax.plot(list(spots.values()), drawn, color=BASELINE, ls=style, lw=1.2, label=label)


SURFACING = {
    "variance": "share of variance",
    "r2": "R² of the map on them alone",
    "alignment": "share of the probe inside them",
}
MARKERS = ("o", "s", "^", "v", "D", "X", "P")


def _component_panels(height: float, least: float) -> tuple[Figure, dict[str, Axes]]:
    """A panel for each column of SURFACING over the first k components, from `least` upwards."""
    figure = new_figure(height)
    axes = dict(zip(SURFACING, figure.subplots(1, len(SURFACING), sharey=True), strict=True))
    for column, ax in axes.items():
        ax.set_xscale("log", base=2)
        ax.set_ylim(least, 1.05)
        ax.set_xlabel("first k components")
        ax.set_title(SURFACING[column])
        ax.grid(axis="y")
    return figure, axes


@plot("What the first components carry", "surfacing")
def surfacing_figure(result: Result) -> Figure:
    """Variance, held-out R2 and probe alignment carried by the first k principal components, by layer.

    Reads table `surfacing` {layer, task, k, variance, r2, alignment, alignment_random}.
    """
    rows = where(result.tables["surfacing"], task=result.params["best"]["task"])
    layers = groups(rows, "layer")
    figure, axes = _component_panels(2.8, least=-0.05)
    shades = [str(shade) for shade in np.linspace(0.7, 0.0, len(layers))]
    for column, ax in axes.items():
        for (layer, mine), shade in zip(layers.items(), shades, strict=True):
            line(ax, mine, "k", column, marker="o", color=shade, label=layer_name(layer))
        if column == "alignment":
            line(ax, mine, "k", "alignment_random", ls=":", color=BASELINE, label="random directions")
            ax.legend()
    return caption(
        figure,
        f"n = {result.values['n']} cities, prompt {result.params['best']['task']}; R² on held-out cities, "
        "0 without a map.",
    )


@plot("First components by number of tasks")
def surfacing_tasks_figure(result: Result) -> Figure:
    """What the first k components carry at the deepest layer, by number of tasks: means with intervals over
    models, and single models.

    Reads tables `by_model` {run, n_tasks, layer, k, variance, r2, r2_shuffled, alignment, alignment_random}
    and `by_tasks` {layer, n_tasks, k, models, variance, ..._lo, ..._hi}; values `n`.
    """
    layer = max(row["layer"] for row in result.tables["by_model"])
    single, means = (where(result.tables[name], layer=layer) for name in ("by_model", "by_tasks"))
    counts = sorted({row["n_tasks"] for row in means})
    shades = [str(shade) for shade in np.linspace(0.65, 0.0, len(counts))]
    figure, axes = _component_panels(3.2, least=-0.15)
    for column, ax in axes.items():
        for mine in groups(single, "run").values():
            line(ax, mine, "k", column, color=shades[counts.index(mine[0]["n_tasks"])], lw=0.5)
        for count, shade, marker in zip(counts, shades, MARKERS, strict=False):
            mine = where(means, n_tasks=count)
            label = f"{count} task{'s' if count > 1 else ''}, {mine[0]['models']} model(s)"
            line(ax, mine, "k", column, caps=2, marker=marker, color=shade, label=label)
        control = {"r2": "r2_shuffled", "alignment": "alignment_random"}.get(column)
        if control:
            line(ax, where(single, run=single[0]["run"]), "k", control, ls=":", color=BASELINE)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return caption(
        figure,
        f"n = {result.values['n']} cities, {layer_name(layer)}. Bars: 95 % over models; thin lines: single "
        "models. Dotted controls: shuffled places (R²), random directions (probe).",
    )
