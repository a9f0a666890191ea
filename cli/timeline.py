"""`cwr-mech timeline`: when the map forms."""

from pathlib import Path
from typing import Annotated

import typer

from .options import ProbeSeed, Report, Run, Site


def command(
    run: Run = None,
    layer: Annotated[str | None, typer.Option(help="Layer; the last block by default.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Prompt; the run's first task by default.")] = None,
    site: Site = "last_digit+delimiter",
    draws: Annotated[int, typer.Option(min=1, help="Shuffled-label controls for each checkpoint.")] = 5,
    seed: ProbeSeed = 0,
    report: Report = None,
) -> None:
    """Probe, share of place, likeness to the final model and dimension at every checkpoint of a run."""
    from tempfile import TemporaryDirectory

    from cwr_mech.activations.extract import extract
    from cwr_mech.activations.reader import ActivationStore, hook_of
    from cwr_mech.analysis.manifold.timeline import timeline_result
    from cwr_mech.tasks.registry import get_task
    from cwr_mech.training.runs import load_run

    from .common import console, progress, resolve_run, rows_of, save_result, say, table
    from .stores import command_line

    found = load_run(resolve_run(run))
    world = found.world()
    hook = hook_of(layer if layer is not None else found.config.model.n_layers - 1)
    task = get_task(prompt or found.config.data.tasks[0]).name
    with TemporaryDirectory() as folder, progress("checkpoints", 2 * len(found.steps), "passes") as advance:
        stores = {}
        for step in found.steps:
            path = Path(folder) / f"{step}.h5"
            sites = site.split("+")
            extract(found.model(step), world, path, hooks=[hook], tasks=[task], sites=sites)
            stores[step] = ActivationStore(path)
            advance(1)
        result = timeline_result(
            found.name,
            stores,
            hook,
            task,
            site,
            rows_a_step=found.config.train.batch_size,
            draws=draws,
            seed=seed,
            command=command_line(),
            inputs={
                (found.checkpoint(step) / "model.safetensors").as_posix(): found.sha256(step)
                for step in found.steps
            },
            advance=advance,
        )
    heads = {"step": "step", "rows": "rows", "r2": "R2", "r2_shuffled": "shuffled", "error_median": "error"}
    heads |= {"share": "place", "cka_final": "CKA, last", "participation_singular": "rank"}
    heads |= {"twonn": "TwoNN"}
    rows = rows_of(result.tables["steps"], list(heads))
    console.print(table(f"{found.name}, {hook}, prompt {task}", list(heads.values()), rows))
    for note in result.notes:
        say(note)
    save_result(result, report or found.name, "timeline")
