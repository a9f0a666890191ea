"""How a result of kind "locate" is shown: a map of implied coordinates, errors by task, a report section."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cwr_mech.analysis.best import best
from cwr_mech.analysis.locating.tables import ALL_OTHERS, DEALT, NEW, TRAINING, TRUE
from cwr_mech.render.lines import panels
from cwr_mech.render.markdown import ends, paragraphs, table_of
from cwr_mech.render.numbers import number
from cwr_mech.render.shown import Show, Table, by_kind, plot
from cwr_mech.render.style import BASELINE, caption, new_figure, task_look, with_reach
from cwr_mech.results import Result, Row, groups, where

MOST_MAPS = 4
RESOLUTIONS = (50, 100, 200)
"""Mean errors, in tenths of a degree, for which the report says how many questions a task needs."""
ARROWS: dict[str, Any] = {
    "angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.002, "headwidth": 5, "headlength": 6,
}  # fmt: skip
FRAME = 0.08
"""Share of the extent shown beyond the cities and coordinates drawn."""


@plot("Where answers put cities", "map")
def map_figure(result: Result) -> Figure:
    """A map for each run, of many for the first of each kind: arrows from true to implied coordinates, in the
    colour of the task.

    Shown are new cities, or training cities in a world without new ones. Reads arrays `implied` [run task
    city 2], `probe` [run city 2], `true` [city 2], `is_new` [city], `partners` [partner 2], `runs`, `tasks`;
    table `errors`.
    """
    true, is_new = result.arrays["true"].astype(float), result.arrays["is_new"]
    shown = is_new if is_new.any() else ~is_new
    chosen = _mapped(result)
    runs = [str(run) for run in result.arrays["runs"][chosen]]
    tasks = [str(task) for task in result.arrays["tasks"]]
    partners = result.arrays["partners"]
    implied, probes = result.arrays["implied"][chosen][:, :, shown], result.arrays["probe"][chosen]
    frame = _frame(np.concatenate([partners, implied[np.isfinite(implied).all(axis=-1)], true[shown]]))
    columns = 1 if len(runs) == 1 else 2
    span_x, span_y = frame[1] - frame[0]
    line = 0.5 + 7.4 / columns * span_y / span_x
    figure, axes = panels(len(runs), margin=0.9, line=line, most=columns, sharex=True, sharey=True)
    for ax, run, places, probe in zip(axes, runs, implied, probes, strict=True):
        ax.scatter(partners[:, 0], partners[:, 1], s=3, c="#d4d4d4", linewidths=0, zorder=0)
        for task, xy in zip(tasks, places, strict=True):
            _arrows(ax, true[shown], xy, task_look(task).colour, task_look(task).marker)
        _arrows(ax, true[shown], probe[shown], "#7a7a7a", "+")
        x, y = true[shown].T
        ax.scatter(x, y, s=42, c="#ffffff", marker="*", linewidths=0.7, edgecolors="black", zorder=6)
        ax.set_title(run)
        ax.set_xlim(frame[0, 0], frame[1, 0])
        ax.set_ylim(frame[0, 1], frame[1, 1])
        ax.set_aspect("equal")
    for ax in axes[::columns]:
        ax.set_ylabel("y (0.1° of latitude)")
    for ax in axes[-columns:]:
        ax.set_xlabel("x (0.1° of longitude)")
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.xaxis.set_tick_params(labelbottom=True)
    _legend(figure, tasks)
    return caption(figure, _map_caption(result, runs, bool(is_new.any())))


def _mapped(result: Result) -> list[int]:
    """Which runs get a map: all of a few; of many the first of each kind."""
    runs = [str(run) for run in result.arrays["runs"]]
    if len(runs) > MOST_MAPS:
        firsts = [mine[0]["run"] for mine in groups(result.tables["models"], "models").values()]
        runs = [run for run in runs if run in firsts][:MOST_MAPS]
    return [k for k, run in enumerate(result.arrays["runs"]) if str(run) in runs]


def _frame(points: np.ndarray) -> np.ndarray:
    """Corners [2 2] that hold all points, with a margin."""
    low, high = points.min(axis=0), points.max(axis=0)
    reach = FRAME * (high - low).max()
    return np.stack([low - reach, high + reach])


def _arrows(ax: Axes, true: np.ndarray, xy: np.ndarray, colour: str, marker: str) -> None:
    """Thin arrows city by city, and one mark at their mean."""
    if not np.isfinite(xy).all():
        return
    ax.quiver(*true.T, *(xy - true).T, color=colour, alpha=0.45, zorder=3, **ARROWS)
    x, y = xy.mean(axis=0)
    edges: dict[str, Any] = {"linewidths": 1.8} if marker == "+" else {"edgecolors": "white"}
    ax.scatter([x], [y], s=64, c=colour, marker=marker, zorder=5, **edges)


def _legend(figure: Figure, tasks: Sequence[str]) -> None:
    handles = [_handle(task, task_look(task).marker, task_look(task).colour) for task in tasks]
    handles.append(_handle("linear probe", "+", "#7a7a7a"))
    handles.append(_handle("true", "*", "white", markeredgecolor="black", markersize=9))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=7.5)


def _handle(label: str, marker: str, colour: str, **style: Any) -> Line2D:
    return Line2D([], [], color=colour, marker=marker, label=label, **style)


def _map_caption(result: Result, runs: Sequence[str], new: bool) -> str:
    kind, values = ("new" if new else "training"), result.values
    n = values["n_new"] if new else values["n_training"]
    text = (
        f"n = {n} {kind} cities. Arrows run from their true coordinates to those that explain the model's "
        f"answers best, {result.params['questions']} questions a task and city; marks stand at the means. "
        "Grey dots: training cities named as partners. Linear probe: fitted on the partners."
    )
    left = len(result.arrays["runs"]) - len(runs)
    return text + (f" {len(runs)} of {len(runs) + left} runs, of different kinds." if left else "")


@plot("Error of implied coordinates by task", "errors")
def errors_figure(result: Result) -> Figure:
    """Error of implied coordinates by task: filled for new cities, hollow for training cities; a row for each
    kind of model, means over its models.

    Reads tables `groups`, `errors`; params `tasks`.
    """
    rows = result.tables["groups"]
    labels = list(dict.fromkeys(row["models"] for row in rows))
    names = [*result.params["tasks"], "probe"]
    figure = new_figure(1.9 + 0.62 * len(labels))
    ax = figure.subplots()
    offsets = np.linspace(-0.33, 0.33, len(names))
    marks = {name: "P" if name == "probe" else task_look(name).marker for name in names}
    for name, offset in zip(names, offsets, strict=True):
        look = task_look(name)
        for kind, face in ((NEW, look.colour), (TRAINING, "white")):
            mine = [row for row in where(rows, task=name, cities=kind) if row["error"] is not None]
            if not mine:
                continue
            y = np.array([labels.index(row["models"]) for row in mine]) + offset
            x, bars = with_reach(mine, "error", least=1.0)  # a logarithmic axis cannot show less than 0
            ax.errorbar(x, y, xerr=bars, fmt="none", ecolor=look.colour, elinewidth=0.8, alpha=0.6)
            marker = marks[name]
            ax.plot(x, y, marker, color=look.colour, markerfacecolor=face, linestyle="", markersize=5)
    chance = [row["error"] for row in where(result.tables["errors"], answers=DEALT)]
    ax.axvspan(min(chance), max(chance), color=BASELINE, alpha=0.12, linewidth=0)
    for edge in range(1, len(labels)):
        ax.axhline(edge - 0.5, color="#dddddd", linewidth=0.6)
    ax.set_xscale("log")
    ax.set_xlim(left=min(row["error"] for row in rows if row["error"] is not None) / 2)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.grid(True, axis="x")
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.set_yticks(range(len(labels)), [_wrapped(label, rows) for label in labels])
    ax.set_xlabel("distance of implied from true coordinates (0.1°)")
    handles = [_handle(name, marks[name], task_look(name).colour, linestyle="") for name in names]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=7.5)
    worst = best(where(result.tables["errors"], answers=TRUE), "error")
    return caption(
        figure,
        f"Filled: new cities ({result.values['n_new']}); hollow: training cities "
        f"({result.values['n_training']}), the control. Geometric means over models, with 95 % intervals "
        "over models where there are several. Red band: answers dealt at random. The same questions answered "
        f"from the true coordinates give at most {number(worst['error'], 2)} ({worst['task']}).",
    )


def _wrapped(label: str, rows: Sequence[Row]) -> str:
    n = max(row["n"] for row in where(rows, models=label))
    return label.replace("; ", "\n") + f" (n = {n})"


def questions_needed(result: Result) -> list[Row]:
    """For each task the smallest number of questions with a mean error of at most each of RESOLUTIONS, for
    training cities over all runs and for answers from true coordinates; None where none was enough."""
    found = []
    curves = groups(result.tables["curve"], "task", "answers", "cities")
    for task in result.params["tasks"]:
        for source in ("model", TRUE):
            curve = groups(curves.get((task, source, TRAINING), []), "questions")
            means = {k: np.mean([row["error"] for row in curve[k]]) for k in sorted(curve)}
            enough = {str(size): next((k for k in means if means[k] <= size), None) for size in RESOLUTIONS}
            found.append({"task": task, "answers": source} | enough)
    return found


MOST_RUNS = 6
"""Tables of single runs are shown for no more than these; kinds of models stand for more."""
MOST_TOLD = 4
"""Kinds of models in the summary's sentence."""


def error_lines(result: Result) -> list[Row]:
    """A row for each run (controls come last) and task: new cities beside training cities."""
    rows = result.tables["errors"]
    new = groups(where(rows, cities=NEW), "run", "answers", "task")
    runs = [*result.params["runs"], None]
    lines = []
    for row in sorted(where(rows, cities=TRAINING), key=lambda row: runs.index(row["run"])):
        (mine,) = new.get((row["run"], row["answers"], row["task"]), [{}])
        task = f"{row['task']}, {row['layer']}" if row["layer"] else row["task"]
        line = {"run": row["run"] or row["answers"], "task": task}
        line |= {"error": mine.get("error"), "radius": mine.get("radius", row["radius"])}
        line |= {end: mine.get(end) if row["run"] else None for end in ("lo", "hi")}
        lines.append(line | {"training": row["error"]})
    return lines


def index_groups(result: Result) -> list[Row]:
    """Divergence index against all other tasks for each kind of model."""
    rows = where(result.tables["divergence_groups"], task=ALL_OTHERS)
    return [_wide(models, mine, "value", "measure") for models, mine in groups(rows, "models").items()]


def _wide(models: str, rows: Sequence[Row], value: str, *by: str) -> Row:
    """Rows about one kind of model as one: a value and its interval for each of the words in columns `by`."""
    line = {"models": models, "n": rows[0]["n"]}
    for row in rows:
        name = "_".join(row[column] for column in by)
        line |= {name: row[value], f"{name}_lo": row["lo"], f"{name}_hi": row["hi"]}
    return line


def group_lines(result: Result) -> list[Row]:
    """A row for each kind of model, a column of new and one of training cities for each task."""
    kinds = groups(result.tables["groups"], "models")
    return [_wide(models, mine, "error", "task", "cities") for models, mine in kinds.items()]


def locating(result: Result) -> str:
    """Where answers put cities; the divergence index; what the method can resolve."""
    tasks = [*result.params["tasks"], "probe"]
    few = len(result.params["runs"]) <= MOST_RUNS
    parts = [
        "Where must a city lie for a model's own answers about it to be explained best? Each task is asked "
        "apart, so a city may have as many coordinates as there are tasks. Numbers are mean distances of "
        "implied from true coordinates, in tenths of a degree."
    ]
    if few:
        heads = {"error": "new cities", "interval": "95 % over cities", "task": "by answers to"}
        parts.append(table_of(error_lines(result), "run task error interval radius training", **heads))
    else:
        for kind, end in ((NEW, "~"), (TRAINING, "")):
            heads = {f"{task}_{kind}": task for task in tasks}
            columns = " ".join(f"{name}{end}" for name in heads)
            told = table_of(group_lines(result), f"models n {columns}", **heads)
            parts += [f"Geometric means over models (95 % over models), {kind} cities:", told]
    if few and (index := result.tables["divergence"]):
        told = table_of(index, "run trained task index~ control excess~", task="other task")
        parts += ["Divergence index of fine-tuned models:", told]
    elif index := index_groups(result):
        parts += [
            "Divergence index against all other tasks, means over models (95 % over models):",
            table_of(index, "models n index~ control~ excess~"),
        ]
    heads = {str(size): f"error {size}" for size in RESOLUTIONS}
    parts += [
        "Questions needed for a mean error on training cities (a dash: more than were asked):",
        table_of(questions_needed(result), f"task answers {' '.join(heads)}", **heads),
    ]
    return paragraphs(*parts)


def placed(result: Result) -> str:
    """Distance of implied from true coordinates, new beside training cities, by model or by kind of model."""
    tasks = result.params["tasks"]
    if len(result.params["runs"]) > MOST_RUNS:
        told = [
            f"{row['models']} {number(row['index'])} (95 % {ends(row, 'index')}, n = {row['n']})"
            for row in index_groups(result)
        ]
        more = f"; {len(told) - MOST_TOLD} more kinds below" if len(told) > MOST_TOLD else ""
        return (
            "Divergence index against all other tasks, by kind of model: "
            f"{', '.join(told[:MOST_TOLD])}{more}."
        )
    told = []
    for run in result.params["runs"]:
        mine = [row for row in where(error_lines(result), run=run) if row["task"] in tasks]
        errors = [f"{row['task']} {number(row['error'])} ({number(row['training'])})" for row in mine]
        told.append(f"{run}: {', '.join(errors)}")
    return (
        "Mean distance of implied from true coordinates, in tenths of a degree, of new cities (training "
        f"cities) by answers to each task: {'; '.join(told)}."
    )


SHOWS = by_kind(
    Show("locate", "Where answers put a city",
        "Coordinates implied by a model's own answers, each task by itself, beside training cities and "
        "controls without a model.",
        locating, (map_figure, errors_figure),
        (
            Table("distance of implied from true coordinates, 0.1 degree",
                "run task error lo hi radius training", error_lines),
            Table("divergence index",
                "run trained task index index_lo index_hi control excess excess_lo excess_hi", "divergence"),
            Table("questions needed for a mean error on training cities",
                f"task answers {' '.join(map(str, RESOLUTIONS))}", questions_needed),
        ), finding=placed),
)  # fmt: skip
