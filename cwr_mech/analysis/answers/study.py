"""How well does a model answer, beside a constant-prediction baseline?"""

from typing import Annotated

from cwr_mech.analysis.study import Names, Opt, RunsArg, Seed, Step, names, stage, study, uses
from cwr_mech.results import Result, Row


@study("eval")
def answers(
    runs: RunsArg = None,
    *,
    tasks: Annotated[Names, Opt("Tasks by name, or all; by default each run's own.")] = None,
    cities: Annotated[
        Names, Opt("Questions: old (no new city), new (at least one), all; by default what there is.")
    ] = None,
    rows: Annotated[int, Opt("Questions a task and kind of question.", min=1, short="-n")] = 1000,
    split: Annotated[str, Opt("train, val or test.")] = "test",
    seed: Seed = 42,
    protocol: Annotated[
        str | None, Opt("How questions are drawn: strict or paper; the run's by default.")
    ] = None,
    step: Step = None,
) -> Result:
    """Answer fresh questions greedily and score them.

    The share of answers that can be read, their error or accuracy, and the best constant answer or the most
    frequent label for comparison.
    """
    from cwr_mech.analysis.sources import runs_of
    from cwr_mech.config import PROTOCOLS
    from cwr_mech.errors import UnknownName
    from cwr_mech.model.evaluation import evaluate
    from cwr_mech.tasks.registry import TASKS

    if protocol is not None and protocol not in PROTOCOLS:
        raise UnknownName("protocol", protocol, PROTOCOLS)
    asked = list(TASKS) if names(tasks) == ["all"] else names(tasks)
    loaded = runs_of(runs)
    plan = [
        (run, group, task)
        for run in loaded
        for group in names(cities) or (["old", "new", "all"] if len(run.world().new()) else ["old"])
        for task in asked or run.config.data.tasks
    ]
    models = {run.name: run.model(step) for run in loaded}
    drawn = {run.name: PROTOCOLS[protocol] if protocol else run.config.data.protocol for run in loaded}
    records: list[Row] = []
    with stage("answering", rows * len(plan), "questions") as advance:
        for run, group, task in plan:
            found = evaluate(
                models[run.name], run.world(), [task], rows, group=group, split=split, seed=seed,
                protocol=drawn[run.name], advance=advance,
            )  # fmt: skip
            records += [{"run": run.name, **record} for record in found.table()]
    for run in loaded:
        uses(run.folder.as_posix(), run.sha256(step))
    return Result(
        kind="eval",
        params={
            "runs": list(models),
            "tasks": list(dict.fromkeys(task for _, _, task in plan)),
            "groups": list(dict.fromkeys(group for _, group, _ in plan)),
            "rows": rows,
            "split": split,
            "seed": seed,
            "protocol": PROTOCOLS[protocol].model_dump() if protocol else "the run's",
            "step": step,
        },
        tables={"tasks": records},
        notes=[
            "An answer is read when it is exactly a number or label and then ends; one that cannot be read "
            "counts the task's failure value (accuracy 0). The baseline is the best constant prediction, "
            "chosen on these very rows: the median, or the most frequent label.",
            "Questions old: no new city in the question; new: at least one; all: any.",
        ],
    )
