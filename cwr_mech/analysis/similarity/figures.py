"""Figures of similarity between models: matrices, means over groups of pairs, references."""

from itertools import takewhile

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from cwr_mech.analysis.stats.means import given
from cwr_mech.render.grids import MOST_NUMBERED, grid_of, hundredths, matrix
from cwr_mech.render.lines import line, panels
from cwr_mech.render.numbers import layer_name
from cwr_mech.render.shown import plot
from cwr_mech.render.style import BASELINE, GREYS, caption, floats, new_figure, with_reach
from cwr_mech.results import Result, Row, groups, where

LINES = ("-", "--", "-.", ":")
MOST_LINES = 8
"""More models than this cannot be told apart as lines."""
SHOWN = ("cka", "rsa", "procrustes", "mutual_knn")
"""Measures whose matrices are drawn, where they are in the result; else its first four."""


@plot("Every pair of models", "matrices")
def matrices_figure(result: Result) -> Figure:
    """Every pair of models at the deepest layer, a panel a measure, with the numbers in the cells.

    Reads tables `pairs` {measure, layer, run_a, run_b, value, alike, null_mean}, `models` {run, tasks}.
    """
    runs = [row["run"] for row in result.tables["models"]]
    layer = max(result.params["layers"])
    pairs = where(result.tables["pairs"], layer=layer)
    present = [name for name in SHOWN if name in result.params["measures"]]
    measures = present or result.params["measures"][:4]
    many, columns = len(runs) > MOST_NUMBERED, 3 if len(measures) == 3 else min(2, len(measures))
    size = float(np.clip(0.9 + 0.3 * len(runs), 1.9, 4.2))
    if many:
        figure, axes = _large_and_small(len(measures))
    else:
        figure, axes = panels(len(measures), margin=0.9, line=size, most=columns)
    for ax, measure in zip(axes, measures, strict=True):
        _matrix(ax, where(pairs, measure=measure), runs, measure)
    for index, ax in enumerate(axes):
        if index > 0 if many else index % columns:
            ax.set_yticks([])
        if index > 0 if many else index < len(axes) - columns:
            ax.set_xticks([])
    mine = groups(pairs, "measure")
    null = {name: float(np.nanmean(floats([row["null_mean"] for row in mine[name]]))) for name in measures}
    nulls = [f"{name} {hundredths(value)}" for name, value in null.items()]
    distance = " (procrustes is a distance, 0 is alike)" if "procrustes" in null else ""
    return caption(
        figure,
        f"{layer_name(layer)}, n = {result.values['n']} cities; intervals of the cells are in the table. "
        f"Light: alike{distance}. Control, mean with cities shuffled: "
        f"{', '.join(nulls)}." + (" The small panels are in the order of the large one." if many else ""),
    )


def _large_and_small(n: int) -> tuple[Figure, list[Axes]]:
    """One panel in which names of many models can be read on both sides, and small ones for the others."""
    figure = new_figure(8.6 + (2.6 if n > 1 else 0))
    if n == 1:
        return figure, [figure.subplots()]
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=[3.3, 1])[:, 0]
    return figure, [top.subplots(), *bottom.subplots(1, n - 1, squeeze=False)[0]]


def without_common_start(runs: list[str]) -> list[str]:
    """Names of models without the words, up to a hyphen or colon, with which all of them begin."""
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*runs, strict=False))
    shared = "".join(letters[0] for letters in alike) if len(set(runs)) > 1 else ""
    start = max(shared.rfind("-"), shared.rfind(":")) + 1
    return [run[start:] for run in runs]


def _square(
    ax: Axes, grid: np.ndarray, names: list[str], cmap: str, numbers: float | None, labels: float
) -> AxesImage:
    """A matrix of items by items, coloured from 0, or the least value below it, to 1."""
    ends = min(0.0, float(np.nanmin(grid))), 1.0
    return matrix(ax, grid, names, names, ends=ends, cmap=cmap, numbers=numbers, labels=labels, rotation=90)


def _matrix(ax: Axes, pairs: list[Row], runs: list[str], measure: str) -> None:
    n, alike = len(runs), float(pairs[0]["alike"])
    turned = [row | {"run_a": row["run_b"], "run_b": row["run_a"]} for row in pairs]
    grid = grid_of([*pairs, *turned], "value", run_a=runs, run_b=runs)
    np.fill_diagonal(grid, alike)
    cmap = "viridis" if alike else "viridis_r"
    names, size = without_common_start(runs), float(np.clip(75 / n, 4.5, 9)) if n <= MOST_NUMBERED else None
    _square(ax, grid, names, cmap, size, float(np.clip(85 / n, 6, 8)))
    ax.set_title(measure)


@plot("Similarity over groups of models", "groups")
def groups_figure(result: Result) -> Figure:
    """Means over groups of pairs of models at the deepest layer, a panel a measure, intervals over models,
    with null, ceiling and published value.

    Reads table `groups` {measure, layer, models, group, value, lo, hi, null, ceiling, published};
    values `n`, `models`.
    """
    rows = where(result.tables["groups"], models="all models")
    layer = max((row["layer"] for row in rows), default=0)
    left_out = ("disjoint, of the ceiling", "disjoint, change per task")
    rows = [row for row in rows if row["layer"] == layer and row["group"] not in left_out]
    measures = list(dict.fromkeys(row["measure"] for row in rows)) or ["none"]
    names = list(dict.fromkeys(row["group"] for row in rows))
    figure, axes = panels(len(measures), margin=1.2, line=0.55 + 0.26 * max(2, len(names)), sharey=True)
    for ax, measure in zip(axes, measures, strict=True):
        mine = where(rows, measure=measure)
        spots = [names.index(row["group"]) for row in mine]
        value, reach = with_reach(mine, "value")
        ax.errorbar(value, spots, xerr=reach, fmt="o", color="black", capsize=2, label="mean, 95 %")
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
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return caption(
        figure,
        f"{result.values['models']} models, {layer_name(layer)}, n = {result.values['n']} cities. Means over "
        "pairs of models; bars: 95 % over models (none where a group has too few). Ceiling: models of the "
        "same tasks and another seed. procrustes, angular and angles are distances: 0 is alike.",
    )


@plot("Models beside their references", "references")
def references_figure(result: Result) -> Figure:
    """Each model beside its references at each layer, by debiased CKA (or the first measure there is).

    Reads tables `references` {measure, layer, run, reference, value}, `pairs` {measure, layer, alike,
    null_best}.
    """
    measures = groups(result.tables["references"], "measure")
    measure = "cka" if "cka" in measures else next(iter(measures))
    rows = measures[measure]
    references = groups(rows, "reference")
    runs = list(dict.fromkeys(row["run"] for row in rows))
    figure = new_figure(2.9)
    axes = figure.subplots(1, len(references), squeeze=False, sharey=True)[0]
    many = len(runs) > MOST_LINES
    for ax, (reference, mine) in zip(axes, references.items(), strict=True):
        if many:
            _by_number_of_tasks(ax, mine, result)
        else:
            _by_layer(ax, mine, runs)
        ax.set_title(reference)
        ax.grid(axis="y")
    axes[0].set_ylabel(measure)
    if not many:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(2, len(runs)))
    pairs = where(result.tables["pairs"], measure=measure)
    nulls = [row["null_best"] for row in pairs if given(row["null_best"])]
    distance = any(row["alike"] == 0 for row in pairs)
    most_alike, words = (min, "Least 5 %") if distance else (max, "Largest 95 %")
    return caption(
        figure,
        f"n = {result.values['n']} cities, {measure}. {words} quantile with shuffled cities: "
        f"{hundredths(most_alike(nulls, default=None))}. The digits of the id are what a model knows without "
        "any map."
        + (f" A dot is one of {len(runs)} models, at its last layer in the result." if many else ""),
    )


def _by_layer(ax: Axes, rows: list[Row], runs: list[str]) -> None:
    """A line for each model."""
    for index, run in enumerate(runs):
        mine, stroke = where(rows, run=run), LINES[index % len(LINES)]
        line(ax, mine, "layer", "value", marker="o", ls=stroke, color=GREYS[index % 3], label=run)
        ax.set_xticks([row["layer"] for row in mine])
    ax.set_xlabel("layer")


def _by_number_of_tasks(ax: Axes, rows: list[Row], result: Result) -> None:
    """A dot for each model over the number of its tasks: many lines could not be told apart."""
    tasks = {row["run"]: row["tasks"] for row in result.tables["models"]}
    last = max(row["layer"] for row in rows)
    shown = [row for row in rows if row["layer"] == last and row["run"] in tasks]
    counts = [len(str(tasks[row["run"]]).split("+")) for row in shown]
    ax.plot(counts, floats([row["value"] for row in shown]), "o", color="black", mfc="none")
    ax.set_xticks(range(1, max(counts, default=1) + 1))
    ax.set_xlabel("tasks of the model")


@plot("Similarity of representations")
def cka_figure(result: Result) -> Figure:
    """Similarity of every pair of items (run x layer x prompt), with the numbers in the cells.

    Reads arrays `matrix` [item item], `runs`, `layers`, `tasks` [item], optional `hooks` [item]; values `n`,
    `measure`; table `control` {control, mean, max, n} where there.
    """
    labels = _item_labels(result)
    n = len(labels)
    figure = new_figure(min(1.9 + 0.34 * max(n, 6), 8.6))
    ax = figure.subplots()
    size = float(np.clip(150 / n, 5, 9)) if n <= MOST_NUMBERED else None
    image = _square(ax, result.arrays["matrix"], labels, "viridis", size, float(np.clip(170 / n, 6, 8)))
    runs = result.arrays["runs"]
    edges = np.flatnonzero(runs[1:] != runs[:-1]) + 0.5
    for edge in edges if len(edges) < n - 1 else ():  # with one item a run, every line would be an edge
        for line_at in (ax.axhline, ax.axvline):
            line_at(edge, color="white", lw=1.5)
    ax.set_title(str(result.values["measure"]))
    figure.colorbar(image, ax=ax, shrink=0.6, pad=0.01)
    controls = "; ".join(
        f"{row['control']}: mean {hundredths(row['mean'])}, largest {hundredths(row['max'])}"
        for row in result.tables.get("control", [])
    )
    return caption(
        figure, f"n = {result.values['n']} cities; 1 is equal up to rotation and scale. Controls: {controls}."
    )


def _item_labels(result: Result) -> list[str]:
    runs, layers, tasks = (result.arrays[name] for name in ("runs", "layers", "tasks"))
    hooks = result.arrays.get("hooks", np.full(len(runs), ""))
    names = without_common_start([str(run) for run in runs])
    prompts, several = len(set(tasks.tolist())) > 1, len(set(layers.tolist())) > 1
    labels = [
        [name, str(task) if prompts else "", layer_name(int(layer), str(hook)) if several else ""]
        for name, layer, task, hook in zip(names, layers, tasks, hooks, strict=True)
    ]
    return [", ".join(filter(None, parts)) for parts in labels]
