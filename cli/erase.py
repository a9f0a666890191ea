"""`cwr-mech erase`: is the map that a probe finds used?"""

from typing import Annotated

import typer

from .options import Report, Run, Step


def command(
    run: Run = None,
    layers: Annotated[str | None, typer.Option(help="Blocks, e.g. 0,2; all by default.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks; the run's own by default.")] = None,
    n: Annotated[int, typer.Option("-n", min=20, help="Test questions a task.")] = 300,
    fit: Annotated[
        int, typer.Option(min=50, help="Training questions that the erasers are fitted on.")
    ] = 1500,
    seed: Annotated[int, typer.Option(min=0, help="Seed of questions and random subspaces.")] = 0,
    step: Step = None,
    report: Report = None,
) -> None:
    """Erase the places of the cities (LEACE) after a block, at every city's last digit and delimiter, and see
    how much of what the model gains over a constant answer is lost; beside random subspaces of equal rank.
    """
    from cwr_mech.analysis.erasure.erasure import erase_task, erasure_result
    from cwr_mech.errors import UnknownName
    from cwr_mech.tasks.registry import get_task
    from cwr_mech.training.runs import load_run

    from .common import console, progress, resolve_run, rows_of, save_result, say, table
    from .stores import command_line, split

    found = load_run(resolve_run(run))
    at = found.last_step if step is None else step
    model, world = found.model(at), found.world()
    known = [str(layer) for layer in range(model.cfg.n_layers)]
    blocks = split(layers) or known
    for block in blocks:
        if block not in known:
            raise UnknownName("block", block, known)
    chosen = [get_task(task).name for task in split(tasks) or found.config.data.tasks]
    rows = []
    with progress("erasing", len(chosen) * len(blocks), "places") as advance:
        for task in chosen:
            for block in blocks:
                rows += erase_task(model, world, task, int(block), n_fit=fit, n_test=n, seed=seed)
                advance(1)
    weights = (found.checkpoint(at) / "model.safetensors").as_posix()
    result = erasure_result(
        found.name, rows, fit=fit, seed=seed, command=command_line(), inputs={weights: found.sha256(at)}
    )
    heads = {"task": "task", "layer": "block", "arm": "erased"}
    heads |= {"loss_clean": "before", "loss_erased": "after", "loss_constant": "constant", "lost": "lost"}
    heads |= {"lost_lo": "low", "lost_hi": "high", "r2_after": "R2 left"}
    console.print(table("what each task loses", list(heads.values()), rows_of(rows, list(heads))))
    for note in result.notes:
        say(note)
    save_result(result, report or found.name, "erasure")
