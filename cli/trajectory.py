"""`cwr-mech trajectory`: where a fine-tuning puts new cities, along the map and off it, step by step."""

from typing import TYPE_CHECKING, Annotated

import typer

from .options import Finetuned, Report

if TYPE_CHECKING:
    from cwr_mech.runs import Run


def command(
    runs: Finetuned = None,
    prompts: Annotated[
        str, typer.Option(help="Prompts to read cities in: own (of the trained tasks), or tasks by name.")
    ] = "own",
    last: Annotated[bool, typer.Option("--last", help="Only the first and the last checkpoint.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the intervals.")] = 0,
    report: Report = None,
) -> None:
    """Error of new cities along the map and their distance off it, beside ordinary cities, for every
    checkpoint of fine-tuned runs: put in the wrong place, or put off the map?
    """
    from cwr_mech.analysis.trajectories import Spot, clearest, trajectory
    from cwr_mech.finetuning import arm_of, in_order
    from cwr_mech.results import Result

    from .common import console, progress, rows_of, save_result, table
    from .stores import command_line, split
    from .transfer import fine_tunings, parent_of

    tuned = fine_tunings(runs)
    wanted = None if prompts == "own" else in_order(split(prompts) or [])
    spots: dict[tuple[str, str], Spot] = {}
    rows = []
    with progress("placing", sum(len(steps_of(run, last)) for run in tuned), "checkpoints") as advance:
        for run in tuned:
            world = run.world()
            here = []
            for task in wanted or run.config.data.tasks:
                key = (str(run.parent), task)
                if key not in spots:
                    spots[key] = clearest(parent_of(run).model(), world, task)
                here.append(spots[key])
            about = {
                "run": run.name,
                "base": run.parent,
                "set": "+".join(run.config.data.tasks),
                "arm": arm_of(run.config),
                "route": run.config.route.suffix.removeprefix("-") or "none",
            }
            for step in steps_of(run, last):
                models = {step: lambda run=run, step=step: run.model(step)}
                rows += [about | row for row in trajectory(models, world, here, seed=seed)]
                advance(1)
    result = Result(
        kind="trajectory",
        command=command_line(),
        inputs={run.folder.as_posix(): run.sha256() for run in tuned},
        params={"runs": [run.name for run in tuned], "prompts": prompts, "seed": seed},
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
    columns = [
        "base",
        "set",
        "route",
        "prompt",
        "along_new",
        "along_old",
        "off_new",
        "probe_new",
        "probe_old",
    ]
    console.print(table("new cities at the end", columns, rows_of(ends, columns)))
    save_result(result, report or str(tuned[0].parent), "trajectory")


def steps_of(run: "Run", ends_only: bool) -> tuple[int, ...]:
    """The checkpoints to look at."""
    return (run.steps[0], run.steps[-1]) if ends_only else run.steps
