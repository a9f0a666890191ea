"""`cwr-mech patch`: which activations carry a city from the question to the answer?"""

from typing import Annotated

import typer


def command(
    run: Annotated[str | None, typer.Argument(help="The run; the latest by default.")] = None,
    task: Annotated[str, typer.Option(help="Task, several by comma, or all.")] = "distance",
    components: Annotated[
        str, typer.Option(help="What is patched, by comma, e.g. resid_post,z,mlp_out; or all.")
    ] = "resid_post,attn_out,mlp_out,z",
    spans: Annotated[
        str, typer.Option(help="Where: default, positions, or spans such as swapped_last,equals.")
    ] = "default",
    pairs: Annotated[int, typer.Option(min=8, help="Pairs of questions.")] = 64,
    metric: Annotated[
        str, typer.Option(help="Scores, by comma: logit_diff, logprob_diff, kl, digits; the first leads.")
    ] = "logit_diff,logprob_diff",
    slot: Annotated[
        int | None, typer.Option(min=1, help="Swap only this city, from 1; any by default.")
    ] = None,
    group: Annotated[
        str, typer.Option(help="Cities asked about: old, or new (swapped for new ones).")
    ] = "old",
    tolerance: Annotated[
        float, typer.Option(min=0, help="A number is right within this share of the best constant's error.")
    ] = 0.25,
    seed: Annotated[int, typer.Option(min=0, help="Seed of pairs and resampling.")] = 42,
    step: Annotated[int | None, typer.Option(help="Checkpoint of the run; the last by default.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Rows of the table shown here; all are saved.")] = 12,
    report: Annotated[
        str | None, typer.Option(help="Report that gets the result; the run's name by default.")
    ] = None,
) -> None:
    """Swap one city for another inside the model, place by place, and see how far the answer follows: in both
    directions, beside an unrelated city, the run itself, and other controls.
    """
    from functools import partial

    from cwr_mech.analysis.pairs import find_pairs
    from cwr_mech.analysis.patch_cells import COMPONENTS, check_places, grid
    from cwr_mech.analysis.patch_metrics import check_metrics
    from cwr_mech.analysis.patch_survey import patch_result
    from cwr_mech.analysis.patching import ARMS, sweep
    from cwr_mech.generation import decode_text
    from cwr_mech.runs import load_run
    from cwr_mech.tasks import TASKS, get_task

    from .common import console, progress, resolve_run, rows_of, save_result, say, table
    from .stores import command_line, split

    source = load_run(resolve_run(run))
    model, world = source.model(step), source.world()
    checkpoint = source.checkpoint(step)
    for name in TASKS if task == "all" else split(task) or []:
        definition = get_task(name)
        metrics = check_metrics(split(metric) or [], definition.max_answer_tokens)
        places = check_places(split(spans) or [], name, world.config.id_digits)
        cells = grid(model.cfg, COMPONENTS if components == "all" else split(components) or [], places)
        answer = partial(decode_text, model, max_new_tokens=definition.max_answer_tokens)
        found = find_pairs(
            answer, world, name, pairs, seed=seed, group=group, tolerance=tolerance,
            slot=None if slot is None else slot - 1,
        )  # fmt: skip
        with progress(f"patch {name}", len(cells) * len(ARMS) * len(found), "patches") as advance:
            swept = sweep(model, found, cells, metrics=metrics, arms=ARMS, advance=advance)
        result = patch_result(
            swept,
            found,
            seed=seed,
            runs=[source.name],
            command=command_line(),
            inputs={checkpoint.as_posix(): source.sha256(step)},
            params={
                "group": group,
                "tolerance": tolerance,
                "step": source.last_step if step is None else step,
            },
        )
        rows = [
            row
            for row in result.tables["cells"]
            if row["metric"] == metrics[0] and row["recovered"] is not None
        ]
        rows.sort(key=lambda row: -abs(row["recovered"]))
        columns = ["direction", "component", "layer", "head", "span", "n", "effect", "recovered"]
        columns += ["ci_lo", "ci_hi", "null", "p_adj"]
        title = f"{name}: {len(found)} pairs, {len(cells)} cells, {metrics[0]}; largest shares recovered"
        console.print(table(title, columns, rows_of(rows[:top], columns)))
        for note in result.notes:
            say(note)
        save_result(result, report or source.name, f"patch-{name}")
