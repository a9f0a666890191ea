"""Figures of a report of many models: claims with their intervals, maps by prompt and layer, a stretch of the
paper's training."""

import math
from collections.abc import Sequence
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from cwr_mech.findings.questions import asked, headline
from cwr_mech.render.grids import matrix
from cwr_mech.render.lines import panels
from cwr_mech.render.numbers import layer_name, number
from cwr_mech.render.shown import plot
from cwr_mech.render.style import GREYS, caption, new_figure
from cwr_mech.results import Result, Row, groups
from cwr_mech.tasks.registry import ordered

VALUE = ("value", "lo", "hi")
TOO_SMALL, THEIRS = "#e4e4e4", "#8a8a8a"
FAMILIES, A_LINE = 8, 4
"""Panels that have room, and those side by side; the families come in the order of the models."""


@plot("Maps by prompt and layer")
def maps_figure(result: Result) -> Figure:
    """R² of the map by prompt and layer, a panel for each kind of model; means over models.

    Reads table `layers` {family, task, layer, hook, r2, control_r2_shuffled, run}.
    """
    rows = result.tables["layers"]
    places = sorted({(row["layer"], row["hook"]) for row in rows})
    families = list(groups(rows, "family").items())[:FAMILIES]
    figure, axes = panels(len(families), margin=0.5, line=2.5, most=A_LINE)
    tasks = ordered(row["task"] for row in rows)
    for index, (ax, (family, mine)) in enumerate(zip(axes, families, strict=True)):
        table = pd.DataFrame(mine).pivot_table(index="task", columns="hook", values="r2")
        grid = table.reindex(index=tasks, columns=[hook for _, hook in places]).to_numpy()
        title = f"{fill(family, 24)}\nn = {len({row['run'] for row in mine})}"
        ax.set_title(title, fontsize=7.5)
        names = tasks if index % A_LINE == 0 else [""] * len(tasks)
        layers = [layer_name(*place) for place in places]
        matrix(ax, grid, names, layers, ends=(0, 1), cmap="Greys", rotation=60)
    control = max(row["control_r2_shuffled"] for row in rows)
    return caption(
        figure,
        "R² of places decoded by a linear probe on held-out cities, by prompt and layer; means over n "
        "models, of single-task models each in its own prompt. A dot: no such model. Control, shuffled: at "
        f"most {number(control)}.",
    )


@plot("The answers at a glance", "overview")
def overview_figure(result: Result) -> Figure:
    """The headline claim of each question, in smallest effects of interest. Reads table `claims`."""
    rows = [headline(result.tables["claims"], question) for question in asked(result)]
    known = [row for row in rows if row is not None and row["value"] is not None]
    figure = new_figure(1.5 + 0.5 * max(1, len(known)))
    ax = figure.subplots()
    forest(ax, known, [f"{row['statement']}" for row in known], scaled=True)
    ax.set_xlabel(
        "contrast minus its reference, in smallest effects of interest (logarithmic beyond 3)", fontsize=8
    )
    return caption(
        figure,
        "The headline claim of each question. Filled: supported or refuted; hollow: no effect of that size; "
        "crosses: inconclusive. Bars: 95 % over models. Grey: smaller than is of interest. Diamonds: the "
        "paper.",
    )


@plot("All findings")
def claims_figure(result: Result) -> Figure:
    """Every finding with its interval and smallest effect, question by question. Reads table `claims`."""
    rows = [row for row in result.tables["claims"] if row["kind"] == "finding" and row["value"] is not None]
    groups = {q.title: [row for row in rows if row["question"] == q.id] for q in asked(result)}
    groups = {title: mine for title, mine in groups.items() if mine}
    figure = new_figure(1.0 + 0.6 * len(groups) + 0.34 * len(rows))
    sizes = [len(mine) + 1.2 for mine in groups.values()]
    axes = figure.subplots(max(1, len(groups)), 1, squeeze=False, height_ratios=sizes or None)[:, 0]
    for ax, (title, mine) in zip(axes, groups.items(), strict=False):
        names = [row["id"].replace("-", " ") for row in mine]
        forest(ax, mine, names)
        ax.set_title(title, loc="left", fontsize=8)
    return caption(
        figure,
        "Contrasts of all findings. Filled: supported or refuted; hollow: no effect of that size; crosses: "
        "inconclusive. Bars: 95 % over models. Grey: smaller than is of interest. Diamonds: the paper.",
    )


def forest(ax: Axes, rows: Sequence[Row], names: Sequence[str], *, scaled: bool = False) -> None:
    """Values with their intervals, one line each, from above; `scaled` divides by the smallest effect."""
    for place, row in enumerate(rows):
        unit = row["smallest"] if scaled and row["smallest"] else 1.0
        zero = row["against"] if scaled else 0.0
        value, lo, hi = ((math.nan if row[k] is None else row[k] - zero) / unit for k in VALUE)
        reach = row["smallest"] / unit
        ax.barh(
            place,
            2 * reach,
            left=(row["against"] - zero) / unit - reach,
            height=0.72,
            color=TOO_SMALL,
            zorder=0,
        )
        ax.plot([lo, hi], [place, place], color="black", linewidth=1.2, zorder=2)
        sure = row["verdict"] in ("supported", "refuted")
        marker = "x" if row["verdict"] == "inconclusive" else "o"
        ax.plot([value], [place], marker, color="black", fillstyle="full" if sure else "none", zorder=3)
        if row["published"] is not None:
            ax.plot([(row["published"] - zero) / unit], [place], "D", color=THEIRS, markersize=4, zorder=2)
    ax.axvline(0, color="black", linewidth=0.6, zorder=1)
    if scaled:
        ax.set_xscale("symlog", linthresh=3)
        ax.xaxis.set_major_locator(FixedLocator([-30, -10, -3, -1, 0, 1, 3, 10, 30]))
        ax.xaxis.set_major_formatter("{x:g}")
    ax.set_yticks(range(len(rows)), [fill(name, 44) for name in names], fontsize=7)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=7)


@plot("Two trainings of one model")
def stretch_figure(result: Result) -> Figure:
    """Two losses by step, and how far they are apart.

    Reads arrays `loss`, `loss_peer`; value `largest_difference`; param `batch_size`.
    """
    mine, peer = result.arrays["loss"], result.arrays["loss_peer"]
    steps = np.arange(1, len(mine) + 1)
    figure = new_figure(2.8)
    left, right = figure.subplots(1, 2)
    left.plot(steps, peer, color=GREYS[2], linewidth=4, label="transformers' Trainer")
    left.plot(steps, mine, color="black", linewidth=1, label="here")
    left.set_title("loss, nats a predicted token")
    left.legend()
    right.semilogy(steps, np.maximum(np.abs(mine - peer), 1e-9), color="black", linewidth=1)
    right.set_title("difference of the two")
    for ax in (left, right):
        ax.set_xlabel("step")
    return caption(
        figure,
        f"The paper's model and data, {len(mine)} steps of {result.params['batch_size']} rows, same weights, "
        f"batches and rates; largest difference {number(result.values['largest_difference'])}. The Trainer "
        "rounds the losses that it logs to four digits or more.",
    )
