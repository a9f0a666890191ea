"""What a report says about transfer."""

from cwr_mech.analysis.transfer.figures import transfer_figure
from cwr_mech.render.markdown import table_of
from cwr_mech.render.shown import Show, Table, by_kind
from cwr_mech.results import Result

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
    cells = [row for row in result.tables["matrix"] if row["condition"] == result.values["condition"]]
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
