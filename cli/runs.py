"""`cwr-mech runs`: what has been trained here."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cwr_mech.runs import Run


def command() -> None:
    """List the models in runs/, newest first: what they were trained on, how far, in which state."""
    from .common import RUNS, console, say, table

    found = sorted(RUNS.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    if not found:
        say(f"no runs in {RUNS}/ yet; train one with: cwr-mech train")
        return
    columns = ("run", "tasks", "cities", "layers", "width", "step", "of", "state")
    console.print(table("", columns, [row(path.parent) for path in found]))


def row(folder: Path) -> list[object]:
    """One line of the list; a run that cannot be read says why instead."""
    from cwr_mech.errors import ArtifactError
    from cwr_mech.runs import load_run

    try:
        return _row(load_run(folder))
    except ArtifactError as error:
        return [folder.name, error.message, *[None] * 6]


def _row(run: "Run") -> list[object]:
    from cwr_mech.config import TASK_NAMES

    config = run.config
    tasks = "all" if config.data.tasks == TASK_NAMES else ", ".join(config.data.tasks)
    shape = (config.world.n_cities, config.model.n_layers, config.model.d_model)
    step = run.steps[-1] if run.steps else 0
    return [run.name, tasks, *shape, step, config.train.steps, run.state]
