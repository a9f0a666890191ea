"""How what a fine-tuning teaches develops with its steps."""

from typing import Annotated

from cwr_mech.analysis.study import FineTunedArg, Opt, QuestionSeed, names, stage, study, uses
from cwr_mech.results import Result

_PLACED = (
    "Divergence index: ln(error of the places implied by other tasks' answers / by the trained task's), "
    "{questions} questions a task and city, of {tasks}."
)


@study("course")
def course(
    runs: FineTunedArg = None,
    *,
    rows: Annotated[int, Opt("Questions a task and group of cities.", min=1)] = 200,
    seed: QuestionSeed = 42,
    places: Annotated[bool, Opt("Also where answers put new cities at every checkpoint.")] = False,
    questions: Annotated[int, Opt("With --places: questions about a city for each task.", min=4)] = 32,
) -> Result:
    """Score fine-tunings at every checkpoint, and compare them where their own task is equally well learned.

    A fine-tuning that stops early, or late, need not teach other tasks what one of another length does; so
    the other tasks' improvement, and the divergence index, are given where the trained task has closed
    0.5, 0.75 and 0.9 of its gap on new cities.
    """
    from cwr_mech.analysis.course.tables import LEVELS, course_rows, matched_rows, summary_rows, tasks_of
    from cwr_mech.analysis.locating.survey import Survey
    from cwr_mech.analysis.locating.tables import LOCATED
    from cwr_mech.analysis.transfer.runs import fine_tunings
    from cwr_mech.experiments.finetuning import check_recipes

    tuned = fine_tunings(names(runs))
    check_recipes({run.name: run.config for run in tuned})
    answers = sum(2 * rows * len(tasks_of(run)) * (1 + sum(step > 0 for step in run.steps)) for run in tuned)
    found = []
    with stage("answering", answers, "questions") as advance:
        for run in tuned:
            uses(run.source, run.sha256())
            uses(run.base().source, run.base().sha256())
            survey = Survey(run.world(), LOCATED, questions, draws=20) if places else None
            found += course_rows(run, n=rows, seed=seed, survey=survey, advance=advance)
    matched = matched_rows(found)
    return Result(
        kind="course",
        params={"runs": [run.name for run in tuned], "rows": rows, "seed": seed, "places": places},
        values={
            "n_models": len(tuned),
            "n_bases": len({row["base"] for row in found}),
            "n_reached": sum(row["step"] is not None for row in matched if row["level"] == LEVELS[-1]),
        },
        tables={"course": found, "matched": matched, "summary": summary_rows(matched)},
        notes=[
            "Improvement on new cities: 0 as in the base, 1 as good as on training cities; `others` is the "
            "mean over tasks that were not trained and that the base had learned.",
            "Matched: where the trained task first reaches that improvement, interpolated between "
            "checkpoints; a run that never does has no number and is counted as not reached.",
            *([_PLACED.format(questions=questions, tasks=", ".join(LOCATED))] if places else []),
        ],
    )
