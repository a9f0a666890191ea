"""`cwr-mech probe`: is there a map, where in the model, and do new cities lie on it?"""

from typing import Annotated, Literal

import typer

from .options import ActivationFile, Folds, Layers, ProbeSeed, Report, Run, Step


def command(
    run: Run = None,
    layers: Layers = None,
    prompts: Annotated[str, typer.Option(help="Prompts: all, own, or tasks by name.")] = "all",
    sites: Annotated[
        str, typer.Option(help="Where a city is read, comma-separated; a+b puts two side by side.")
    ] = "last_digit+delimiter",
    method: Annotated[Literal["ridge", "ols"], typer.Option(help="ridge, or ols as in the paper.")] = "ridge",
    folds: Folds = 5,
    draws: Annotated[int, typer.Option(min=1, help="Shuffled-label controls for each probe.")] = 10,
    seed: ProbeSeed = 0,
    step: Step = None,
    activations: ActivationFile = None,
    report: Report = None,
) -> None:
    """Linear probes from activations to the map for every layer and prompt, scored on held-out cities, with
    shuffled, random, token-only and untrained controls; new cities decoded by a probe fitted on old ones.
    """
    from cwr_mech.analysis.probing.readout_survey import best_places, readout_result
    from cwr_mech.analysis.probing.study import probe_result
    from cwr_mech.analysis.selection import choose_hooks

    from .common import console, progress, rows_of, save_result, say, table
    from .stores import command_line, hashes, open_sources, open_untrained, prompts_of, split

    source = open_sources([run] if run else None, [activations] if activations else None, step)[0]
    hooks = choose_hooks(source.store, split(layers))
    tasks, places = prompts_of(source, split(prompts)), split(sites) or []
    with progress("probes", len(hooks) * len(tasks) * len(places), "probes") as advance:
        result = probe_result(
            source.store,
            hooks,
            tasks,
            places,
            untrained=open_untrained(source),
            method=method,
            folds=folds,
            draws=draws,
            seed=seed,
            command=command_line(),
            inputs=hashes([source]),
            advance=advance,
        )
    best: dict[str, dict[str, object]] = {}
    for row in result.tables["layers"]:
        if row["task"] not in best or row["r2"] > best[row["task"]]["r2"]:
            best[row["task"]] = row
    columns = ["task", "layer", "r2", "lo", "hi", "error_mean", "error_median"]
    columns += ["control_r2_shuffled", "control_r2_digits", "control_r2_untrained"]
    heads = [c.removeprefix("control_r2_") for c in columns]
    console.print(
        table("best layer for each prompt, held-out cities", heads, rows_of(list(best.values()), columns))
    )
    if "new" in result.tables:
        at_best = {(row["task"], row["layer"]) for row in best.values()}
        rows = [row for row in result.tables["new"] if (row["task"], row["layer"]) in at_best]
        columns = ["task", "layer", "n_new", "error_mean", "error_median", "error_old"]
        console.print(table("new cities, by a probe fitted on old ones", columns, rows_of(rows, columns)))
    for note in result.notes:
        say(note)
    save_result(result, report or source.run, "probe")
    say("what one score hides: other prompts, whole regions, few cities, a nonlinear probe, code length")
    readout = readout_result(
        source.store,
        best_places(result.tables["layers"]),
        folds=folds,
        seed=seed,
        command=command_line(),
        inputs=hashes([source]),
    )
    columns = ["task", "layer", "r2", "r2_ols", "r2_nonlinear", "r2_regions_held_out"]
    columns += ["bits", "bits_shuffled"]
    heads = [column.removeprefix("r2_") for column in columns]
    console.print(table("read-outs", heads, rows_of(readout.tables["prompts"], columns)))
    save_result(readout, report or source.run, "readout")
