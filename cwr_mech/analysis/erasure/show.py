"""How results are shown: sections of a report."""

from cwr_mech.analysis.erasure.figures import erasure_figure
from cwr_mech.render.shown import Show, Table, by_kind

SHOWS = by_kind(
    Show("erasure", "Is the map used?",
        "What a probe can decode need not be used. Here the coordinates are erased inside the model.",
        figures=(erasure_figure,),
        tables=(Table("what each task loses",
                    "task layer condition loss_clean loss_erased loss_constant lost~ r2_before r2_after "
                    "variance", "conditions", {'condition': 'erased', 'variance': 'variance removed'}),)),
)  # fmt: skip
