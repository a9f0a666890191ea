"""`cwr-mech eval`: how well models answer, beside answers that never looked at the cities."""

from typing import Annotated

import typer

from .options import QuestionCount, QuestionSeed, Report, Split, Step


def command(
    runs: Annotated[list[str] | None, typer.Argument(help="Runs; the latest by default.")] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="Tasks by name, separated by commas, or all; by default each run's own."),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(help="old (no new city), new (at least one), all (mixed); by default what there is."),
    ] = None,
    rows: QuestionCount = 1000,
    split: Split = "test",
    seed: QuestionSeed = 42,
    protocol: Annotated[
        str | None, typer.Option(help="How questions are drawn: strict or paper; the run's by default.")
    ] = None,
    step: Step = None,
    report: Report = None,
) -> None:
    """Answer fresh questions greedily and score them: share that can be read, error or accuracy, and the best
    constant answer or the most frequent label for comparison.
    """
    from cwr_mech.config import PROTOCOLS
    from cwr_mech.errors import UnknownName
    from cwr_mech.model.evaluation import evaluate
    from cwr_mech.results import Result
    from cwr_mech.tasks.registry import TASKS
    from cwr_mech.training.runs import load_run

    from .common import console, progress, rows_of, save_result, table
    from .stores import command_line
    from .stores import split as parts

    if protocol is not None and protocol not in PROTOCOLS:
        raise UnknownName("protocol", protocol, PROTOCOLS)
    loaded = [load_run(name) for name in runs or (None,)]
    asked = list(TASKS) if tasks == "all" else parts(tasks)
    plan = [
        (run, task, group)
        for run in loaded
        for group in parts(groups) or (["old", "new", "all"] if len(run.world().new()) else ["old"])
        for task in asked or run.config.data.tasks
    ]
    models = {run.name: run.model(step) for run in loaded}
    records = []
    with progress("answering", rows * len(plan), "questions") as advance:
        for run, task, group in plan:
            found = evaluate(
                models[run.name],
                run.world(),
                [task],
                rows,
                group=group,
                split=split,
                seed=seed,
                protocol=PROTOCOLS[protocol] if protocol else run.config.data.protocol,
                advance=advance,
            )
            records += [{"run": run.name, **record} for record in found.table()]
    columns = ["task", "group", "n", "parse_rate", "value_mean", "value_median", "baseline", "metric", "unit"]
    for run in loaded:
        own = [record for record in records if record["run"] == run.name]
        title = f"{run.name}, step {run.last_step if step is None else step}, {split} questions"
        heads = ["task", "group", "n", "read", "mean", "median", "constant", "metric", "unit"]
        console.print(table(title, heads, rows_of(own, columns)))
    result = Result(
        kind="eval",
        command=command_line(),
        inputs={run.source: run.sha256(step) for run in loaded},
        params={
            "runs": [run.name for run in loaded],
            "tasks": list(dict.fromkeys(task for _, task, _ in plan)),
            "groups": list(dict.fromkeys(group for _, _, group in plan)),
            "rows": rows,
            "split": split,
            "seed": seed,
            "protocol": protocol or "the run's",
            "step": step,
        },
        tables={"tasks": records},
        notes=[
            "An answer is read when it is exactly a number or label and then ends; one that cannot be read "
            "counts the task's failure value (accuracy 0). The column 'constant' (baseline) scores the best "
            "answer that never looks at the question, chosen on these very rows: the median, or the most "
            "frequent label.",
            "Group old: no new city in the question; new: at least one; all: any.",
        ],
    )
    save_result(result, report or loaded[0].name, "eval")
