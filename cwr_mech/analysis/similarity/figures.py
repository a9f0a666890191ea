"""Figures of similarity between models: matrices, means over groups of pairs, references."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cwr_mech.render.grids import (
    MOST_NUMBERED,
    heat,
    hundredths,
    write_cells,
)
from cwr_mech.render.numbers import layer_name
from cwr_mech.render.style import BASELINE, GREYS, caption, error_bars, floats, new_figure
from cwr_mech.results import Result, Row

LINES = ("-", "--", "-.", ":")
SHOWN = ("cka", "rsa", "procrustes", "mutual_knn")
"""Measures whose matrices are drawn, where they are in the result; else its first four."""


def matrices_figure(result: Result) -> Figure:
    """Every pair of models at the deepest layer, a panel a measure, with the numbers in the cells.

    Reads tables `pairs` {measure, layer, run_a, run_b, value, alike, null_mean}, `models` {run, tasks}.
    """
    runs = [row["run"] for row in result.tables["models"]]
    layer = max(result.params["layers"])
    pairs = [row for row in result.tables["pairs"] if row["layer"] == layer]
    present = [name for name in SHOWN if name in result.params["measures"]]
    measures = present or result.params["measures"][:4]
    columns = 3 if len(measures) == 3 else min(2, len(measures))
    lines = -(-len(measures) // columns)
    figure = new_figure(0.9 + lines * float(np.clip(0.9 + 0.3 * len(runs), 1.9, 4.2)))
    axes = figure.subplots(lines, columns, squeeze=False)
    for ax in axes.flat[len(measures) :]:
        ax.set_visible(False)
    for ax, measure in zip(axes.flat, measures, strict=False):
        _matrix(ax, [row for row in pairs if row["measure"] == measure], runs, measure)
    for ax in axes[:, 1:].flat:
        ax.set_yticklabels([])
    many = len(runs) > MOST_NUMBERED
    for ax in axes.flat if many else axes[:-1].flat:
        ax.set_xticklabels([])
    nulls = [f"{m} {hundredths(_mean_null(pairs, m))}" for m in measures]
    caption(
        figure,
        f"{layer_name(layer)}, n = {result.values['n']} cities; intervals of the cells are in the table. "
        "Light: alike (procrustes is a distance, 0 is alike). Control, mean with cities shuffled: "
        f"{', '.join(nulls)}." + (" Columns are in the order of the rows." if many else ""),
    )
    return figure


def _mean_null(pairs: list[Row], measure: str) -> float:
    return float(np.nanmean(floats([row["null_mean"] for row in pairs if row["measure"] == measure])))


def _matrix(ax: Axes, pairs: list[Row], runs: list[str], measure: str) -> None:
    n, alike = len(runs), float(pairs[0]["alike"])
    grid = np.full((n, n), np.nan)
    np.fill_diagonal(grid, alike)
    for row in pairs:
        i, j = runs.index(row["run_a"]), runs.index(row["run_b"])
        grid[i, j] = grid[j, i] = np.nan if row["value"] is None else row["value"]
    cmap = "viridis" if alike else "viridis_r"
    image = heat(ax, grid, vmin=min(0.0, float(np.nanmin(grid))), vmax=1.0, cmap=cmap)
    if n <= MOST_NUMBERED:
        write_cells(ax, image, grid, size=float(np.clip(75 / n, 4.5, 9)), form=hundredths)
    size = float(np.clip(85 / n, 4.5, 8))
    names = [run.removeprefix("zoo:") for run in runs]
    ax.set_xticks(range(n), names, rotation=90)
    ax.set_yticks(range(n), names)
    ax.tick_params(labelsize=size, length=0)
    ax.set_title(measure)


def groups_figure(result: Result) -> Figure:
    """Means over groups of pairs of models at the deepest layer, a panel a measure, intervals over models,
    with null, ceiling and published value.

    Reads table `groups` {measure, layer, models, group, value, lo, hi, null, ceiling, published};
    values `n`, `models`.
    """
    rows = [row for row in result.tables["groups"] if row["models"] == "all models"]
    layer = max((row["layer"] for row in rows), default=0)
    left_out = ("disjoint, of the ceiling", "disjoint, change per task")
    rows = [row for row in rows if row["layer"] == layer and row["group"] not in left_out]
    measures = list(dict.fromkeys(row["measure"] for row in rows)) or ["none"]
    columns = min(4, len(measures))
    lines = -(-len(measures) // columns)
    names = list(dict.fromkeys(row["group"] for row in rows))
    figure = new_figure(1.2 + lines * (0.55 + 0.26 * max(2, len(names))))
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for ax in axes.flat[len(measures) :]:
        ax.set_visible(False)
    for ax, measure in zip(axes.flat, measures, strict=False):
        mine = [row for row in rows if row["measure"] == measure]
        spots = [names.index(row["group"]) for row in mine]
        value = [row["value"] for row in mine]
        reach = error_bars([row["lo"] for row in mine], value, [row["hi"] for row in mine])
        ax.errorbar(floats(value), spots, xerr=reach, fmt="o", color="black", capsize=2, label="mean, 95 %")
        for column, marker, colour, label in (
            ("null", "|", BASELINE, "cities shuffled"),
            ("ceiling", "|", "#555555", "ceiling"),
            ("published", "D", "#999999", "published"),
        ):
            ends = floats([row[column] for row in mine])
            ax.plot(ends, spots, marker, color=colour, mfc="none", ms=8 if marker == "|" else 5, label=label)
        ax.set_title(measure)
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.grid(axis="x")
    if rows:
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    caption(
        figure,
        f"{result.values['models']} models, {layer_name(layer)}, n = {result.values['n']} cities. Means over "
        "pairs of models; bars: 95 % over models (none where a group has too few). Ceiling: models of the "
        "same tasks and another seed. procrustes, angular and angles are distances: 0 is alike.",
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
            layers, values = [row["layer"] for row in mine], floats([row["value"] for row in mine])
            ax.plot(layers, values, "o" + LINES[index % len(LINES)], color=GREYS[index % 3])
            ax.set_xticks(layers)
        ax.set_title(reference)
        ax.set_xlabel("layer")
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


def cka_figure(result: Result) -> Figure:
    """Similarity of every pair of items (run x layer x prompt), with the numbers in the cells.

    Reads arrays `matrix` [item item], `runs`, `layers`, `tasks` [item], optional `hooks` [item]; values `n`,
    `measure`; table `control` {control, mean, max, n} where there.
    """
    matrix = result.arrays["matrix"]
    labels = _item_labels(result)
    n = len(labels)
    figure = new_figure(min(1.9 + 0.34 * max(n, 6), 8.6))
    ax = figure.subplots()
    image = heat(ax, matrix, vmin=min(0.0, float(np.nanmin(matrix))), vmax=1.0, cmap="viridis")
    if n <= MOST_NUMBERED:
        write_cells(ax, image, matrix, size=float(np.clip(150 / n, 5, 9)), form=hundredths)
    ax.set_xticks(range(n), labels, rotation=90)
    ax.set_yticks(range(n), labels)
    ax.tick_params(labelsize=float(np.clip(170 / n, 4.5, 8)), length=0)
    runs = result.arrays["runs"]
    for edge in np.flatnonzero(runs[1:] != runs[:-1]) + 0.5:
        ax.axhline(edge, color="white", lw=1.5)
        ax.axvline(edge, color="white", lw=1.5)
    ax.set_title(str(result.values["measure"]))
    figure.colorbar(image, ax=ax, shrink=0.6, pad=0.01)
    controls = "; ".join(
        f"{row['control']}: mean {hundredths(row['mean'])}, largest {hundredths(row['max'])}"
        for row in result.tables.get("control", [])
    )
    caption(
        figure, f"n = {result.values['n']} cities; 1 is equal up to rotation and scale. Controls: {controls}."
    )
    return figure


def _item_labels(result: Result) -> list[str]:
    runs, layers, tasks = (result.arrays[name] for name in ("runs", "layers", "tasks"))
    hooks = result.arrays.get("hooks", np.full(len(runs), ""))
    prompts = len(set(tasks.tolist())) > 1
    return [
        ", ".join([str(run), *([str(task)] if prompts else []), layer_name(int(layer), str(hook))])
        for run, layer, task, hook in zip(runs, layers, tasks, hooks, strict=True)
    ]
