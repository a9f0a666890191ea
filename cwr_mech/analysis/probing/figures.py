"""Figures of what a probe's score hides, of erasure, and of checkpoints."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cwr_mech.render.grids import heat, hundredths, write_cells
from cwr_mech.render.style import (
    BASELINE,
    caption,
    error_bars,
    floats,
    layer_name,
    new_figure,
    task_look,
)
from cwr_mech.results import Result, Row


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
    reach = error_bars([row["lost_lo"] for row in rows], value, [row["lost_hi"] for row in rows])
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
        ("share", "share that is a function of place", "s--", "#666666"),
        ("cka_final", "CKA with the last checkpoint", "^-.", "#999999"),
    )
    for column, label, style, colour in curves:
        value = [row[column] for row in rows]
        low, high = ([row[f"{column}_{end}"] for row in rows] for end in ("lo", "hi"))
        reach = error_bars(low, value, high)
        left.errorbar(seen, floats(value), yerr=reach, fmt=style, color=colour, capsize=2, label=label)
    shuffled = floats([row["r2_shuffled"] for row in rows])
    left.plot(seen, shuffled, ":", color=BASELINE, label="R², shuffled places")
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
    right.set_ylim(0, 1.3 * float(np.nanmax(floats([row["participation_singular"] for row in rows]))))
    right.legend(loc="upper right", ncols=2)
    for ax in (left, right):
        ax.set_xscale("symlog", linthresh=max(float(seen[seen > 0].min()), 1.0) if (seen > 0).any() else 1.0)
        ax.set_xlim(0, float(seen.max()) * 1.15)
        ax.set_xlabel("rows seen")
        ax.grid(axis="y")
    caption(
        figure,
        f"n = {result.values['n']} old cities, {layer_name(result.params['layer'], result.params['hook'])}, "
        f"prompt {result.params['task']}. R² on held-out cities, control: shuffled places "
        "(dotted); bars: 95 % over cities. "
        "Effective rank: participation ratio of singular values, as in the paper.",
    )
    return figure
