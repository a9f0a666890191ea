"""How an erasure is shown: its figure and its table."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cwr_mech.render.lines import line, panels
from cwr_mech.render.shown import Show, Table, by_kind, plot
from cwr_mech.render.style import BASELINE, caption
from cwr_mech.results import Result, groups, where


@plot("What erasing the map costs")
def erasure_figure(result: Result) -> Figure:
    """Share of each task's gain that is lost when a subspace is erased, by block, with intervals.

    Reads table `conditions` {task, layer, condition, lost, lost_lo, lost_hi}.
    """
    rows = result.tables["conditions"]
    tasks, conditions = groups(rows, "task"), groups(rows, "condition")
    figure, axes = panels(len(tasks), margin=0.9, line=1.9, sharey=True, sharex=True)
    styles = (("black", "o", "-"), ("#7a7a7a", "s", "--"), ("#aaaaaa", "^", ":"))
    for ax, (task, of_task) in zip(axes, tasks.items(), strict=True):
        for condition, (colour, marker, stroke) in zip(conditions, styles, strict=False):
            mine = where(of_task, condition=condition)
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


SHOWS = by_kind(
    Show("erasure", "Is the map used?",
        "What a probe can decode need not be used. Here the coordinates are erased inside the model.",
        figures=(erasure_figure,),
        tables=(Table("what each task loses",
                    "task layer condition loss_clean loss_erased loss_constant lost~ r2_before r2_after "
                    "variance", "conditions", {'condition': 'erased', 'variance': 'variance removed'}),)),
)  # fmt: skip
