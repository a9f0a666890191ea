"""`cwr-mech predict`: can divergence be told before training?"""

from typing import TYPE_CHECKING, Annotated

import typer

from .options import QuestionSeed

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np


def command(
    run: Annotated[
        str | None, typer.Argument(help="A run of all seven tasks with its checkpoints; the latest.")
    ] = None,
    layer: Annotated[int, typer.Option(min=0, help="Layer of the gradients.")] = 1,
    site: Annotated[str, typer.Option(help="Where a city is read.")] = "last_digit",
    rows: Annotated[int, typer.Option(min=64, help="Questions for each task.")] = 2048,
    seed: QuestionSeed = 0,
    report: Annotated[
        str | None, typer.Option(help="Report that gets the result, and whose own transfer is an outcome.")
    ] = None,
) -> None:
    """Similarity of the tasks' gradients before and early in training, and of the tasks themselves, against
    published similarity and transfer and against the report's own transfer, by permutation over tasks.
    """
    from collections.abc import Callable
    from functools import partial

    from cwr_mech.analysis.prediction.study import moments, prediction_result
    from cwr_mech.model.qwen2 import HookedQwen2
    from cwr_mech.training.runs import load_run

    from .common import console, progress, report_folder, rows_of, save_result, say, table
    from .stores import command_line

    found = load_run(run)
    name = report or found.name
    config = found.config
    models: dict[str, Callable[[], HookedQwen2]] = {
        "untrained": lambda: HookedQwen2(config.model, seed=config.train.seed).eval()
    }
    for step in moments(found.steps):
        if step:
            models[f"step {step}"] = partial(found.model, step)
    with progress("gradients", len(models), "models") as advance:
        result = prediction_result(
            models,
            found.world(),
            own_outcomes(report_folder(name)),
            run=found.name,
            layer=layer,
            site=site,
            n_rows=rows,
            seed=seed,
            command=command_line(),
            inputs={found.source: found.sha256()},
            advance=advance,
        )
    columns = ["from", "predictor", "outcome", "left_out", "n", "r", "p", "r_lo", "r_hi", "without"]
    console.print(table("predictors", columns, rows_of(result.tables["tests"], columns)))
    columns = ["pairs", "n", "r", "r2", "slope", "intercept", "p", "r_adjusted"]
    console.print(table("the published correlation", columns, rows_of(result.tables["published"], columns)))
    for note in result.notes:
        say(note)
    save_result(result, name, "prediction")


def own_outcomes(folder: "Path") -> "dict[str, np.ndarray]":
    """What a report knows of the tasks: transfer between them, by answers of single-task fine-tunings, where
    it has all seven.
    """
    import numpy as np

    from cwr_mech.results import load_results
    from cwr_mech.tasks.registry import PAPER_TASKS

    outcomes: dict[str, np.ndarray] = {}
    for name, result in load_results(folder / "results").items():
        if result.kind == "transfer":
            sets, grid = [str(one) for one in result.arrays["sets"]], result.arrays["ni"]
            if all(task in sets for task in PAPER_TASKS):
                chosen = np.array([grid[sets.index(task)] for task in PAPER_TASKS])
                outcomes |= {f"own {name}, answers": chosen} if np.isfinite(chosen).all() else {}
    return outcomes
