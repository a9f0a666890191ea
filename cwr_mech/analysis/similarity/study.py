"""Do layers and models represent the cities alike?"""

from functools import partial
from typing import Annotated

from cwr_mech.analysis.study import (
    ActivationFiles,
    BlockLayers,
    Cities,
    Layers,
    Names,
    OnePrompt,
    Opt,
    Prompts,
    RunsArg,
    Seed,
    Site,
    Step,
    names,
    stage,
    study,
)
from cwr_mech.results import Result


@study("cka")
def cka(
    runs: RunsArg = None,
    *,
    layers: Layers = None,
    prompts: Prompts = "own",
    site: Site = None,
    cities: Cities = "old",
    biased: Annotated[bool, Opt("The paper's estimator instead of the debiased one.")] = False,
    draws: Annotated[int, Opt("Shuffles of the cities for the null.", min=1)] = 20,
    seed: Seed = 0,
    step: Step = None,
    activations: ActivationFiles = None,
) -> Result:
    """Linear CKA of every pair of layers, prompts and runs, with intervals.

    Controls: shuffled cities as the null, the id's digits and the untrained model as baselines, models of the
    same tasks as the noise ceiling.
    """
    from cwr_mech.analysis.members import members
    from cwr_mech.analysis.selection import Item
    from cwr_mech.analysis.similarity.cka_tables import cka_result
    from cwr_mech.analysis.sources import open_sources

    sources = open_sources(runs, activations, step)
    items: list[Item] = []
    untrained: list[tuple[Item, Item]] = []
    for source in sources:
        start, place = source.untrained(), source.site(site)
        for prompt in source.prompts(prompts):
            for hook in source.hooks(layers):
                items.append(Item(source.store, hook, prompt, place, source.label))
                if start is not None:
                    untrained.append((items[-1], Item(start, hook, prompt, place)))
    return cka_result(
        items, members(sources), untrained, debiased=not biased, cities=cities, draws=draws, seed=seed
    )


@study("similarity")
def similarity(
    runs: RunsArg = None,
    *,
    measures: Annotated[Names, Opt("Measures, e.g. cka,rsa,mutual_knn; all by default.")] = None,
    layers: BlockLayers = None,
    prompts: OnePrompt = "own",
    site: Site = None,
    cities: Cities = "old",
    draws: Annotated[int, Opt("Half samples of the cities for an interval.", min=20)] = 50,
    seed: Seed = 0,
    step: Step = None,
    activations: ActivationFiles = None,
) -> Result:
    """Many measures of representational similarity between models.

    Intervals over cities for pairs, over models for groups. References: the true map, the digits of the id,
    the untrained model; models of the same tasks as the noise ceiling; the trend with the number of tasks.
    """
    from cwr_mech.analysis.members import members
    from cwr_mech.analysis.selection import Item
    from cwr_mech.analysis.similarity.measures import choose_measures
    from cwr_mech.analysis.similarity.tables import one_model, similarity_result
    from cwr_mech.analysis.sources import open_sources

    chosen = choose_measures(names(measures))
    if len(names(activations) or names(runs) or ()) < 2:  # before the activations of one are made
        raise one_model()
    sources = open_sources(runs, activations, step)
    by_layer: dict[int, list[Item]] = {}
    untrained: dict[str, Item] = {}
    for source in sources:
        prompt, start = source.prompts(prompts)[0], source.untrained()
        place = source.site(site)
        for hook in source.block_hooks(layers):
            item = Item(source.store, hook, prompt, place, source.label)
            by_layer.setdefault(item.layer, []).append(item)
            if start is not None:
                untrained[f"{item.run} {item.layer}"] = Item(start, hook, prompt, place)
    shared = {layer: items for layer, items in by_layer.items() if len(items) == len(sources)}
    how = partial(similarity_result, cities=cities, draws=draws, seed=seed)
    with stage("comparing", len(shared) * len(chosen), "measures") as advance:
        return how(shared, chosen, members(sources), untrained, advance=advance)
