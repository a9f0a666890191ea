"""`cwr-mech trajectory`: where a fine-tuning puts new cities, along the map and off it, step by step."""

from pathlib import Path
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
    """Error of new cities along the map and their distance off it, beside ordinary cities, for every
    checkpoint of fine-tuned runs: put in the wrong place, or put off the map?

    Prompts of tasks that were not trained are read at the first and the last checkpoint. Models that the
    report has already, with the same weights and options, are not read again.
    """
    from cwr_mech.analysis.routing.trajectory import clearest
    from cwr_mech.experiments.finetuning import in_order
    from cwr_mech.results import Result
    from cwr_mech.tasks.registry import TASKS

    from .common import console, progress, report_folder, rows_of, save_result, table
    from .stores import command_line, split
    from .transfer import fine_tunings, parent_of

    tuned = fine_tunings(runs)
    name = report or str(tuned[0].parent)
    named = tuple(TASKS) if prompts == "all" else tuple(split(prompts) or [])
    asked = None if prompts == "own" else in_order(named)
    params = {"runs": [run.name for run in tuned], "prompts": prompts, "last": last, "seed": seed}
    inputs = {run.source: run.sha256() for run in tuned}
    before, spots = saved(report_folder(name) / "results" / "trajectory.json", params, inputs)
    starts: dict[tuple[str, str], Row] = {}
    origins: dict[tuple[str, str], Origin] = {}
    rows = []
    with progress("placing", len(tuned), "models") as advance:
        for run in tuned:
            own = run.config.data.tasks
            for task in asked or own:
                key = (str(run.parent), task)
                if key not in spots:
                    spots[key] = clearest(parent_of(run).model(), run.world(), task)
            if run.name not in before:
                here = [spots[str(run.parent), task] for task in asked or own]
                before[run.name] = way(run, here, starts, origins, last, seed)
            rows += before[run.name]
            for row in before[run.name]:  # fine-tunings of one base start from the same weights
                if row["step"] == run.steps[0]:
                    plain = {key: value for key, value in row.items() if key not in ABOUT}
                    starts[run.sha256(run.steps[0]), str(row["prompt"])] = plain
            advance(1)
    result = Result(
        kind="trajectory",
        command=command_line(),
        inputs=inputs,
        params=params,
        values={"n_models": len(tuned), "n_bases": len({run.parent for run in tuned})},
        tables={
            "trajectory": rows,
            "spots": [
                {"base": base, "prompt": task, "layer": spot.layer, "site": spot.site}
                | {"hook": spot.hook, "map_variance": spot.variance}
                for (base, task), spot in spots.items()
            ],
        },
        notes=[
            "Along: distance of the nearest point of the map from the true place, tenths of a degree. Off: "
            "distance from the map, in units of the median ordinary city. The map is fitted on ordinary "
            "cities of the same checkpoint; ordinary cities on maps they took no part in.",
            "Each prompt is read at the layer and site where the base's map is clearest.",
        ],
    )
    ends = [row for row in rows if row["step"] == max(r["step"] for r in rows if r["run"] == row["run"])]
    columns = ["base", "set", "route", "prompt", "along_new", "along_old", "off_new", "probe_new"]
    console.print(table("new cities at the end", columns, rows_of(ends, columns)))
    save_result(result, name, "trajectory")


def way(
    run: "Run",
    spots: "list[Spot]",
    starts: dict[tuple[str, str], Row],
    origins: "dict[tuple[str, str], Origin]",
    last: bool,
    seed: int,
) -> list[Row]:
    """Rows of a fine-tuned run. `starts` and `origins`: what is already known of the weights it started from,
    by their digest and the prompt; origins that are missing are added.
    """
    from functools import partial

    from cwr_mech.analysis.routing.displacement import Origin
    from cwr_mech.analysis.routing.trajectory import read, trajectory
    from cwr_mech.experiments.finetuning import condition_of

    own, world = run.config.data.tasks, run.world()
    route = run.config.route.name
    values = (run.name, run.parent, "+".join(own), condition_of(run.config), route)
    first, *later = run.steps
    models = {step: partial(run.model, step) for step in run.steps}
    rows = []
    here: dict[str, Origin] = {}
    for spot in spots:
        key = run.sha256(first), spot.task
        known = starts.get(key)
        rows += [known] if known else trajectory({first: models[first]}, world, [spot], seed=seed)
        if key not in origins:
            origins[key] = Origin.fit(read(models[first](), world, spot), world, seed)
        here[spot.task] = origins[key]
    followed = {step: models[step] for step in (later[-1:] if last else later)}
    rows += trajectory(followed, world, spots, origins=here, followed=own, seed=seed)
    return [dict(zip(ABOUT, values, strict=True)) | row for row in rows]


def saved(
    path: Path, params: dict[str, Any], inputs: dict[str, str]
) -> tuple[dict[str, list[Row]], dict[tuple[str, str], "Spot"]]:
    """Rows by run, and spots by base and prompt, of a saved result with the same options, for the runs whose
    weights are still the same. A base keeps its spots as long as one of its runs is among them.
    """
    from cwr_mech.analysis.routing.trajectory import Spot
    from cwr_mech.results import load_result

    if not path.is_file():
        return {}, {}
    result = load_result(path)
    if any(result.params.get(key) != params[key] for key in ("prompts", "last", "seed")):
        return {}, {}
    same = {Path(folder).name for folder, digest in inputs.items() if result.inputs.get(folder) == digest}
    rows: dict[str, list[Row]] = {name: [] for name in same}
    bases = set()
    for row in result.tables["trajectory"]:
        if row["run"] in same:
            rows[row["run"]].append(row)
            bases.add(row["base"])
    spots = {
        (row["base"], row["prompt"]): Spot(row["prompt"], row["layer"], row["site"], row["map_variance"])
        for row in result.tables["spots"]
        if row["base"] in bases
    }
    return rows, spots
