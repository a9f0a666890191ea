"""`cwr-mech transfer`: what fine-tuning on some tasks did to all of them."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Finetuned, QuestionCount, QuestionSeed, Report

if TYPE_CHECKING:
    from cwr_mech.analysis.transfer.transfer import Tuned
    from cwr_mech.model.evaluation import Evaluation
    from cwr_mech.training.runs import Run
    from cwr_mech.world.cities import World


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

    from cwr_mech.analysis.transfer.transfer import Base, score_rows, transfer
    from cwr_mech.tasks.registry import PAPER_TASKS, ordered

    from .common import console, number, progress, rows_of, save_result, table
    from .stores import command_line

    tuned = fine_tunings(runs)
    parents = {run.parent: parent_of(run) for run in tuned}
    worlds = {run.parent: run.world() for run in tuned}
    tasks = ordered(
        (*PAPER_TASKS, *(task for run in (*tuned, *parents.values()) for task in run.config.data.tasks))
    )
    asked = {run.name: run.steps if trajectory else (run.last_step,) for run in tuned}
    passes = 3 * len(parents) + 2 * sum(len(steps) for steps in asked.values())
    with progress("answering", passes * rows * len(tasks), "questions") as advance:
        ask = Questions(tasks, rows, seed, advance)
        bases = {
            name: Base(str(name), *(ask(run, worlds[name], group, more) for group, more in BASE_QUESTIONS))
            for name, run in parents.items()
        }
        models = {(run.name, step): ask.tuned(run, step) for run in tuned for step in asked[run.name]}
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


BASE_QUESTIONS = (("old", 0), ("new", 0), ("new", 1))
"""What a base is asked: group of cities, and what is added to the seed of the questions."""


class Questions:
    """Asks models the same questions about old and new cities, under the protocol they were trained by."""

    def __init__(self, tasks: Sequence[str], rows: int, seed: int, advance: "Callable[..., None]") -> None:
        self.tasks, self.rows, self.seed, self.advance = tasks, rows, seed, advance

    def __call__(
        self, run: "Run", world: "World", group: str, more: int = 0, step: int | None = None
    ) -> "Evaluation":
        """Answers of a run's checkpoint to questions of one group on all tasks."""
        from cwr_mech.model.evaluation import evaluate

        return evaluate(
            run.model(step),
            world,
            self.tasks,
            self.rows,
            group=group,
            seed=self.seed + more,
            protocol=run.config.data.protocol,
            advance=self.advance,
        )

    def tuned(self, run: "Run", step: int) -> "Tuned":
        """A fine-tuned run's checkpoint with its answers."""
        from cwr_mech.analysis.transfer.transfer import Tuned
        from cwr_mech.experiments.finetuning import condition_of

        return Tuned(
            run=run.name,
            base=str(run.parent),
            seed=run.config.train.seed,
            trained=run.config.data.tasks,
            arm=condition_of(run.config),
            steps=run.config.train.steps,
            lr=run.config.train.lr,
            old=self(run, run.world(), "old", step=step),
            new=self(run, run.world(), "new", step=step),
        )


def fine_tunings(names: "Sequence[str] | None") -> "list[Run]":
    """The finished fine-tuned runs named, or those whose base is named, or all there are.

    A base is known by its weights: it may have been trained here or have come with the zoo. Raises
    AnalysisError when there is none.
    """
    from cwr_mech.errors import AnalysisError
    from cwr_mech.training.runs import load_run, readable_runs

    from .common import RUNS

    done = [run for run in readable_runs(RUNS) if run.parent and run.state == "done"]
    found: list[Run] = []
    for run in [load_run(name) for name in names] if names else done:
        weights = set(run.manifest["checkpoints"].values())
        children = (child for child in done if child.manifest["parent"].get("sha256") in weights)
        found += [run] if run.parent else children
    if not found:
        raise AnalysisError("no finished fine-tuning found", "make one with: cwr-mech finetune RUN")
    return list({run.folder: run for run in found}.values())


def parent_of(run: "Run") -> "Run":
    """The run a fine-tuned run started from. Raises MissingArtifact, or CorruptArtifact when it changed."""
    return run.base()
