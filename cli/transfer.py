"""`cwr-mech transfer`: what fine-tuning on some tasks did to all of them."""

from typing import Annotated

import typer

from .options import Finetuned, QuestionCount, QuestionSeed, Report


def command(
    runs: Finetuned = None,
    rows: QuestionCount = 500,
    seed: QuestionSeed = 42,
    unmatched: Annotated[
        bool,
        typer.Option("--unmatched", help="Let teachers of other steps count, as the paper does."),
    ] = False,
    trajectory: Annotated[
        bool, typer.Option("--trajectory", help="Score every checkpoint on the way, not only the last.")
    ] = False,
    report: Report = None,
) -> None:
    """Score fine-tuned models on every task, on new and on old cities, beside their bases.

    Without arguments: all fine-tuned runs in runs/. Gives the generalisation matrix, retention, and, for sets
    of several tasks, the deviation from the best single-task teacher of the same base and steps.
    """
    from dataclasses import replace
    from functools import partial

    from cwr_mech.analysis.transfer.answers import evaluations, tuned_of
    from cwr_mech.analysis.transfer.runs import fine_tunings
    from cwr_mech.analysis.transfer.transfer import Base, score_rows, transfer
    from cwr_mech.tasks.registry import PAPER_TASKS, ordered

    from .common import console, number, progress, rows_of, save_result, table
    from .stores import command_line

    tuned = fine_tunings(runs)
    parents = {run.parent: run.base() for run in tuned}
    worlds = {run.parent: run.world() for run in tuned}
    tasks = ordered(
        (*PAPER_TASKS, *(task for run in (*tuned, *parents.values()) for task in run.config.data.tasks))
    )
    asked = {run.name: run.steps if trajectory else (run.last_step,) for run in tuned}
    passes = 3 * len(parents) + 2 * sum(len(steps) for steps in asked.values())
    with progress("answering", passes * rows * len(tasks), "questions") as advance:
        ask = partial(evaluations, tasks=tasks, n=rows, advance=advance)
        bases = {}
        for name, run in parents.items():
            other = ask(run, world=worlds[name], seed=seed + 1, groups=("new",))["new"]
            bases[name] = Base(str(name), **ask(run, world=worlds[name], seed=seed), again=other)
        models = {
            (run.name, step): tuned_of(run, ask(run, step=step, seed=seed))
            for run in tuned
            for step in asked[run.name]
        }
    found = transfer(
        [models[run.name, run.last_step] for run in tuned], list(bases.values()), match_steps=not unmatched
    )
    if trajectory:
        on_the_way = [
            {"step": step} | row
            for (_, step), model in models.items()
            for row in score_rows(model, bases[model.base])
        ]
        found = replace(found, trajectory=tuple(on_the_way))
    columns = {
        "arm": "arm",
        "set": "set",
        "models": "models",
        "ni_trained": "trained",
        "ni_transfer": "others",
        "ni_transfer_learned": "learned",
        "deviation_transfer": "beyond",
        "deviation_transfer_learned": "learned",
    }
    title = "improvement on new cities: trained tasks, all others, others that the base had learned;"
    title += "\nthe others beyond the best teacher, all and learned"
    console.print(table(title, list(columns.values()), rows_of(found.sets, list(columns))))
    result = found.to_result(
        command_line(),
        {run.source: run.sha256() for run in [*parents.values(), *tuned]},
        {
            "runs": [run.name for run in tuned],
            "rows": rows,
            "seed": seed,
            "steps_matched": not unmatched,
        },
    )
    say_control = number(result.values["ni_control"])
    console.print(f"control: the bases themselves, asked other questions, move by {say_control} on average")
    save_result(result, report or str(tuned[0].parent), "transfer")
