"""`cwr-mech sites`: layers and token positions at which interchanging a city's state moves the answers."""

from typing import Annotated

import typer

from .options import Report, Run, Step


def command(
    run: Run = None,
    task: Annotated[
        str, typer.Option(help="Task, several by comma; own are those it was trained on.")
    ] = "own",
    cities: Annotated[
        str, typer.Option(help="Cities: old, or new (an old one put in a new one's place).")
    ] = "old",
    city: Annotated[str, typer.Option(help="Which city of the question, from 1; several by comma.")] = "1",
    pairs: Annotated[int, typer.Option(min=8, help="Pairs of questions.")] = 64,
    tolerance: Annotated[
        float, typer.Option(min=0, help="A moved number lies within this share of the constant's error.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="Seed of pairs and intervals.")] = 0,
    step: Step = None,
    report: Report = None,
) -> None:
    """Replace a city's whole state at one layer and token position by that of another city's question: where
    do the answers follow, and where is the city read?
    """
    import torch

    from cwr_mech.analysis.patching.sites import causal_sites, sites_result
    from cwr_mech.errors import AnalysisError, ConfigError
    from cwr_mech.tasks.registry import get_task
    from cwr_mech.training.runs import load_run

    from .common import console, progress, rows_of, save_result, say, table
    from .stores import command_line, split

    torch.set_num_threads(1)
    found = load_run(run)
    tasks = list(found.config.data.tasks) if task == "own" else split(task) or []
    places = split(city) or []
    if not places or not all(place.isdigit() and int(place) > 0 for place in places):
        raise ConfigError(f"'{city}' names no city of a question", "count them from 1, as in --city 1,2")
    for name in tasks:
        get_task(name)
    model, world, known = found.model(step), found.world(), []
    with progress("sites", len(tasks), "tasks") as advance:
        for name in tasks:
            try:
                known.append(
                    causal_sites(
                        model,
                        world,
                        name,
                        n_pairs=pairs,
                        seed=seed,
                        cities=cities,
                        slots=[int(place) - 1 for place in places],
                        tolerance=tolerance,
                    )
                )
            except AnalysisError as error:
                if len(tasks) == 1:
                    raise
                say(f"left out: {name}: {error.message}")
            advance(1, name)
    if not known:
        raise AnalysisError("the model answers none of these tasks well enough", "train it longer")
    result = sites_result(
        known,
        run=found.name,
        command=command_line(),
        inputs={found.checkpoint(step).as_posix(): found.sha256(step)},
        params={"seed": seed, "cities": cities, "pairs": pairs, "tolerance": tolerance},
    )
    columns = ["task", "slot", "layer", "position", "n", "iia", "lo", "hi", "slope", "weak"]
    console.print(table("where a city is read", columns, rows_of(result.tables["reading"], columns)))
    for note in result.notes:
        say(note)
    save_result(result, report or found.name, "sites")
