"""Figure of several trainings: loss and answers against the examples seen."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cwr_mech.analysis.answers.lines import MOST_SHOWN, SETTLED, loss_and_scores, mark_switches, measure, tick
from cwr_mech.render.numbers import number
from cwr_mech.render.shown import plot
from cwr_mech.render.style import BASELINE, TASK_LOOKS, Look, caption, floats
from cwr_mech.results import Result, Row, where
from cwr_mech.tasks.registry import ordered

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
        _score_panel(panel, mine, runs)
        panel.set_title(f"{task}\n{measure(mine[0])}", fontsize=8)
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
        look, stroke = run_look(index)
        rows, loss = (floats([row[name] for row in where(table, run=run)]) for name in ("rows", "loss"))
        every = max(1, len(rows) // 8)
        ax.plot(
            rows / 1000,
            loss,
            color=look.colour,
            ls=stroke,
            marker=look.marker,
            markevery=(every * index // len(runs), every),  # equal curves still show all their marks
            lw=1.1,
            label=run,
        )
        settled += loss[rows >= SETTLED * rows[-1]].tolist()
    ax.set_ylim(0.95 * min(settled), 1.05 * float(np.quantile(settled, MOST_LOSSES)))
    ax.set_xlim(0, None)
    ax.set_title("training loss")
    ax.set_ylabel("nats a predicted token")
    ax.set_xlabel("thousand examples seen")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def _score_panel(ax: Axes, rows: list[Row], runs: list[str]) -> None:
    for index, run in enumerate(runs):
        look, stroke = run_look(index)
        for group, face in (("old", look.colour), ("new", "white")):
            mine = where(rows, run=run, group=group)
            x, y = (floats([row[key] for row in mine]) for key in ("rows", "value"))
            ax.plot(x / 1000, y, color=look.colour, ls=stroke, marker=look.marker, mfc=face, lw=1)
    for group, stroke in (("old", "--"), ("new", ":")):
        for constant in sorted({row["baseline"] for row in where(rows, group=group)}):
            ax.axhline(constant, color=BASELINE, ls=stroke, lw=1)
    accuracy = rows[0]["metric"] == "accuracy"
    constant = max(row["baseline"] for row in rows)
    most = min(float(np.nanmax([*floats([row["value"] for row in rows]), constant])), MOST_SHOWN * constant)
    ax.set_ylim(0, 1.02 if accuracy else 1.05 * most)
    ax.set_xlim(0, None)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.yaxis.set_major_formatter(FuncFormatter(tick))
