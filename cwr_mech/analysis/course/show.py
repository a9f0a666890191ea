"""Figure and report section of a course: improvement against steps, and against the trained task's own."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cwr_mech.render.lines import line
from cwr_mech.render.numbers import number
from cwr_mech.render.shown import Show, Table, by_kind, plot
from cwr_mech.render.style import caption, new_figure, task_look
from cwr_mech.results import Result, Row, groups, where


@plot("Improvement along fine-tunings")
def course_figure(result: Result) -> Figure:
    """Improvement of trained and of other tasks against steps; other tasks' against the trained one's.

    Reads table `course` {run, set, condition, step, own, others}. One line a run of the first condition.
    """
    rows = result.tables["course"]
    rows = where(rows, condition=rows[0]["condition"])
    figure = new_figure(3.2)
    left, middle, right = figure.subplots(1, 3)
    _lines(left, rows, "step", "own")
    _lines(middle, rows, "step", "others")
    _lines(right, rows, "own", "others")
    for ax, title in ((left, "trained task"), (middle, "other tasks")):
        first = max(1, min(row["step"] for row in rows if row["step"]))
        ax.set_xscale("symlog", linthresh=first)
        ax.set_xlim(0)
        ax.set_xticks([0, *(10**k for k in range(1, 7) if first < 10**k <= max(row["step"] for row in rows))])
        ax.set_title(title)
        ax.set_xlabel("steps")
    left.set_ylabel("improvement on new cities")
    left.legend(fontsize=7)
    right.set_title("others vs trained task")
    right.set_xlabel("trained task's improvement")
    n = result.values["n_bases"]
    return caption(
        figure,
        f"{result.values['n_models']} fine-tuned models from {n} base{'s' * (n > 1)}, one line a "
        f"model; {rows[0]['condition']}. Improvement: 0 as in the base, 1 as good as on training cities.",
    )


def _lines(ax: Axes, rows: Sequence[Row], x: str, key: str) -> None:
    named: set[str] = set()
    for mine in groups(rows, "run").values():
        trained = mine[0]["set"]
        label = trained if trained not in named else None
        named.add(trained)
        line(ax, mine, x, key, label=label, **task_look(trained).drawn)
    for y in (0, 1):
        ax.axhline(y, color="#bbbbbb", linewidth=0.6)
    ax.set_ylim(-1.1, 1.7)


def gained(result: Result) -> str:
    """What other tasks have gained at the highest level that each trained task has reached."""
    reached = [row for row in result.tables["summary"] if row["reached"] and row["others"] is not None]
    if not reached:
        return "No trained task has closed as much of its gap as is compared."
    highest = {(row["condition"], row["set"]): row for row in sorted(reached, key=lambda row: row["level"])}
    told = [
        f"{number(row['others'])} when {row['set']} has closed {number(row['level'])} of its gap "
        f"({row['reached']} model{'s' * (row['reached'] > 1)})"
        for row in highest.values()
    ]
    return f"Of their gap on new cities other tasks have closed {'; '.join(told)}."


REACHED = Table(
    "where the trained task reaches a level (means over bases)",
    "condition set level models reached step others~ index~",
    "summary",
    {"step": "after steps", "index": "divergence index"},
)
SHOWS = by_kind(
    Show("course", "What fine-tuning has taught when its own task is learned",
        "Other tasks' improvement on new cities where the trained task has closed the same share of its "
        "gap: a comparison that does not depend on when training stopped.",
        figures=(course_figure,), tables=(REACHED,), finding=gained),
)  # fmt: skip
