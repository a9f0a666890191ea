"""Is a city's error on-manifold (wrong coordinates) or off-manifold (residual norm), and since when?"""

from typing import Annotated, Literal

from cwr_mech.analysis.study import (
    ActivationFiles,
    BlockLayers,
    Folds,
    Names,
    Opt,
    Prompts,
    RunArg,
    Seed,
    Site,
    Step,
    each,
    study,
    uses,
)
from cwr_mech.results import Result


@study("manifold")
def manifold(
    run: RunArg = None,
    *,
    layers: BlockLayers = None,
    prompts: Prompts = "own",
    site: Site = None,
    metric: Annotated[
        Literal["euclidean", "residual"],
        Opt("Distances as they are, or whitened by the residuals of training cities."),
    ] = "residual",
    folds: Folds = 5,
    seed: Seed = 0,
    step: Step = None,
    activations: ActivationFiles = None,
) -> Result:
    """Fit the world manifold, a smooth map from coordinates to activations.

    Says how much of a layer is a function of the coordinates and, for new cities, how far they are displaced
    on the manifold and off it, beside training cities; with the spectrum and dimension of the activations.
    """
    from cwr_mech.analysis.manifold.tables import manifold_result
    from cwr_mech.analysis.sources import open_sources

    source = open_sources(run, activations, step)[0]
    hooks, tasks, place = source.block_hooks(layers), source.prompts(prompts), source.site(site)
    return manifold_result(source.store, hooks, tasks, place, metric=metric, folds=folds, seed=seed)


@study("timeline")
def timeline(
    run: RunArg = None,
    *,
    layers: Annotated[Names, Opt("One layer; the last block by default.")] = None,
    prompts: Annotated[str, Opt("One prompt: own (the run's first task) or a task.")] = "own",
    site: Site = None,
    draws: Annotated[int, Opt("Shuffled-label controls for each checkpoint.", min=1)] = 5,
    seed: Seed = 0,
) -> Result:
    """When the map forms: probe, share of coordinates, similarity to the last checkpoint and dimension."""
    from cwr_mech.analysis.sources import open_sources, run_of
    from cwr_mech.errors import AnalysisError

    found = run_of(run)
    if len(found.steps) < 2:
        raise AnalysisError(f"run {found.name} has {len(found.steps)} checkpoint(s)", "a timeline needs two")
    folder = found.folder.as_posix()
    last = open_sources(folder, None, found.last_step)[0]
    chosen = last.block_hooks(layers)[-1], last.prompts(prompts)[0], last.site(site)
    stores = {}
    for step in each(found.steps, "checkpoints", "checkpoints"):
        stores[step] = open_sources(folder, None, step)[0].store
        uses((found.checkpoint(step) / "model.safetensors").as_posix(), found.sha256(step))
    from cwr_mech.analysis.manifold.timeline import timeline_result

    return timeline_result(
        found.name,
        stores,
        *chosen,
        rows_a_step=found.config.train.batch_size,
        draws=draws,
        seed=seed,
    )
