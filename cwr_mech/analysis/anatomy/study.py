"""Which part of an update carries what?"""

from typing import Annotated

from cwr_mech.analysis.study import (
    FineTunedArg,
    Names,
    Opt,
    Questions,
    QuestionSeed,
    names,
    stage,
    study,
    uses,
)
from cwr_mech.results import Result


@study("anatomy")
def anatomy(
    runs: FineTunedArg = None,
    *,
    tasks: Annotated[Names, Opt("Tasks to ask; the paper's seven by default.")] = None,
    rows: Questions = 200,
    seed: QuestionSeed = 42,
    places: Annotated[bool, Opt("Also where answers put new cities, part by part.")] = False,
) -> Result:
    """Norm and rank of an update by module, and answers of its parts grafted into the base.

    Parts: the city side (up to where the base reads a city), the answer side, every module, the update
    scaled, and the state of new cities exchanged between the two models. Fine-tunings under a condition
    (frozen modules, projected gradients) are scored as they are.
    """
    from cwr_mech.analysis.anatomy.tables import anatomy_result, n_answers
    from cwr_mech.analysis.transfer.runs import check_worlds, fine_tunings
    from cwr_mech.experiments.finetuning import check_recipes, in_order
    from cwr_mech.tasks.registry import PAPER_TASKS

    asked = in_order(names(tasks) or PAPER_TASKS)
    pairs = [(run, run.base()) for run in fine_tunings(names(runs))]
    check_recipes({run.name: run.config for run, _ in pairs})
    check_worlds(run for run, _ in pairs)
    for run in {run.folder: run for pair in pairs for run in pair}.values():
        uses(run.source, run.sha256())
    with stage("answering", n_answers(pairs, asked, rows), "questions") as advance:
        return anatomy_result(pairs, tasks=asked, n=rows, seed=seed, places=places, advance=advance)
