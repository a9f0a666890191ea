"""How well does a model answer, beside a constant-prediction baseline?"""

from typing import Annotated

from cwr_mech.analysis.study import Names, Opt, RunsArg, Seed, Step, names, stage, study
from cwr_mech.results import Result


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
    from cwr_mech.analysis.answers.scores import answers_result
    from cwr_mech.analysis.sources import runs_of
    from cwr_mech.config import PROTOCOLS
    from cwr_mech.errors import UnknownName
    from cwr_mech.tasks.registry import TASKS

    if protocol is not None and protocol not in PROTOCOLS:
        raise UnknownName("protocol", protocol, PROTOCOLS)
    asked = list(TASKS) if names(tasks) == ["all"] else names(tasks)
    loaded = runs_of(runs)
    plan = [
        (run, task, group)
        for run in loaded
        for group in names(cities) or (["old", "new", "all"] if len(run.world().new()) else ["old"])
        for task in asked or run.config.data.tasks
    ]
    with stage("answering", rows * len(plan), "questions") as advance:
        return answers_result(
            plan,
            rows,
            split=split,
            seed=seed,
            protocol=PROTOCOLS[protocol] if protocol else None,
            step=step,
            advance=advance,
        )
