"""`cwr-mech subspace`: do a task's updates of cities run along the map, or off it?"""

from pathlib import Path
from typing import Annotated

import typer

from .options import Report, Run, Step


def command(
    run: Run = None,
    tasks: Annotated[str, typer.Option(help="Tasks by name, or all that the run was trained on.")] = "all",
    layers: Annotated[str | None, typer.Option(help="Layers, e.g. embed,0,2; all by default.")] = None,
    sites: Annotated[str, typer.Option(help="Where a city is read.")] = "last_digit,delimiter",
    rank: Annotated[
        int | None, typer.Option(min=1, help="Directions of the map; as many as carry 95 % by default.")
    ] = None,
    rows: Annotated[int, typer.Option(min=64, help="Questions drawn for each task and group.")] = 768,
    lr: Annotated[float, typer.Option(help="Learning rate of the one step.")] = 1e-4,
    seed: Annotated[int, typer.Option(min=0, help="Seed of questions, halves and draws.")] = 0,
    step: Step = None,
    activations: Annotated[
        Path | None, typer.Option(help="Fit the bases on this file of the same weights, not on the model.")
    ] = None,
    report: Report = None,
) -> None:
    """Share of each task's updates of new and old cities inside the map's directions, beside random ones,
    and whether they move a city towards its place.

    Three kinds of update: gradient of the loss at the city, one Adam step, one plain step. Bases are fitted
    on old cities; old cities are measured in the basis of the half they are not in.
    """
    from cwr_mech.activations.reader import ActivationStore
    from cwr_mech.analysis.routing.conflict import conflict_result
    from cwr_mech.analysis.routing.tables import choose_layers, subspace_result
    from cwr_mech.experiments.finetuning import in_order
    from cwr_mech.training.runs import load_run

    from .common import console, progress, rows_of, save_result, say, table
    from .stores import command_line, split

    found = load_run(run)
    names = tuple(found.config.data.tasks) if tasks == "all" else in_order(split(tasks) or [])
    places = split(sites) or []
    digest, world = found.sha256(step), found.world()
    store = ActivationStore(activations, world=world, model_sha256=digest) if activations else None
    with progress("updates", len(names) * len(places), "prompts") as advance:
        result = subspace_result(
            found.model(step),
            world,
            names,
            run=found.name,
            layers=choose_layers(split(layers), found.config.model.n_layers),
            sites=places,
            rank=rank,
            n_rows=rows,
            batch=min(found.config.train.batch_size, rows // 4),
            lr=lr,
            seed=seed,
            store=store,
            command=command_line(),
            inputs={f"runs/{found.name}": digest},
            advance=advance,
        )
    shown = [
        row
        for row in result.tables["shares"]
        if row["group"] == "new" and row["basis"] == "manifold" and row["update"] == "adam"
    ]
    columns = ["task", "site", "layer", "rank", "share", "lo", "hi", "null", "null_hi", "like", "like_hi"]
    console.print(
        table("share of one Adam step inside the map, new cities", columns, rows_of(shown, columns))
    )
    ways = [row for row in result.tables["directions"] if row["group"] == "new" and row["update"] == "adam"]
    columns = ["task", "site", "layer", "cosine", "lo", "hi", "cosine_shuffled", "gain", "gain_on", "target"]
    console.print(table("movement towards the true place, new cities", columns, rows_of(ways, columns)))
    for note in result.notes:
        say(note)
    save_result(result, report or found.name, f"subspace-{found.name}")
    with progress("weights", len(names), "tasks") as advance:
        conflict = conflict_result(
            found.model(step),
            world,
            names,
            run=found.name,
            batch=max(1, rows // 24),
            seed=seed,
            command=command_line(),
            inputs={f"runs/{found.name}": digest},
            advance=advance,
        )
    save_result(conflict, report or found.name, f"conflict-{found.name}")
