"""How a transfer result is shown: who teaches what, and what is forgotten."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure

from cwr_mech.render.grids import matrix
from cwr_mech.render.markdown import table_of
from cwr_mech.render.numbers import number
from cwr_mech.render.shown import Show, Table, by_kind, plot
from cwr_mech.render.style import caption, new_figure
from cwr_mech.results import Result, groups, where

PANELS = (
    ("ni", "improvement on new cities", 1.2),
    ("deviation", "beyond the best teacher", 0.6),
    ("retention", "retention of old cities", 1.2),
)
"""Array, title, and the value at which its colours end."""


@plot("Transfer between tasks")
def transfer_figure(result: Result) -> Figure:
    """Matrices of trained sets by tasks asked, a row a set and condition; bold: the task was trained.

    Reads the tables `matrix`, `sets` and `scores`, arrays `tasks` and `learned` [task], value `ni_control`.
    A matrix without any number is left out.
    """
    tasks = [str(name) for name in result.arrays["tasks"]]
    unlearned = result.arrays["learned"] < 1
    names = [f"{task} *" if mark else task for task, mark in zip(tasks, unlearned, strict=True)]
    pairs = sorted(((row["set"], row["condition"]) for row in result.tables["sets"]), key=_together(result))
    common, own = told_apart([condition for _, condition in pairs])
    labels = [f"{name}: {own[condition]}" if own[condition] else name for name, condition in pairs]
    bold = np.array([[task in name.split("+") for task in tasks] for name, _ in pairs])
    cells = {(row["set"], row["condition"], row["task"]): row for row in result.tables["matrix"]}
    grids = {
        name: np.array(
            [[cells.get((*pair, task), {}).get(name) for task in tasks] for pair in pairs], dtype=float
        )
        for name, _, _ in PANELS
    }
    shown = [panel for panel in PANELS if np.isfinite(grids[panel[0]]).any()]
    figure = new_figure(1.9 + 0.24 * len(pairs))
    axes = figure.subplots(1, max(1, len(shown)), squeeze=False)[0]
    for index, (ax, (name, title, end)) in enumerate(zip(axes, shown, strict=False)):
        rows = labels if index == 0 else [""] * len(pairs)
        matrix(ax, grids[name], rows, names, ends=(-end, end), cmap="RdBu_r", bold=bold, rotation=60)
        ax.set_title(title)
        if index == 0:
            ax.set_ylabel("trained on")
    scores = result.tables["scores"]
    bases = len(groups(scores, "base"))
    return caption(
        figure,
        f"{len(groups(scores, 'run'))} models fine-tuned from {bases} {'base' if bases == 1 else 'bases'}"
        f"{common and f'; {common}'}. Averages over models; bold: the task was trained. Improvement: 0 as "
        f"before, 1 as good as on old cities. Control: the base on other questions moves by "
        f"{number(result.values['ni_control'])} on average."
        + (" * a task that not every base had learned." if unlearned.any() else ""),
    )


def _together(result: Result) -> Callable[[tuple[str, str]], int]:
    """Order of sets, so that the conditions of one stand below each other."""
    order = list(dict.fromkeys(row["set"] for row in result.tables["sets"]))
    return lambda pair: order.index(pair[0])


def told_apart(conditions: Sequence[str]) -> tuple[str, dict[str, str]]:
    """What conditions have in common, and for each what it has beside that; both comma-separated."""
    parts = {condition: condition.split(", ") for condition in conditions}
    common = [part for part in parts[conditions[0]] if all(part in mine for mine in parts.values())]
    own = {one: ", ".join(part for part in mine if part not in common) for one, mine in parts.items()}
    return ", ".join(common), own


MOST_CELLS = 70
"""Longer matrices of sets by tasks are, too."""
AVERAGES = Table(
    "improvement on new cities, and beyond the best teacher",
    "condition set models ni_trained~ ni_transfer~ ni_transfer_learned~ deviation_transfer~ "
    "deviation_transfer_learned~",
    "sets",
    {"condition": "rows beside the new ones"},
)


def transfer(result: Result) -> str:
    """Averages over tasks for every set, with intervals over models; then the matrix with its raw scores."""
    text = AVERAGES.text(result)
    cells = where(result.tables["matrix"], condition=result.values["condition"])
    if len(cells) > MOST_CELLS:
        return f"{text}\n\nTable `matrix` of the result file has {len(cells):,} rows of raw scores."
    scores = "base_new new new_read retention base_old old old_read"
    columns = f"set task models_learned ni ni_paper {scores} deviation"
    return f"{text}\n\nScores, {result.values['condition']}:\n\n{table_of(cells, columns)}"


SHOWS = by_kind(
    Show("transfer", "What fine-tuning teaches",
        "Models that were shown new cities through some tasks, asked about them through all; and what they "
        "still know of the old ones.",
        transfer, (transfer_figure,), (AVERAGES,)),
)  # fmt: skip
