"""Figures of trainings and answers: learning curves of one run and of several, scores by task."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cwr_mech.render.numbers import number
from cwr_mech.render.shown import plot
from cwr_mech.render.style import BASELINE, GREYS, TASK_LOOKS, Look, caption, floats, new_figure, task_look
from cwr_mech.results import Result, Row, where
from cwr_mech.tasks.registry import ordered

GROUPS = {"old": "", "new": ", new cities", "all": ", mixed"}
SETTLED = 0.02
BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
SWITCH = "#777777"
MOST_SHOWN = 2.2
"""Errors beyond this many times the constant answer's are cut off: unread answers count thousands."""


@plot("Learning curves")
def learning_figure(result: Result) -> Figure:
    """Loss by task above; score of each task against its best constant answer below.

    Reads arrays `rows` [point], `loss` [point], `loss_by_task` [point task], `tasks` [task]; table `tasks`
    {run, step, rows, task, metric, unit, value, baseline}.
    """
    tasks = [str(task) for task in result.arrays["tasks"]]
    rows = result.arrays["rows"] / 1000
    figure, ax, small = loss_and_scores(len(tasks), 2.8)
    for index, task in enumerate(tasks):
        look = task_look(task)
        ax.plot(rows, result.arrays["loss_by_task"][:, index], color=look.colour, lw=0.9, alpha=0.85)
        ax.plot([], [], color=look.colour, marker=look.marker, label=task)
    ax.plot(rows, result.arrays["loss"], color="#888888", lw=3, zorder=1, label="all")
    later = result.arrays["rows"] >= SETTLED * result.arrays["rows"][-1]  # not the steep fall of the start
    losses = result.arrays["loss_by_task"][later]
    ax.set_ylim(0.95 * float(np.nanmin(losses)), 1.05 * float(np.nanmax(losses)))
    ax.set_title(f"training loss of {result.params['runs'][0]}")
    ax.set_ylabel("nats a predicted token")
    ax.set_xlabel("thousand rows seen")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    for panel, task in zip(small, tasks, strict=True):
        _score_panel(panel, where(result.tables["tasks"], task=task), task)
    switch = mark_switches(figure.axes, result)
    return caption(
        figure,
        f"{number(float(result.arrays['rows'][-1]))} rows; losses of the first {SETTLED:.0%} may be cut off. "
        f"Small panels, against thousand rows: mean over {result.params['eval_rows']} validation questions; "
        f"dashed: the best constant answer or majority label.{switch}",
    )


def loss_and_scores(n: int, margin: float) -> tuple[Figure, Axes, list[Axes]]:
    """A figure with a wide panel for the loss above, and below it small ones for the scores of `n` tasks."""
    columns = min(4, max(1, n))
    lines = -(-n // columns)
    figure = new_figure(margin + 1.6 * lines)
    grid = figure.add_gridspec(1 + lines, columns, height_ratios=[2.4] + [1.6] * lines)
    top = figure.add_subplot(grid[0, :])
    return figure, top, [figure.add_subplot(grid[1 + k // columns, k % columns]) for k in range(n)]


def mark_switches(axes: Sequence[Axes], result: Result) -> str:
    """A grey line where the first tasks of a curriculum are joined by the others; returns what to say of it.

    Reads params `curriculum`: for each run None or {tasks, rows} (results from before have none).
    """
    begun = [one for one in result.params.get("curriculum", []) if one]
    for rows in {one["rows"] for one in begun}:
        for ax in axes:
            if rows / 1000 < ax.get_xlim()[1]:  # or the training has not come so far
                ax.axvline(rows / 1000, color=SWITCH, ls=":", lw=1.2, zorder=0)
    if not begun:
        return ""
    tasks = ", ".join(dict.fromkeys(task for one in begun for task in one["tasks"]))
    return f" Left of the grey dotted line a model of several tasks sees {tasks} alone."


def _score_panel(ax: Axes, rows: list[Row], task: str) -> None:
    look = task_look(task)
    x, y = floats([row["rows"] for row in rows]) / 1000, floats([row["value"] for row in rows])
    ax.plot(x, y, color=look.colour, marker=look.marker)
    if rows:
        ax.axhline(rows[0]["baseline"], color=BASELINE, ls="--", lw=1)
    _score_axes(ax, task, rows)


def _score_axes(ax: Axes, task: str, rows: list[Row]) -> None:
    """Title, limits and ticks of a panel of one task's scores."""
    ax.set_title(f"{task}\n{measure(rows[0]) if rows else ''}", fontsize=8)
    ax.set_xlim(0, None)
    if rows:
        constant = max(row["baseline"] for row in rows)
        best = float(np.nanmax([*floats([row["value"] for row in rows]), constant]))
        most = 1.05 * min(best, MOST_SHOWN * constant)
        ax.set_ylim(0, 1.02 if rows[0]["metric"] == "accuracy" else most)
    ax.xaxis.set_major_locator(MaxNLocator(2))  # more would touch where examples go to the millions
    ax.yaxis.set_major_formatter(FuncFormatter(tick))


def measure(row: Row) -> str:
    """What a task's score is, and which way is better."""
    if row["metric"] == "accuracy":
        return "accuracy ↑"
    return f"error, {UNITS.get(row['unit'], row['unit'])} ↓"


UNITS = {"tenths of a degree": "0.1°", "square tenths of a degree": "0.01 sq °"}
UNITS |= dict.fromkeys(("degrees", "degree"), "°")


@plot("Scores by task")
def eval_figure(result: Result) -> Figure:
    """One panel a task: bars for each model and kind of question, the constant answer as a dashed line.

    Reads table `tasks` {run, task, group, n, parse_rate, metric, unit, value_mean, baseline}.
    """
    table = result.tables["tasks"]
    tasks = ordered(row["task"] for row in table)
    runs = list(dict.fromkeys(row["run"] for row in table))
    columns = min(4, len(tasks))
    lines = [tasks[start : start + columns] for start in range(0, len(tasks), columns)]
    bars = [list(dict.fromkeys(_bar(row) for row in table if row["task"] in line)) for line in lines]
    figure = new_figure(0.6 + sum(0.75 + 0.24 * len(line) for line in bars))
    heights = [len(line) + 2.0 for line in bars]
    panels = figure.subplots(len(lines), columns, squeeze=False, sharey="row", height_ratios=heights)
    for row_of_panels, line, bars_of_line in zip(panels, lines, bars, strict=True):
        for panel in row_of_panels[len(line) :]:
            panel.set_axis_off()
        for panel, task in zip(row_of_panels, line, strict=False):
            _bars_panel(panel, where(table, task=task), bars_of_line, runs)
        names = [f"{run}{GROUPS.get(group, group)}" for run, group in bars_of_line]
        row_of_panels[0].set_yticks(range(len(names)), names)
        row_of_panels[0].invert_yaxis()
    sizes = sorted({int(row["n"]) for row in table})
    n = number(sizes[0]) if len(sizes) == 1 else f"{number(sizes[0])} to {number(sizes[-1])}"
    worst = min(float(row["parse_rate"]) for row in table)
    return caption(
        figure,
        f"n = {n} test questions a bar; answers that cannot be read count as failures (read: at least "
        f"{worst:.1%}). Red: the best constant answer, or the majority label. ↑ larger is better, ↓ smaller.",
    )


def _bar(row: Row) -> tuple[str, str]:
    return row["run"], row["group"]


def _bars_panel(panel: Axes, rows: list[Row], bars: list[tuple[str, str]], runs: list[str]) -> None:
    mine = {_bar(row): row for row in rows}
    values = floats([mine[bar]["value_mean"] if bar in mine else None for bar in bars])
    base = floats([mine[bar]["baseline"] if bar in mine else None for bar in bars])
    accuracy = rows[0]["metric"] == "accuracy"
    constant = float(np.nanmax([*base, 1e-9]))
    widest = 1.0 if accuracy else min(float(np.nanmax([*values, constant])), MOST_SHOWN * constant)
    spots = np.arange(len(bars))
    colours = [GREYS[runs.index(run) % len(GREYS)] for run, _ in bars]
    panel.barh(spots, np.nan_to_num(values), color=colours, height=0.7)
    panel.plot(base, spots, color=BASELINE, marker="|", ls="", markersize=11, mew=1.8, zorder=5)
    for spot, value in enumerate(values):
        if bars[spot] in mine:
            beside = float(np.clip(np.nan_to_num(value), 0, widest)) + widest * 0.03
            panel.text(beside, spot, number(value), va="center", fontsize=7, bbox=BEHIND)
    panel.set_xlim(0, widest * 1.35)
    panel.set_title(f"{rows[0]['task']}\n{measure(rows[0])}", fontsize=8)
    panel.xaxis.set_major_locator(MaxNLocator(3))
    panel.xaxis.set_major_formatter(FuncFormatter(tick))
    panel.tick_params(axis="y", length=0)


def tick(value: float, _position: int) -> str:
    """A number at an axis, as short as it can be."""
    return f"{value:,g}"


MOST_LOSSES = 0.97
"""Share of the losses that are shown: where tasks join the mixture, the loss leaps for a moment."""
STROKES = ("-", "--", "-.", ":")


@plot("Learning curves")
def curves_figure(result: Result) -> Figure:
    """Loss above, a line a run; below a panel a task: its score on the way beside the best constant answer.

    Reads tables `loss` {run, rows, loss} and `tasks` {run, rows, task, group, metric, unit, value, baseline};
    params `runs`, `eval_rows`.
    """
    runs = [str(run) for run in result.params["runs"]]
    scores = result.tables["tasks"]
    tasks = ordered(row["task"] for row in scores)
    figure, top, small = loss_and_scores(len(tasks), 2.8 + 0.1 * len(runs))
    _loss_panel(top, result.tables["loss"], runs)
    for panel, task in zip(small, tasks, strict=True):
        mine = where(scores, task=task)
        _scores_panel(panel, mine, runs)
        _score_axes(panel, task, mine)
    counts = sorted(set(result.params["eval_rows"]))
    asked = number(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    text = f"Losses of the first moments may be cut off. Small panels: mean over {asked} validation questions"
    if any(row["group"] == "new" for row in scores):
        text += (
            " about old cities, hollow marks about new ones; red: the best constant answer or majority label "
            "(dashed: old cities, dotted: new ones)."
        )
    else:
        text += "; dashed red: the best constant answer or majority label."
    switch = mark_switches(figure.axes, result)
    return caption(figure, f"Against thousand examples seen. {text}{switch}")


def run_look(index: int) -> tuple[Look, str]:
    """Colour, marker and stroke of the first, second, ... run."""
    return TASK_LOOKS[index % len(TASK_LOOKS)], STROKES[index % len(STROKES)]


def _loss_panel(ax: Axes, table: list[Row], runs: list[str]) -> None:
    settled = []
    for index, run in enumerate(runs):
        rows, loss = (floats([row[name] for row in where(table, run=run)]) for name in ("rows", "loss"))
        ax.plot(rows / 1000, loss, lw=1.1, label=run, **_curve(len(rows), index, len(runs)))
        settled += loss[rows >= SETTLED * rows[-1]].tolist()
    ax.set_ylim(0.95 * min(settled), 1.05 * float(np.quantile(settled, MOST_LOSSES)))
    ax.set_xlim(0, None)
    ax.set_title("training loss")
    ax.set_ylabel("nats a predicted token")
    ax.set_xlabel("thousand examples seen")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def _curve(points: int, index: int, curves: int) -> dict[str, Any]:
    """How a run is drawn: its look, and some eight marks, placed so that equal curves still show them all."""
    look, stroke = run_look(index)
    every = max(1, points // 8)
    marks = (every * index // curves, every)
    return {"color": look.colour, "ls": stroke, "marker": look.marker, "markevery": marks}


def _scores_panel(ax: Axes, rows: list[Row], runs: list[str]) -> None:
    for index, run in enumerate(runs):
        for group in ("old", "new"):
            mine = where(rows, run=run, group=group)
            x, y = (floats([row[key] for row in mine]) for key in ("rows", "value"))
            shape = _curve(len(x), index, len(runs)) | ({} if group == "old" else {"mfc": "white"})
            ax.plot(x / 1000, y, lw=1, **shape)
    for group, stroke in (("old", "--"), ("new", ":")):
        for constant in sorted({row["baseline"] for row in where(rows, group=group)}):
            ax.axhline(constant, color=BASELINE, ls=stroke, lw=1)
