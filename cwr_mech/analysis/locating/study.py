"""Where do a model's own answers put a city?"""

from typing import Annotated

from cwr_mech.analysis.study import Names, Opt, RunsArg, Seed, names, stage, study
from cwr_mech.results import Result


@study("locate")
def locate(
    runs: RunsArg = None,
    *,
    tasks: Annotated[
        Names, Opt("Tasks, comma-separated; those whose answers determine coordinates well by default.")
    ] = None,
    questions: Annotated[int, Opt("Questions about a city for each task.", min=4)] = 64,
    draws: Annotated[int, Opt("Resamples of the questions, for intervals.", min=20)] = 200,
    seed: Seed = 0,
) -> Result:
    """Ask about new and training cities and find the coordinates that explain the answers best.

    Each task is asked apart, so a city may have as many coordinates as there are tasks. Beside the runs named
    stand the bases of fine-tuned ones, training cities, and answers given without a model. The divergence
    index says how much farther from the truth other tasks put new cities than the trained task does.
    """
    from cwr_mech.analysis.locating.survey import LOCATING, Survey, locate_result
    from cwr_mech.analysis.sources import runs_of
    from cwr_mech.experiments.finetuning import check_recipes

    named = runs_of(runs)
    found = list({run.name: run for run in [*named, *(run.base() for run in named if run.parent)]}.values())
    check_recipes({run.name: run.config for run in found if run.parent})
    asked = names(tasks) or LOCATING
    survey = Survey(found[0].world(), asked, questions, seed, draws)
    with stage("answering", len(found) * survey.answers, "questions") as advance:
        return locate_result(found, survey, advance=advance)
