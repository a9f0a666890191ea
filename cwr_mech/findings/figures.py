"""Figures of a report of the zoo: maps by prompt and layer, and a stretch of the paper's training."""

import numpy as np
from matplotlib.figure import Figure

from cwr_mech.render.grids import heat, hundredths, write_cells
from cwr_mech.render.numbers import number
from cwr_mech.render.style import (
    GREYS,
    caption,
    layer_name,
    new_figure,
)
from cwr_mech.results import Result
from cwr_mech.tasks.registry import ordered

FAMILIES = 4
"""Panels that have room; the families come in the order of the models."""


def maps_figure(result: Result) -> Figure:
    """R² of the map by prompt and layer, a panel for each kind of model; means over models.

    Reads table `layers` {family, task, layer, hook, r2, control_r2_shuffled, run}.
    """
    rows = result.tables["layers"]
    places = sorted({(row["layer"], row["hook"]) for row in rows})
    families = list(dict.fromkeys(row["family"] for row in rows))[:FAMILIES]
    figure = new_figure(3.0)
    axes = figure.subplots(1, len(families), squeeze=False)[0]
    tasks = ordered(row["task"] for row in rows)
    for index, (ax, family) in enumerate(zip(axes, families, strict=True)):
        mine = [row for row in rows if row["family"] == family]
        grid = np.full((len(tasks), len(places)), np.nan)
        for i, task in enumerate(tasks):
            for j, (_, hook) in enumerate(places):
                found = [row["r2"] for row in mine if (row["task"], row["hook"]) == (task, hook)]
                grid[i, j] = np.mean(found) if found else np.nan
        image = heat(ax, grid, vmin=0.0, vmax=1.0, cmap="Greys")
        write_cells(ax, image, grid, size=6.5, form=hundredths)
        ax.set_title(f"{family}\n(n = {len({row['run'] for row in mine})})", fontsize=7.5)
        ax.set_xticks(range(len(places)), [layer_name(*place) for place in places], rotation=60, ha="right")
        ax.set_yticks(range(len(tasks)), tasks if index == 0 else [""] * len(tasks))
        ax.tick_params(labelsize=7, length=0)
    control = max(row["control_r2_shuffled"] for row in rows)
    caption(
        figure,
        "R² of places decoded by a linear probe on held-out cities, by prompt and layer; means over n "
        "models, of single-task models each in its own prompt. A dot: no such model. Control, shuffled: "
        f"at most {number(control)}.",
    )
    return figure


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
    caption(
        figure,
        f"The paper's model and data, {len(mine)} steps of {result.params['batch_size']} rows, same weights, "
        f"batches and rates; largest difference {number(result.values['largest_difference'])}. The Trainer "
        "rounds the losses that it logs to four digits or more.",
    )
    return figure
