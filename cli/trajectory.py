"""`cwr-mech trajectory`: where a fine-tuning puts new cities, along the map and off it, step by step."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Finetuned, Report

if TYPE_CHECKING:
    from cwr_mech.analysis.routing.displacement import Origin
    from cwr_mech.analysis.routing.trajectory import Spot
    from cwr_mech.training.runs import Run

Row = dict[str, Any]
ABOUT = ("run", "base", "set", "arm", "route")
"""Columns that say which run a row is about."""


def command(
    runs: Finetuned = None,
    prompts: Annotated[
        str,
        typer.Option(help="Prompts to read cities in: own (of the trained tasks), all, or tasks by name."),
    ] = "own",
    last: Annotated[bool, typer.Option("--last", help="Only the first and the last checkpoint.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the intervals.")] = 0,
    report: Report = None,
) -> None:
    """Error of new cities along the map and their distance off it, beside training cities, for every
    checkpoint of fine-tuned runs: put in the wrong place, or put off the map?

    Each prompt is read at the site at which the base's answers read a city, found by interchange, and at the
    site where its map is clearest. Prompts of tasks that were not trained are read at the first and the last
    checkpoint.
    """
    from cwr_mech.analysis.routing.trajectory import SITES_NOTE, spots_of
    from cwr_mech.analysis.transfer.runs import fine_tunings
    from cwr_mech.experiments.finetuning import in_order
    from cwr_mech.results import Result
    from cwr_mech.tasks.registry import TASKS

    from .common import console, progress, rows_of, save_result, table
    from .stores import command_line, split

    tuned = fine_tunings(runs)
    named = tuple(TASKS) if prompts == "all" else tuple(split(prompts) or [])
    asked = None if prompts == "own" else in_order(named)
    spots: dict[tuple[str, str], tuple[Spot, ...]] = {}
    starts: dict[tuple[str, Spot], list[Row]] = {}
    origins: dict[tuple[str, Spot], Origin] = {}
    rows = []
    with progress("placing", len(tuned), "models") as advance:
        for run in tuned:
            base = run.base()
            wanted = asked or run.config.data.tasks
            for task in wanted:
                if (base.name, task) not in spots:
                    found = spots_of(base.model(), run.world(), task, base.config.data.tasks)
                    spots[base.name, task] = found
            here = [spot for task in wanted for spot in spots[base.name, task]]
            rows += path_of(run, here, starts, origins, last, seed)
            advance(1)
    result = Result(
        kind="trajectory",
        command=command_line(),
        inputs={run.source: run.sha256() for run in tuned},
        params={"runs": [run.name for run in tuned], "prompts": prompts, "last": last, "seed": seed},
        values={"n_models": len(tuned), "n_bases": len({run.parent for run in tuned})},
        tables={
            "trajectory": rows,
            "spots": [
                {"base": base, "prompt": task, "layer": spot.layer, "site": spot.site, "hook": spot.hook}
                | {"chosen": spot.chosen, "iia": spot.iia, "weak": spot.weak, "map_variance": spot.variance}
                for (base, task), several in spots.items()
                for spot in several
            ],
        },
        notes=[
            "Along: distance of the nearest point of the map from the true place, tenths of a degree. Off: "
            "distance from the map, in units of the median training city. The map is fitted on training "
            "cities of the same checkpoint; training cities on maps they took no part in.",
            SITES_NOTE,
        ],
    )
    ends = [row for row in rows if row["step"] == max(r["step"] for r in rows if r["run"] == row["run"])]
    columns = ["base", "set", "route", "prompt", "chosen", "weak", "along_new", "along_old", "off_new"]
    columns += ["probe_new", "moved_new"]
    console.print(table("new cities at the end", columns, rows_of(ends, columns)))
    save_result(result, report or str(tuned[0].parent), "trajectory")


def path_of(
    run: "Run",
    spots: "list[Spot]",
    starts: "dict[tuple[str, Spot], list[Row]]",
    origins: "dict[tuple[str, Spot], Origin]",
    last: bool,
    seed: int,
) -> list[Row]:
    """Rows of a fine-tuned run. `starts` and `origins`: what is already known of the weights it started from,
    by their digest and the spot; what is missing is added.
    """
    from functools import partial

    from cwr_mech.analysis.routing.displacement import Origin
    from cwr_mech.analysis.routing.trajectory import read, trajectory
    from cwr_mech.experiments.finetuning import condition_of

    own, world = run.config.data.tasks, run.world()
    values = (run.name, run.parent, "+".join(own), condition_of(run.config), run.config.route.name)
    first, *later = run.steps
    models = {step: partial(run.model, step) for step in run.steps}
    digest = run.sha256(first)
    rows = []
    for spot in spots:
        key = digest, spot
        if key not in starts:
            starts[key] = trajectory({first: models[first]}, world, [spot], seed=seed)
            origins[key] = Origin.fit(read(models[first](), world, spot), world, seed)
        rows += starts[key]
    here = {spot: origins[digest, spot] for spot in spots}
    followed = {step: models[step] for step in (later[-1:] if last else later)}
    rows += trajectory(followed, world, spots, origins=here, followed=own, seed=seed)
    return [dict(zip(ABOUT, values, strict=True)) | row for row in rows]
