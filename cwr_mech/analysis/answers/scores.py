"""Scores of answers to fresh questions, as a Result."""

from collections.abc import Callable, Sequence
from typing import Any

from cwr_mech.analysis.study import uses
from cwr_mech.config import Protocol
from cwr_mech.model.evaluation import evaluate
from cwr_mech.results import Result
from cwr_mech.training.runs import Run


def answers_result(
    plan: Sequence[tuple[Run, str, str]],
    rows: int,
    *,
    split: str = "test",
    seed: int = 42,
    protocol: Protocol | None = None,
    step: int | None = None,
    advance: Callable[[int], object] | None = None,
) -> Result:
    """Ask `rows` questions for each (run, task, group of questions) of `plan`; kind "eval", table `tasks`."""
    runs = {run.name: run for run, _, _ in plan}
    models = {name: run.model(step) for name, run in runs.items()}
    records: list[dict[str, Any]] = []
    for run, task, group in plan:
        found = evaluate(
            models[run.name],
            run.world(),
            [task],
            rows,
            group=group,
            split=split,
            seed=seed,
            protocol=protocol or run.config.data.protocol,
            advance=advance,
        )
        records += [{"run": run.name, **record} for record in found.table()]
    for run in runs.values():
        uses(run.folder.as_posix(), run.sha256(step))
    return Result(
        kind="eval",
        params={
            "runs": list(runs),
            "tasks": list(dict.fromkeys(task for _, task, _ in plan)),
            "groups": list(dict.fromkeys(group for _, _, group in plan)),
            "rows": rows,
            "split": split,
            "seed": seed,
            "protocol": protocol.model_dump() if protocol else "the run's",
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
