"""`cwr-mech patch`: which activations carry a city from the question to the answer?"""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cwr_mech.analysis.patching import Cost
    from cwr_mech.model import HookedQwen2
    from cwr_mech.results import Result


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
    threads: Annotated[int, typer.Option(min=1, help="Processor threads; small models need only one.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a sweep that was stopped.")] = False,
    report: Annotated[
        str | None, typer.Option(help="Report that gets the result; the run's name by default.")
    ] = None,
) -> None:
    """Swap one city for another inside the model, place by place, and see how far the answer follows: in both
    directions, beside an unrelated city, the run itself, and other controls.
    """
    from functools import partial

    import torch

    from cwr_mech.analysis.pairs import find_pairs
    from cwr_mech.analysis.patch_cells import COMPONENTS, check_places, grid
    from cwr_mech.analysis.patch_metrics import check_metrics
    from cwr_mech.analysis.patch_store import SweepStore, sweep_key
    from cwr_mech.analysis.patch_survey import patch_result
    from cwr_mech.analysis.patching import ARMS, cost, sweep
    from cwr_mech.generation import decode_text
    from cwr_mech.runs import load_run
    from cwr_mech.tasks import TASKS, get_task

    from .common import progress, resolve_run, save_result
    from .stores import command_line, split

    torch.set_num_threads(threads)
    source = load_run(resolve_run(run))
    model, world, sha256 = source.model(step), source.world(), source.sha256(step)
    for name in TASKS if task == "all" else split(task) or []:
        definition = get_task(name)
        metrics = check_metrics(split(metric) or [], definition.max_answer_tokens)
        places = check_places(split(spans) or [], name, world.config.id_digits)
        cells = grid(model.cfg, COMPONENTS if components == "all" else split(components) or [], places)
        found = find_pairs(
            partial(decode_text, model, max_new_tokens=definition.max_answer_tokens),
            world,
            name,
            pairs,
            seed=seed,
            group=group,
            tolerance=tolerance,
            slot=None if slot is None else slot - 1,
        )
        work = cost(model, found, cells, metrics=metrics, arms=ARMS)
        show_cost(name, len(found), len(cells), work, model)
        store = SweepStore(
            source.folder / "sweeps" / f"patch-{name}",
            sweep_key(sha256, found, cells, metrics, [str(arm) for arm in ARMS]),
            resume=resume,
        )
        with progress(f"patch {name}", work.rows, "patches") as advance:
            swept = sweep(model, found, cells, metrics=metrics, arms=ARMS, store=store, advance=advance)
        result = patch_result(
            swept,
            found,
            seed=seed,
            runs=[source.name],
            command=command_line(),
            inputs={source.checkpoint(step).as_posix(): sha256},
            params={"group": group, "tolerance": tolerance, "step": step or source.last_step},
        )
        show(result, top)
        save_result(result, report or source.name, f"patch-{name}")
        store.remove()


def show_cost(task: str, n_pairs: int, n_cells: int, work: "Cost", model: "HookedQwen2") -> None:
    """Say what a sweep will take on this machine, measured by a few plain runs."""
    from .common import duration, say

    seconds = work.operations / speed(model)
    say(
        f"{task}: {n_cells} cells in {n_pairs} pairs are {work.rows:,} patched runs ({work.known:,} more are "
        f"known without running), about {duration(seconds)}, "
        f"{(work.record_bytes + work.budget) / 2**20:.0f} MB at most"
    )


def speed(model: "HookedQwen2") -> float:
    """Multiply-adds a second of this machine in plain runs of this model, the best of three."""
    import time

    import torch

    from cwr_mech.analysis.patch_forward import Forward, Tree

    forward, tokens = Forward(model), torch.zeros(128, 24, dtype=torch.int64, device=model.W_E.device)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        forward.record(tokens, Tree(24))
        times.append(time.perf_counter() - start)
    weights = sum(value.numel() for name, value in model.named_parameters() if name.startswith("blocks"))
    return weights * tokens.numel() / min(times)


def show(result: "Result", top: int) -> None:
    """Print the largest effects and what was found in words."""
    from .common import console, rows_of, say, table

    metric = result.params["metric"]
    rows = [r for r in result.tables["cells"] if r["metric"] == metric and r["recovered"] is not None]
    rows.sort(key=lambda row: -abs(row["recovered"]))
    columns = ["direction", "component", "layer", "head", "span", "n", "effect", "recovered"]
    columns += ["ci_lo", "ci_hi", "null", "p_adj"]
    title = f"{result.params['task']}: largest shares of the {metric} recovered, of {len(rows)} cells"
    console.print(table(title, columns, rows_of(rows[:top], columns)))
    for note in result.notes:
        say(note)
