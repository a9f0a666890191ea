"""The part of `cwr-mech patch` that runs with --only-subspace: what answers follow, run by run."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cwr_mech.analysis.patching.parts import Question
    from cwr_mech.results import Result
    from cwr_mech.training.runs import Run


def watched_parts(
    runs: "Sequence[Run]",
    donors: "Mapping[str, Run]",
    questions: "Sequence[Question]",
    kinds: Sequence[str],
    rank: int | None,
    step: int | None,
) -> "Result":
    """Ask every run every question, with progress, and print what was found.

    Raises ConfigError when a donor knows other cities than a run does.
    """
    from cwr_mech.analysis.patching.parts import parts_result, parts_study
    from cwr_mech.errors import ConfigError
    from cwr_mech.tasks.registry import TASKS

    from .common import console, progress, rows_of, say, table
    from .stores import command_line

    models = {name: run.model() for name, run in donors.items()}
    rows, asked, inputs = [], [], {}
    for run, which in [*((run, step) for run in runs), *((run, None) for run in donors.values())]:
        inputs[run.checkpoint(which).as_posix()] = run.sha256(which)
    with progress("parts", len(runs) * len(questions), "studies") as advance:
        for run in runs:
            model, world = run.model(step), run.world()
            tasks = run.config.data.tasks
            taught = "all tasks" if len(tasks) == len(TASKS) else ", ".join(tasks)
            about = {
                "run": run.name,
                "taught": f"fine-tuned on {taught}" if run.parent else f"trained on {taught}",
            }
            for name in donors:
                if donors[name].world().sha256 != world.sha256:
                    raise ConfigError(f"{name} knows other cities than {run.name}", "align runs of one world")
            others = [
                (donors[name].name, other)
                for name, other in models.items()
                if donors[name].folder != run.folder
            ]
            for question in questions:
                found, row = parts_study(model, world, about, question, kinds, rank=rank, sources=others)
                rows += found
                asked.append(row)
                advance(1, f"{run.name} {question.task} {question.group}")
    result = parts_result(rows, asked, [run.name for run in runs], questions[0].seed, inputs, command_line())
    columns = list(asked[0])
    console.print(table("questions asked", columns, rows_of(asked, columns)))
    for note in result.notes:
        say(note)
    return result
