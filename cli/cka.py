"""`cwr-mech cka`: how alike representations are, across layers and runs."""

from typing import Annotated

import typer

from .options import ActivationFiles, Cities, Layers, Report, Site, Step


def command(
    runs: Annotated[list[str] | None, typer.Argument(help="Runs to compare; the latest by default.")] = None,
    layers: Layers = None,
    prompts: Annotated[
        str, typer.Option(help="Prompts: own (each run's first task), all, or tasks by name.")
    ] = "own",
    site: Site = "last_digit+delimiter",
    cities: Cities = "old",
    biased: Annotated[
        bool, typer.Option("--biased", help="The paper's estimator instead of the debiased one.")
    ] = False,
    draws: Annotated[int, typer.Option(min=1, help="Shuffles of the cities for the null.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the shuffles.")] = 0,
    step: Step = None,
    activations: ActivationFiles = None,
    report: Report = None,
) -> None:
    """Linear CKA of every pair of layers, prompts and runs, with intervals, shuffled cities as the null, the
    id's digits and the untrained model as baselines, models of the same tasks as the ceiling, and a matrix
    as the figure.
    """
    from cwr_mech.analysis.selection import Item, choose_hooks
    from cwr_mech.analysis.similarity.cka_survey import cka_result

    from .common import console, rows_of, save_result, say, table
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

    sources = open_sources(runs, activations, step)
    names = labels(sources)
    items: list[Item] = []
    untrained: list[tuple[Item, Item]] = []
    for source, name in zip(sources, names, strict=True):
        start = open_untrained(source)
        for prompt in prompts_of(source, split(prompts)):
            for hook in choose_hooks(source.store, split(layers)):
                items.append(Item(source.store, hook, prompt, site, name))
                if start is not None:
                    untrained.append((items[-1], Item(start, hook, prompt, site)))
    result = cka_result(
        items,
        {name: member_of(source, name) for source, name in zip(sources, names, strict=True)},
        untrained,
        debiased=not biased,
        cities=cities,
        draws=draws,
        seed=seed,
        command=command_line(),
        inputs=hashes(sources),
    )
    places = [f"{item.run} {item.task} L{item.layer}" for item in items]
    if len(items) <= 12:
        rows = [
            [label, *(float(value) for value in result.arrays["matrix"][index])]
            for index, label in enumerate(places)
        ]
        console.print(table(str(result.values["measure"]), ["", *map(str, range(1, len(items) + 1))], rows))
    else:
        cells = sorted(result.tables["cells"], key=lambda cell: -(cell["cka"] or 0))
        sides = [
            {"a": f"{c['run_a']} {c['task_a']} L{c['layer_a']}"}
            | {"b": f"{c['run_b']} {c['task_b']} L{c['layer_b']}"}
            | c
            for c in [*cells[:6], *cells[-6:]]
        ]
        columns = ["a", "b", "cka", "lo", "hi", "null_max", "ceiling"]
        title = f"{result.values['measure']}: the 6 most and the 6 least alike of {len(cells)} pairs"
        console.print(table(title, columns, rows_of(sides, columns)))
    if result.tables["groups"]:
        last = max(row["layer"] for row in result.tables["groups"])
        means = [row for row in result.tables["groups"] if row["layer"] == last]
        columns = ["models", "group", "value", "lo", "hi", "n", "null", "ceiling", "p", "published"]
        console.print(table(f"means over pairs of models, layer {last}", columns, rows_of(means, columns)))
    for note in result.notes:
        say(note)
    save_result(result, report or sources[0].run, "cka" if cities == "old" else f"cka-{cities}")
