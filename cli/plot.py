"""`cwr-mech plot`: learning curves."""

from typing import Annotated

import typer

from .options import Report


def command(
    runs: Annotated[list[str] | None, typer.Argument(help="Runs to draw together; the latest run.")] = None,
    report: Report = None,
) -> None:
    """Draw loss and answers against the examples seen, beside the best constant answers.

    One run is drawn with its loss task by task, several as a line each. Works while a run is being trained.
    """
    from cwr_mech.analysis.answers.curves import curves_result, training_result
    from cwr_mech.training.runs import load_run

    from .common import save_result
    from .stores import command_line

    found = [load_run(name) for name in runs or (None,)]
    if len(found) == 1:
        result, name = training_result(found[0], command_line()), f"train-{found[0].folder.name}"
    else:
        result, name = curves_result(found, command_line()), "curves"
    save_result(result, report or found[0].name, name)
