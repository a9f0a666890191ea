"""`cwr-mech similarity`: thirteen measures between models, with controls, ceilings and claims over models."""

from typing import Annotated

import typer

from .options import ActivationFiles, BlockLayers, Cities, Report, Site, Step


def command(
    runs: Annotated[list[str] | None, typer.Argument(help="Runs to compare, two or more.")] = None,
    measures: Annotated[
        str | None, typer.Option(help="Measures, comma-separated, e.g. cka,rsa,mutual_knn; all by default.")
    ] = None,
    layers: BlockLayers = None,
    prompts: Annotated[str, typer.Option(help="Prompt: own (each run's first task) or a task.")] = "own",
    site: Site = "last_digit+delimiter",
    cities: Cities = "old",
    draws: Annotated[int, typer.Option(min=20, help="Half samples of the cities for an interval.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Seed of samples and shuffles.")] = 0,
    step: Step = None,
    activations: ActivationFiles = None,
    report: Report = None,
) -> None:
    """How alike models arrange the cities, by many measures: intervals over cities for pairs, over models for
    groups; the true map, the digits of the id and the untrained model as references; models of the same
    tasks as the ceiling; the trend with the number of tasks.
    """
    from cwr_mech.analysis.selection import Item, choose_hooks
    from cwr_mech.analysis.similarity.measures import choose_measures
    from cwr_mech.analysis.similarity.study import similarity_result

    from .common import console, progress, rows_of, save_result, say, table
    from .stores import (
        command_line,
        hashes,
        labels,
        member_of,
        open_sources,
        open_untrained,
        prompts_of,
        split,
    )

    chosen = choose_measures(split(measures))
    sources = open_sources(runs, activations, step)
    by_layer: dict[int, list[Item]] = {}
    untrained: dict[str, Item] = {}
    names = labels(sources)
    for source, name in zip(sources, names, strict=True):
        hooks = choose_hooks(source.store, split(layers))
        if layers is None:
            hooks = [hook for hook in hooks if hook.startswith("blocks.")]
        prompt = prompts_of(source, split(prompts))[0]
        start = open_untrained(source)
        for hook in hooks:
            item = Item(source.store, hook, prompt, site, name)
            by_layer.setdefault(item.layer, []).append(item)
            if start is not None:
                untrained[f"{item.run} {item.layer}"] = Item(start, hook, prompt, site)
    by_layer = {layer: items for layer, items in by_layer.items() if len(items) == len(sources)}
    members = {name: member_of(source, name) for source, name in zip(sources, names, strict=True)}
    n_pairs = len(sources) * (len(sources) - 1) // 2
    with progress("comparing", len(by_layer) * len(chosen), "measures") as advance:
        result = similarity_result(
            by_layer,
            chosen,
            members,
            untrained,
            cities=cities,
            draws=draws,
            seed=seed,
            command=command_line(),
            inputs=hashes(sources),
            advance=advance,
        )
    last = max(row["layer"] for row in result.tables["pairs"])
    at_last = [row for row in result.tables["groups"] if row["layer"] == last]
    columns = ["measure", "models", "group", "value", "lo", "hi", "n", "null", "ceiling", "p"]
    columns += ["held_fixed", "published"]
    console.print(table(f"means over pairs of models, layer {last}", columns, rows_of(at_last, columns)))
    if n_pairs <= 6:
        columns = [
            "measure",
            "run_a",
            "run_b",
            "value",
            "lo",
            "hi",
            "null_best",
            "ceiling",
            "of_ceiling",
        ]
        rows = [row for row in result.tables["pairs"] if row["layer"] == last]
        console.print(table(f"pairs, layer {last}", columns, rows_of(rows, columns)))
    for note in result.notes:
        say(note)
    save_result(result, report or sources[0].run, "similarity" if cities == "old" else f"similarity-{cities}")
