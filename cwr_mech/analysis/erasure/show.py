"""How results are shown: sections of a report."""

from cwr_mech.analysis.erasure.figures import erasure_figure
from cwr_mech.render.markdown import markdown_table
from cwr_mech.render.numbers import number
from cwr_mech.render.shown import Plot, Section, Show, Table
from cwr_mech.results import Result


def erasure(result: Result) -> str:
    """Shares lost by task, block and arm."""
    rows = [
        row | {"ends": f"{number(row['lost_lo'])} to {number(row['lost_hi'])}"}
        for row in result.tables["arms"]
    ]
    heads = {
        "task": "task",
        "layer": "after block",
        "arm": "erased",
        "loss_clean": "loss before",
        "loss_erased": "loss after",
        "loss_constant": "constant answer",
        "lost": "share lost",
        "ends": "95 % over questions",
        "r2_before": "R² before",
        "r2_after": "R² after",
        "variance": "variance removed",
    }
    return markdown_table(rows, heads)


SHOWS = {
    "erasure": Show(
        Section(
            "erasure",
            "Is the map used?",
            "What a probe can decode need not be used. Here the coordinates are erased inside the model.",
            erasure,
        ),
        (Plot("", "What erasing the map costs", erasure_figure),),
        (
            Table(
                "what each task loses",
                (
                    *("task", "layer", "arm", "loss_clean", "loss_erased", "loss_constant", "lost"),
                    *("lost_lo", "lost_hi", "r2_after"),
                ),
                lambda result: result.tables["arms"],
            ),
        ),
    ),
}
