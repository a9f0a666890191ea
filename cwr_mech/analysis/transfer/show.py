"""How a transfer result is shown: who teaches what, and what is forgotten."""

import numpy as np
from matplotlib.figure import Figure

from cwr_mech.render.grids import matrix
from cwr_mech.render.markdown import table_of
from cwr_mech.render.numbers import number
from cwr_mech.render.shown import Show, Table, by_kind, plot
from cwr_mech.render.style import caption, new_figure
from cwr_mech.results import Result, where

PANELS = (
    ("ni", "improvement on new cities", 1.2),
    ("deviation", "beyond the best teacher", 0.6),
    ("retention", "retention of old cities", 1.2),
)
"""Array, title, and the value at which its colours end."""


@plot("Transfer between tasks")
def transfer_figure(result: Result) -> Figure:
    """Matrices of trained sets by tasks asked; frames mark trained tasks.

    Reads arrays `ni`, `deviation`, `retention` [set task], `sets`, `tasks`, `learned` [task]; values
    `condition`, `n_models`, `n_bases`, `ni_control`. A matrix without any number is left out.
    """
    sets = [str(name) for name in result.arrays["sets"]]
    tasks = [str(name) for name in result.arrays["tasks"]]
    unlearned = result.arrays.get("learned", np.ones(len(tasks))) < 1
    names = [f"{task} *" if mark else task for task, mark in zip(tasks, unlearned, strict=True)]
    bold = np.array([[task in name.split("+") for task in tasks] for name in sets])
    shown = [panel for panel in PANELS if np.isfinite(result.arrays[panel[0]]).any()]
    figure = new_figure(1.9 + 0.24 * len(sets))
    axes = figure.subplots(1, max(1, len(shown)), squeeze=False)[0]
    for index, (ax, (name, title, end)) in enumerate(zip(axes, shown, strict=False)):
        grid = result.arrays[name]
        rows = sets if index == 0 else [""] * len(sets)
        matrix(ax, grid, rows, names, ends=(-end, end), cmap="RdBu_r", bold=bold, rotation=60)
        ax.set_title(title)
        if index == 0:
            ax.set_ylabel("trained on")
    values = result.values
    return caption(
        figure,
        f"{values['n_models']} models fine-tuned from {values['n_bases']} bases; {values['condition']}. "
        "Averages over models; bold: the task was trained. Improvement: 0 as before, 1 as good as on old "
        f"cities. Control: the base on other questions moves by {number(values['ni_control'])} on average."
        + (" * a task that not every base had learned." if unlearned.any() else ""),
    )


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
