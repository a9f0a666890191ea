"""Is there a map, where in the model, and do held-out cities lie on it?"""

from typing import Annotated, Literal

from cwr_mech.analysis.study import (
    ActivationFiles,
    BlockLayers,
    Folds,
    Layers,
    Names,
    Opt,
    Prompts,
    RunArg,
    RunsArg,
    Seed,
    Shuffles,
    Site,
    Sites,
    Step,
    names,
    study,
)
from cwr_mech.results import Result

Method = Literal["ridge", "ols"]


@study("probe")
def probe(
    run: RunArg = None,
    *,
    layers: Layers = None,
    prompts: Prompts = "all",
    sites: Sites = None,
    method: Annotated[Method, Opt("ridge, or ols as in the paper.")] = "ridge",
    folds: Folds = 5,
    draws: Shuffles = 10,
    seed: Seed = 0,
    step: Step = None,
    activations: ActivationFiles = None,
) -> Result:
    """Linear probes from activations to coordinates at every layer and prompt, scored on held-out cities.

    Controls: shuffled and random coordinates, the digits of the id, the untrained model. Cities that the
    model has not met in pretraining are decoded by a probe fitted on those that it has.
    """
    from cwr_mech.analysis.probing.tables import probe_result
    from cwr_mech.analysis.sources import open_sources

    source = open_sources(run, activations, step)[0]
    chosen = source.hooks(layers), source.prompts(prompts), source.sites(sites)
    before = source.untrained()
    return probe_result(
        source.store, *chosen, untrained=before, method=method, folds=folds, draws=draws, seed=seed
    )


@study("readout")
def readout(
    run: RunArg = None,
    *,
    layers: Layers = None,
    prompts: Prompts = "all",
    sites: Sites = None,
    folds: Folds = 5,
    seed: Seed = 0,
    step: Step = None,
    activations: ActivationFiles = None,
) -> Result:
    """What one probe score hides, at each prompt's best-decodable layer.

    Probes read across prompts, with whole regions held out, fitted on few cities, nonlinear; the length of a
    code for the coordinates; held-out cities in every prompt.
    """
    from cwr_mech.analysis.probing.generalisation import best_sites, readout_result
    from cwr_mech.analysis.sources import open_sources

    source = open_sources(run, activations, step)[0]
    chosen = source.hooks(layers), source.prompts(prompts), source.sites(sites)
    best = best_sites(source.store, *chosen, folds=folds, seed=seed)
    return readout_result(source.store, best, folds=folds, seed=seed)


@study("surfacing")
def surfacing(
    runs: RunsArg = None,
    *,
    layers: BlockLayers = None,
    prompts: Annotated[
        Names, Opt("Prompts: trained (all tasks of each run), own (its first), or tasks.")
    ] = "own",
    site: Site = None,
    folds: Folds = 5,
    seed: Seed = 0,
    step: Step = None,
    activations: ActivationFiles = None,
) -> Result:
    """Coordinate variance in the top principal components, model by model and by number of tasks.

    Share of variance and probe R2 of the first k components, and how much of the probe's plane lies in them.
    A model counts once, with the mean over its prompts.
    """
    from cwr_mech.analysis.members import members
    from cwr_mech.analysis.probing.surfacing import surfacing_result
    from cwr_mech.analysis.selection import Item
    from cwr_mech.analysis.sources import open_sources

    sources = open_sources(runs, activations, step)
    items = [
        Item(source.store, hook, prompt, source.site(site), source.label)
        for source in sources
        for hook in source.block_hooks(layers)
        for prompt in source.prompts(prompts)
    ]
    return surfacing_result(items, members(sources), folds=folds, seed=seed)


@study("places")
def places(
    runs: RunsArg = None,
    *,
    steps: Annotated[
        Literal["last", "all"], Opt("The last checkpoint of each run, or all of them.")
    ] = "last",
    layers: Layers = None,
    prompts: Prompts = "own",
    site: Site = None,
    folds: Folds = 5,
    draws: Shuffles = 5,
    seed: Seed = 0,
) -> Result:
    """Decoded places of every city, by layer, prompt and checkpoint: the map in motion of `report --html`."""
    from cwr_mech.analysis.probing.places import State, places_result
    from cwr_mech.analysis.sources import Source, open_sources, run_of

    wanted: list[str | None] = [*(names(runs) or (None,))]
    sources: list[Source] = []
    for name in wanted:
        at = run_of(name).steps if steps == "all" else (None,)
        sources += [open_sources(name, None, step)[0] for step in at]
    first = sources[0]
    hooks, tasks = first.hooks(layers), first.prompts(prompts)
    states = [State(source.run, int(source.store.attrs["step"]), source.store) for source in sources]
    return places_result(states, hooks, tasks, first.site(site), folds=folds, draws=draws, seed=seed)
