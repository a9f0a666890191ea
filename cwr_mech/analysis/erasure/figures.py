"""Figure of what erasing the map costs."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cwr_mech.render.lines import line, panels
from cwr_mech.render.shown import plot
from cwr_mech.render.style import BASELINE, caption
from cwr_mech.results import Result


@plot("What erasing the map costs")
def erasure_figure(result: Result) -> Figure:
    """Share of each task's gain that is lost when a subspace is erased, by block, with intervals.

    Reads table `conditions` {task, layer, condition, lost, lost_lo, lost_hi}.
    """
    rows = result.tables["conditions"]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    figure, axes = panels(len(tasks), margin=0.9, line=1.9, sharey=True, sharex=True)
    styles = (("black", "o", "-"), ("#7a7a7a", "s", "--"), ("#aaaaaa", "^", ":"))
    for ax, task in zip(axes, tasks, strict=True):
        for condition, (colour, marker, stroke) in zip(conditions, styles, strict=False):
            mine = [row for row in rows if (row["task"], row["condition"]) == (task, condition)]
            label = {"leace": "places (LEACE)"}.get(condition, condition)
            line(ax, mine, "layer", "lost", caps=2, color=colour, marker=marker, ls=stroke, label=label)
        ax.axhline(0, color="#cccccc", lw=0.8, zorder=0)
        ax.axhline(1, color=BASELINE, lw=0.8, ls=":", zorder=0)
        ax.set_ylim(-0.25, 1.6)
        ax.set_title(task)
        ax.set_xlabel("after block")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel("share of the gain lost")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return caption(
        figure,
        f"n = {rows[0]['n']} test questions a task; bars: 95 % over questions. 0: nothing lost, 1 "
        "(dotted): no better than the best constant answer. Controls: random subspaces of the same rank.",
    )
