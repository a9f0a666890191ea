"""`cwr-mech plot`: learning curves."""

from typing import Annotated

from cwr_mech.analysis.registry import Opt
from cwr_mech.analysis.study import names
from cwr_mech.errors import MissingArtifact, UserError
from cwr_mech.training.folders import RUNS, newest_first

from .common import command_line, plain_name, save_result, say
from .options import LogResult, Report, Suffix


def command(
    runs: Annotated[list[str] | None, Opt("Runs to draw together; the latest run.")] = None,
    *,
    report: Report = None,
    suffix: Suffix = None,
    log: LogResult = None,
) -> None:
    """Draw loss and answers against the examples seen, beside the best constant answers.

    One run is drawn with its loss task by task, several as a line each. Works while a run is being trained.
    Runs that cannot be read are named and left out; without names, the latest run that can be is drawn.
    """
    from cwr_mech.analysis.answers.curves import curves_result, losses_of, training_result
    from cwr_mech.training.runs import load_run

    from .analyses import show_result

    found = []
    named = names(runs)
    wanted = named or newest_first(RUNS) or [None]
    for name in wanted:
        try:
            run = load_run(name)
            losses_of(run)
            found.append(run)
        except UserError as error:
            if len(wanted) == 1:
                raise
            say(f"left out {name}: {error.message}")
        if found and not named:
            break
    if not found:
        raise MissingArtifact("none of these runs can be drawn", "cwr-mech runs lists what there is")
    if len(found) == 1:
        result, name = training_result(found[0], command_line()), f"train-{plain_name(found[0].name)}"
    else:
        result, name = curves_result(found, command_line()), "curves"
        show_result(result)
    name = f"{name}-{suffix}" if suffix else name
    save_result(result, report or plain_name(found[0].name), name, log)
