"""What did fine-tuning on some tasks do to all of them?"""

from typing import Annotated

from cwr_mech.analysis.study import FineTunedArg, Opt, QuestionSeed, names, stage, study, uses
from cwr_mech.results import Result

ROWS = 500


@study("transfer")
def transfer(
    runs: FineTunedArg = None,
    *,
    rows: Annotated[
        int | None,
        Opt(
            f"Questions a task and group of cities: {ROWS}, or those that models of the zoo have answered.",
            min=1,
            short="-n",
        ),
    ] = None,
    seed: QuestionSeed = 42,
    unmatched: Annotated[bool, Opt("Let teachers of other steps count, as the paper does.")] = False,
    trajectory: Annotated[bool, Opt("Score every checkpoint on the way, not only the last.")] = False,
) -> Result:
    """Score fine-tuned models on every task, on new and on training cities, beside their bases.

    Without arguments: all fine-tuned runs in runs/. Gives the generalisation matrix, retention, and, for sets
    of several tasks, the deviation from the best single-task teacher of the same base and steps.
    """
    from dataclasses import replace

    from cwr_mech.analysis.transfer.answers import asked_of, tasks_of
    from cwr_mech.analysis.transfer.runs import check_worlds, fine_tunings
    from cwr_mech.analysis.transfer.transfer import compared, score_rows
    from cwr_mech.experiments.zoo_files import QUESTIONS

    tuned = fine_tunings(names(runs))
    check_worlds(tuned)
    bases = {str(run.parent): run.base() for run in tuned}
    for run in (*bases.values(), *tuned):
        uses(run.source, run.sha256())
    if rows is None:
        rows = QUESTIONS if all(run.from_zoo for run in (*bases.values(), *tuned)) else ROWS
    steps = {run.name: run.steps if trajectory else (run.last_step,) for run in tuned}
    tasks = tasks_of((*bases.values(), *tuned))
    passes = 3 * len(bases) + 2 * sum(map(len, steps.values()))
    with stage("answering", passes * rows * len(tasks), "questions") as advance:
        before, after = asked_of(tuned, bases, steps, tasks=tasks, n=rows, seed=seed, advance=advance)
    found = compared(
        [after[run.name, run.last_step] for run in tuned], list(before.values()), match_steps=not unmatched
    )
    if trajectory:
        way = ((step, score_rows(model, before[model.base])) for (_, step), model in after.items())
        found = replace(found, trajectory=tuple({"step": step} | row for step, rows in way for row in rows))
    about = {"runs": [run.name for run in tuned], "bases": list(bases)}
    return found.to_result({**about, "rows": rows, "seed": seed, "steps_matched": not unmatched})
