"""`cwr-mech manifold`: is a city misplaced on the map, or off the map?"""

from typing import Annotated, Literal

import typer

from .options import ActivationFile, BlockLayers, Folds, Report, Run, Site, Step


def command(
    run: Run = None,
    layers: BlockLayers = None,
    prompts: Annotated[str, typer.Option(help="Prompts: own, all, or tasks by name.")] = "own",
    site: Site = "last_digit+delimiter",
    metric: Annotated[
        Literal["euclidean", "residual"],
        typer.Option(help="Distances as they are, or whitened by what is left of ordinary cities."),
    ] = "residual",
    folds: Folds = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of folds and landmarks.")] = 0,
    step: Step = None,
    activations: ActivationFile = None,
    report: Report = None,
) -> None:
    """Fit the smooth map from places to activations; say how much of a layer is a function of place, and for
    new cities how far they are along the map and off it, beside ordinary cities. Spectrum, dimension and what
    the first principal components carry come with it.
    """
    from cwr_mech.analysis.manifold.study import manifold_result
    from cwr_mech.analysis.selection import choose_hooks

    from .common import console, progress, rows_of, save_result, say, table
    from .stores import command_line, hashes, open_sources, prompts_of, split

    source = open_sources([run] if run else None, [activations] if activations else None, step)[0]
    hooks = choose_hooks(source.store, split(layers))
    if layers is None:
        hooks = [hook for hook in hooks if hook.startswith("blocks.")]
    tasks = prompts_of(source, split(prompts))
    with progress("maps", len(hooks) * len(tasks), "maps") as advance:
        result = manifold_result(
            source.store,
            hooks,
            tasks,
            site,
            metric=metric,
            folds=folds,
            seed=seed,
            command=command_line(),
            inputs=hashes([source]),
            advance=advance,
        )
    heads = {"task": "prompt", "layer": "layer", "share": "place", "share_shuffled": "shuffled"}
    heads |= {"along_ordinary": "along", "along_region": "regions", "along_new": "new"}
    heads |= {"off_ratio": "off", "excess_off": "excess", "excess_off_lo": "low", "excess_off_hi": "high"}
    rows = rows_of(result.tables["layers"], list(heads))
    console.print(table("place on the map and distance off it", list(heads.values()), rows))
    say("place: share of variance; along: error on the map of ordinary, held-out-region and new cities;")
    say("off: distance off the map, new / ordinary; excess: beyond ordinary cities, with its 95 % interval")
    for note in result.notes:
        say(note)
    save_result(result, report or source.run, "manifold")
