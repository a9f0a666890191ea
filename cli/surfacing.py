"""`cwr-mech surfacing`: does the map surface in the leading components, and more so with more tasks?"""

from typing import Annotated

import typer

from .options import ActivationFiles, BlockLayers, Folds, ProbeSeed, Report, Site, Step


def command(
    runs: Annotated[list[str] | None, typer.Argument(help="Runs; the latest by default.")] = None,
    layers: BlockLayers = None,
    prompts: Annotated[str, typer.Option(help="Prompt: own (each run's first task) or a task.")] = "own",
    site: Site = "last_digit+delimiter",
    folds: Folds = 5,
    seed: ProbeSeed = 0,
    step: Step = None,
    activations: ActivationFiles = None,
    report: Report = None,
) -> None:
    """Share of variance and R2 of the map carried by the first principal components, and how much of the
    probe's directions lie in them, model by model and by number of tasks.
    """
    from cwr_mech.analysis.probing.surfacing import surfacing_result
    from cwr_mech.analysis.selection import Item, choose_hooks

    from .common import console, progress, rows_of, save_result, say, table
    from .stores import command_line, hashes, labels, member_of, open_sources, prompts_of, split

    sources = open_sources(runs, activations, step)
    names = labels(sources)
    items = [
        Item(source.store, hook, prompts_of(source, split(prompts))[0], site, name)
        for source, name in zip(sources, names, strict=True)
        for hook in choose_hooks(source.store, split(layers))
        if layers is not None or hook.startswith("blocks.")
    ]
    with progress("components", len(items), "places") as advance:
        result = surfacing_result(
            items,
            {name: member_of(source, name) for source, name in zip(sources, names, strict=True)},
            folds=folds,
            seed=seed,
            command=command_line(),
            inputs=hashes(sources),
            advance=advance,
        )
    last = max(item.layer for item in items)
    rows = [row for row in result.tables["components"] if row["layer"] == last and row["k"] in (2, 4, 10)]
    columns = ["run", "n_tasks", "k", "variance", "r2", "r2_lo", "r2_hi", "r2_shuffled", "alignment"]
    columns.append("alignment_random")
    console.print(table(f"first k components, layer {last}", columns, rows_of(rows, columns)))
    for note in result.notes:
        say(note)
    save_result(result, report or sources[0].run, "surfacing")
