"""How results are shown: sections of a report."""

from cwr_mech.analysis.manifold.figures import manifold_figure, timeline_figure
from cwr_mech.analysis.probing.figures import surfacing_figure
from cwr_mech.render.markdown import paragraphs, table_of
from cwr_mech.render.shown import Show, Table, by_kind
from cwr_mech.results import Result


def manifold(result: Result) -> str:
    """By layer: share of place, training cities, new cities."""
    columns = "task layer share~ share_shuffled~ noise~ along_ordinary along_region along_new excess_along~"
    return paragraphs(
        table_of(result.tables["layers"], f"{columns} off_ratio excess_off~"),
        "Dimensions of the activations of training cities:",
        table_of(
            result.tables["spectrum"],
            "task layer effective_rank participation participation_singular twonn p",
            p="dimensions",
        ),
    )


STEPS = Table(
    "probe and manifold by checkpoint",
    "step rows r2~ r2_shuffled error_median share~ cka_final~ participation_singular twonn",
    "steps",
    {"rows": "rows seen"},
)
DISPLACED = Table(
    "share of the coordinates, and error on and off the manifold",
    "task layer share share_shuffled along_ordinary along_region along_new off_ratio excess_off~",
    "layers",
)
SHOWS = by_kind(
    Show("timeline", "When the map forms",
        "The same probe at every checkpoint.",
        figures=(timeline_figure,), tables=(STEPS,)),
    Show("manifold", "On- and off-manifold error of new cities",
        "A smooth map from coordinates to activations: how much of a layer is a function of them, and "
        "whether new cities are displaced on the manifold or off it.",
        manifold, (manifold_figure, surfacing_figure), (DISPLACED,)),
)  # fmt: skip
