"""Figure and report section of an anatomy: where updates lie in the weights, and what their parts carry."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cwr_mech.analysis.stats.means import mean_of
from cwr_mech.render.markdown import paragraphs, table_of
from cwr_mech.render.shown import Show, Table, by_kind, plot
from cwr_mech.render.style import BASELINE, caption, floats, new_figure, task_look
from cwr_mech.results import Result, Row, groups, where

PARTS = ("whole", "parameters", "state", "condition")
"""Kinds of part that have a line of their own; scaled updates are a curve."""


@plot("What the parts of an update carry")
def anatomy_figure(result: Result) -> Figure:
    """Norm shares by module, improvement against the scale of the update, and improvement by part.

    Reads tables `modules` {run, set, module, share}, `carried` {run, set, kind, graft, alpha, own, others}.
    """
    rows = result.tables["carried"]
    sets = list(dict.fromkeys(row["set"] for row in rows))
    parts = list(dict.fromkeys(row["graft"] for row in rows if row["kind"] in PARTS))
    figure = new_figure(3.0 + 0.2 * len(parts))
    grid = figure.add_gridspec(2, 2, height_ratios=(2.2, 0.4 + 0.2 * len(parts)))
    _norms(figure.add_subplot(grid[0, 0]), _of_usual(result, "modules"), sets)
    _scales(figure.add_subplot(grid[0, 1]), rows, sets)
    left = figure.add_subplot(grid[1, 0])
    _parts(left, rows, sets, parts, "own", "trained tasks")
    left.set_yticks(range(len(parts)), parts)
    right = figure.add_subplot(grid[1, 1], sharey=left)
    _parts(right, rows, sets, parts, "others", "other tasks that the base had learned")
    right.tick_params(labelleft=False)
    return caption(
        figure,
        f"{result.values['n_models']} fine-tuned models from {result.values['n_bases']} bases; small "
        "markers: one model, large: mean. Improvement on new cities: 0 as in the base, 1 as good as on "
        "training cities.",
    )


def _of_usual(result: Result, table: str) -> list[Row]:
    """Rows of the usual fine-tunings: frozen modules have no update. All rows where there is no such run."""
    usual = {row["run"] for row in result.tables["carried"] if row["kind"] == "whole"}
    rows = result.tables[table]
    return [row for row in rows if row["run"] in usual] or rows


def _norms(ax: Axes, rows: Sequence[Row], sets: Sequence[str]) -> None:
    """Share of the squared norm of the update by module."""
    rows = [row for row in rows if row["share"] > 0]
    modules = sorted({row["module"] for row in rows}, key=lambda name: ("ELU".index(name[0]), name))
    for trained in sets:
        shares = [[row["share"] for row in where(rows, set=trained, module=name)] for name in modules]
        look, means = task_look(trained), [np.mean(each or [np.nan]) for each in shares]
        ax.plot(modules, means, color=look.colour, marker=look.marker, label=trained)
    edge = sum(row["side"] == "city" for row in rows if row["run"] == rows[0]["run"]) - 0.5
    ax.axvline(edge, color=BASELINE, linestyle="--", linewidth=0.9)
    ax.text(edge, 1.0, " answer side", transform=ax.get_xaxis_transform(), fontsize=7, va="top")
    ax.set_title("share of the update's squared norm")
    ax.set_ylim(0)
    ax.legend(loc="upper left")


def _scales(ax: Axes, rows: Sequence[Row], sets: Sequence[str]) -> None:
    """Improvement of trained tasks (full) and of the others (dashed) against the factor of the update."""
    for trained in sets:
        look = task_look(trained)
        mine = [r for r in rows if r["set"] == trained and r["kind"] in ("base", "scaled", "whole")]
        alphas = sorted({row["alpha"] for row in mine})
        for key, line in (("own", "-"), ("others", "--")):
            values = [np.nanmean(floats([r[key] for r in where(mine, alpha=alpha)])) for alpha in alphas]
            ax.plot(alphas, values, line, color=look.colour, marker=look.marker)
    ax.axhline(0, color="#bbbbbb", linewidth=0.6)
    ax.set_title("improvement against the update's scale")
    ax.set_xlabel("factor (full: trained tasks, dashed: others)")


def _parts(
    ax: Axes, rows: Sequence[Row], sets: Sequence[str], parts: Sequence[str], key: str, title: str
) -> None:
    """One line a part: small markers for models, a large one for their mean."""
    for index, trained in enumerate(sets):
        look = task_look(trained)
        offset = 0.5 * (index / max(1, len(sets) - 1) - 0.5) if len(sets) > 1 else 0.0
        for y, part in enumerate(parts):
            values = floats([row[key] for row in where(rows, set=trained, graft=part)])
            values = values[np.isfinite(values)]
            place = np.full(len(values), y + offset)
            ax.plot(values, place, look.marker, color=look.colour, markersize=2.5, alpha=0.5)
            if len(values):
                ax.plot(values.mean(), y + offset, look.marker, color=look.colour, markersize=5)
    for x in (0, 1):
        ax.axvline(x, color="#bbbbbb", linewidth=0.6)
    ax.set_ylim(len(parts) - 0.5, -0.5)
    ax.set_title(title)
    ax.set_xlabel("improvement on new cities")


def anatomy(result: Result) -> str:
    """The section of a report: sides and sites, norms, parts, and scores of the trained task."""
    weak = [row["base"] for row in result.tables["sites"] if row["weak"]]
    modules = [
        {"module": name, "side": mine[0]["side"], "share": mean_of(row["share"] for row in mine)}
        for name, mine in groups(_of_usual(result, "modules"), "module").items()
    ]
    ranks = _ranks(_of_usual(result, "matrices"))
    columns = "set graft models own~ own_share others~ others_share retention"
    return paragraphs(
        "Where cities are read, by interchange interventions:",
        table_of(result.tables["sites"], "base task layer position iia"),
        f"Below half of the answers follow that site in: {', '.join(weak)}." if weak else "",
        "Squared norm of the update, and ranks of its matrices (medians):",
        table_of(modules, "module side share", share="share, mean over models"),
        table_of(ranks, "parameter effective_rank rank90 numerical_rank full_rank"),
        "What each part carries, put into the base alone:",
        table_of(result.tables["summary"], columns),
        *_places(result.tables.get("places", [])),
    )


def _places(rows: Sequence[Row]) -> list[str]:
    """Where answers put new cities: one line a trained set and part, one column a task asked."""
    if not rows:
        return []
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    table = [
        {"set": trained, "graft": graft}
        | {task: mean_of(row["error_new"] for row in where(mine, task=task)) for task in tasks}
        for (trained, graft), mine in groups(rows, "set", "graft").items()
    ]
    return [
        "Mean error of the coordinates that answers imply for new cities (tenths of a degree):",
        table_of(table, f"set graft {' '.join(tasks)}", **{task: f"by {task}" for task in tasks}),
    ]


def _ranks(rows: Sequence[Row]) -> list[Row]:
    """Medians over models and blocks for each kind of matrix."""
    ranked = [row for row in rows if row["effective_rank"] is not None and row["share"] > 0]
    ranked = [row | {"parameter": row["parameter"].split(".")[-1]} for row in ranked]
    keys = ("effective_rank", "rank90", "numerical_rank", "full_rank")
    return [
        {"parameter": name} | {key: float(np.median([row[key] for row in mine])) for key in keys}
        for name, mine in groups(ranked, "parameter").items()
    ]


SHOWS = by_kind(
    Show("anatomy", "What an update consists of, and what its parts carry",
        "The city side (embedding and blocks up to where the base reads a city), the answer side, every "
        "module and the state of new cities, each put into the base alone and scored by answers.",
        anatomy, (anatomy_figure,),
        (
            Table("squared norm of the update", "run module side share", "modules"),
            Table("what each part carries (share: of the whole update's), mean over models",
                "set graft models own others own_share others_share retention", "summary"),
        )),
)  # fmt: skip
