"""What a report says about predictions made before training."""

from cwr_mech.render.markdown import paragraphs, table_of
from cwr_mech.render.shown import Show, Table, by_kind
from cwr_mech.results import Result


def prediction(result: Result) -> str:
    """Strongest predictors, and whether any of them outlives leaving tasks out."""
    tests = [row for row in result.tables["tests"] if row["r"] is not None]
    early = [row for row in tests if row["from"] in ("untrained", "the tasks")]
    passed = [row for row in early if row["p"] < 0.05]
    steady = [row for row in passed if row["r_lo"] > 0]
    said = (
        f"Of {len(early)} tests of what can be known before training, {len(passed)} have p below 0.05 "
        f"({len(early) / 20:.1f} expected by chance), {len(steady)} of them with a positive correlation "
        "whichever task is left out."
    )
    verdict = "No predictor tried here foretells divergence." if len(steady) < 2 else ""
    best = sorted(tests, key=lambda row: row["p"])[:12]
    columns = "from predictor outcome left_out n r p r_lo without r_hi"
    told = table_of(best, columns, n="pairs", r_lo="least r", r_hi="largest r")
    return paragraphs(f"{said} {verdict}".strip(), told)


SHOWS = by_kind(
    Show("prediction", "Can divergence be told before training?",
        "Similarity of the tasks' gradients before and early in training, and of the tasks themselves, "
        "against what became of them.",
        prediction,
        tables=(
            Table("predictors", "from predictor outcome left_out n r p r_lo r_hi without", "tests"),
            Table("the published correlation", "pairs n r r2 slope intercept p r_adjusted", "published"),
        )),
)  # fmt: skip
