"""`cwr-mech zoo`: the trained models that ship with the repository."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cwr_mech.results import Result
    from cwr_mech.runs import Run

ACTIONS = ("list", "add", "check", "analyse")


def command(
    action: Annotated[
        str,
        typer.Argument(
            help="list; add RUN...; check: files unchanged, same answers; analyse: all into reports/zoo."
        ),
    ] = "list",
    names: Annotated[
        list[str] | None, typer.Argument(help="For add: finished runs. For check: models; all by default.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Add: another name than the run's.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Add: replace a model of the same name.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Check: files only, ask no questions.")] = False,
) -> None:
    """Trained models that ship with the repository. Every command takes zoo:NAME where it takes a run."""
    from cwr_mech.errors import ConfigError, UnknownName

    if action not in ACTIONS:
        raise UnknownName("action", action, ACTIONS)
    if action == "add":
        if not names:
            raise ConfigError("no run was named", "cwr-mech zoo add RUN...; cwr-mech runs lists them")
        if name and len(names) > 1:
            raise ConfigError(f"{len(names)} runs cannot all be named '{name}'", "add them one by one")
        add(names, name, force)
    elif action == "check":
        check(names, ask=not quick)
    elif action == "analyse":
        analyse()
    else:
        show()


def show() -> None:
    """List the models."""
    from cwr_mech.zoo import described, weight_bytes, zoo_models

    from .cache_acts import size_text
    from .common import ZOO, console, rows_of, say, table

    found = zoo_models(ZOO)
    if not found:
        say(f"no models in {ZOO}/ yet; add a finished run with: cwr-mech zoo add RUN")
        return
    columns = ["name", "tasks", "base", "steps", "dtype", "kB", "scores"]
    heads = [*columns[:-1], "test score (best constant)"]
    console.print(table("", heads, rows_of([described(run) for run in found], columns)))
    say(f"{len(found)} models, {size_text(sum(map(weight_bytes, found)))}")


def add(names: list[str], new_name: str | None, force: bool) -> None:
    """Add runs, and write the list of models into zoo/README.md."""
    from cwr_mech.runs import load_run
    from cwr_mech.zoo import add as add_model
    from cwr_mech.zoo import write_readme

    from .common import ZOO, resolve_run, say

    for run in [load_run(resolve_run(name)) for name in names]:
        model = add_model(run, ZOO, name=new_name, replace=force)
        about = model.manifest["zoo"]
        said = f"float16 changes {about['changed']} of {about['asked']} answers"
        say(f"added   {model.folder}  {about['dtype']} ({said})")
    say(f"list    {write_readme(ZOO)}")


def check(names: list[str] | None, ask: bool) -> None:
    """Check models. Raises CorruptArtifact when something is wrong with any."""
    from cwr_mech.errors import CorruptArtifact
    from cwr_mech.runs import load_run
    from cwr_mech.zoo import problems, zoo_models

    from .common import ZOO, resolve_run, say

    asked: list[Run] = [load_run(resolve_run(name)) for name in names] if names else zoo_models(ZOO)
    wrong = 0
    for model in asked:
        found = problems(model, ask=ask)
        wrong += bool(found)
        say(f"{model.name}: {'; '.join(found) or 'as added'}")
    if wrong:
        raise CorruptArtifact(
            f"{wrong} of {len(asked)} models are not as they were added", "git checkout zoo"
        )


def analyse() -> None:
    """Run the analyses that the report of the zoo is made of, for whatever models there are, and write it."""
    from cwr_mech.errors import AnalysisError
    from cwr_mech.findings import write_findings
    from cwr_mech.report import write_report
    from cwr_mech.zoo import models_result, zoo_models

    from . import cache_acts, cka, transfer
    from .common import ZOO, report_folder, save_result, say

    found = zoo_models(ZOO)
    if not found:
        raise AnalysisError(f"there are no models in {ZOO}/", "add a finished run with: cwr-mech zoo add RUN")
    save_result(models_result(found, COMMAND), REPORT, "models")
    for model in found:
        cache_acts.command(model.name)
    save_result(maps_result(found), REPORT, "maps")
    trained = [model for model in found if model.parent is None]
    tuned = [model.name for model in found if model.parent is not None]
    if len(trained) > 1:
        layer = max(0, trained[0].config.model.n_layers - 2)
        cka.command([model.name for model in trained], layers=str(layer), report=REPORT)
    if tuned:
        transfer.command(tuned, rows=200, report=REPORT)
    folder = report_folder(REPORT)
    say(f"result  {write_findings(folder, COMMAND)}")
    say(f"report  {write_report(folder)}")


COMMAND, REPORT = "cwr-mech zoo analyse", "zoo"


def maps_result(models: "list[Run]") -> "Result":
    """The result of kind "maps": probes of each model in the prompts of its own tasks, tables joined."""
    from cwr_mech.activations import ActivationStore, activations_path
    from cwr_mech.analysis.items import choose_hooks
    from cwr_mech.analysis.probe_survey import probe_result
    from cwr_mech.artifacts import sha256_file
    from cwr_mech.results import Result, Row

    from .common import ACTIVATIONS, progress

    layers: list[Row] = []
    new: list[Row] = []
    inputs, notes = {}, []
    prompts = [len(model.config.data.tasks) * (model.config.model.n_layers + 2) for model in models]
    with progress("probes", sum(prompts), "probes") as advance:
        for model in models:
            path = activations_path(model.name, model.last_step, ACTIVATIONS)
            store = ActivationStore(path, world=model.world(), model_sha256=model.sha256())
            tasks, hooks = list(model.config.data.tasks), choose_hooks(store, None)
            found = probe_result(store, hooks, tasks, ["last_digit+delimiter"], advance=advance)
            layers += found.tables["layers"]
            new += found.tables.get("new", [])
            inputs[path.as_posix()] = sha256_file(path)
            notes = [note for note in found.notes if "untrained" not in note]
    runs = [model.name for model in models]
    tables = {"layers": layers, "new": new}
    return Result("maps", COMMAND, inputs, {"runs": runs, "seed": 0}, tables=tables, notes=notes)
