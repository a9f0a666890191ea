"""`cwr-mech trajectory`: where a fine-tuning puts new cities, along the map and off it, step by step."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Finetuned, Report


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
    from functools import partial

    from cwr_mech.analysis.trajectories import Spot, clearest, trajectory
    from cwr_mech.config import TASK_NAMES
    from cwr_mech.finetuning import arm_of, in_order
    from cwr_mech.results import Result

    from .common import console, progress, report_folder, rows_of, save_result, table
    from .stores import command_line, split
    from .transfer import fine_tunings, parent_of

    tuned = fine_tunings(runs)
    name = report or str(tuned[0].parent)
    named = TASK_NAMES if prompts == "all" else tuple(split(prompts) or [])
    asked = None if prompts == "own" else in_order(named)
    params = {"runs": [run.name for run in tuned], "prompts": prompts, "last": last, "seed": seed}
    inputs = {run.folder.as_posix(): run.sha256() for run in tuned}
    before = rows_before(report_folder(name) / "results" / "trajectory.json", params, inputs)
    spots: dict[tuple[str, str], Spot] = {}
    starts: dict[tuple[str, str], list[dict[str, Any]]] = {}
    rows = []
    with progress("placing", len(tuned), "models") as advance:
        for run in tuned:
            world, own = run.world(), run.config.data.tasks
            for task in asked or own:
                key = (str(run.parent), task)
                if key not in spots:
                    spots[key] = clearest(parent_of(run).model(), world, task)
            if run.name in before:
                rows += before[run.name]
                advance(1)
                continue
            about = {
                "run": run.name,
                "base": run.parent,
                "set": "+".join(own),
                "arm": arm_of(run.config),
                "route": run.config.route.suffix.removeprefix("-") or "none",
            }
            here = [spots[str(run.parent), task] for task in asked or own]
            first, *later = run.steps
            models = {step: partial(run.model, step) for step in run.steps}
            found = []
            for spot in here:  # fine-tunings of one base start from the same weights
                start = (run.sha256(first), spot.task)
                if start not in starts:
                    starts[start] = trajectory({first: models[first]}, world, [spot], seed=seed)
                found += starts[start]
            followed = {step: models[step] for step in (later[-1:] if last else later)}
            found += trajectory(followed, world, here, followed=own, seed=seed)
            rows += [about | row for row in found]
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


def rows_before(
    path: Path, params: dict[str, Any], inputs: dict[str, str]
) -> dict[str, list[dict[str, Any]]]:
    """Rows by run of a saved result with the same options, of the runs whose weights are still the same."""
    from cwr_mech.results import load_result

    if not path.is_file():
        return {}
    saved = load_result(path)
    if any(saved.params.get(key) != params[key] for key in ("prompts", "last", "seed")):
        return {}
    same = {Path(folder).name for folder, digest in inputs.items() if saved.inputs.get(folder) == digest}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in same}
    for row in saved.tables["trajectory"]:
        if row["run"] in same:
            found[row["run"]].append(row)
    return found
