"""`cwr-mech zoo`: the trained models that ship with the repository."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cwr_mech.analysis.registry import Opt
from cwr_mech.analysis.study import names as parts
from cwr_mech.errors import ArtifactError, ConfigError, CorruptArtifact, MissingArtifact, one_of
from cwr_mech.render.numbers import number
from cwr_mech.training.folders import OTHER_MODELS, SHIPPED, own_zoo

from .common import say, show_table, size_text
from .options import LogResult

if TYPE_CHECKING:
    from cwr_mech.training.runs import Run

ACTIONS = ("list", "add", "check", "analyse")
NONE_HERE = "no models of the zoo are found here; add a finished run with: cwr-mech zoo add RUN"


def command(
    action: Annotated[
        str, Opt("list; add RUN...; check: files unchanged, same answers; analyse: into reports.")
    ] = "list",
    names: Annotated[
        list[str] | None, Opt("For add: finished runs. For check: models; all by default.")
    ] = None,
    *,
    name: Annotated[str | None, Opt("Add: another name than the run's.")] = None,
    force: Annotated[bool, Opt("Add: replace a model of the same name.")] = False,
    half: Annotated[bool, Opt("Add: keep float16 weights even where that changes answers.")] = False,
    quick: Annotated[bool, Opt("Check: files only, ask no questions.")] = False,
    part: Annotated[
        str | None, Opt("Analyse: only these parts, by comma; models, maps, ... in turn.")
    ] = None,
    preset: Annotated[
        str | None, Opt("Analyse: the models of this preset only; by default those of every preset.")
    ] = None,
    processes: Annotated[
        int | None, Opt("Analyse: parts side by side; one a processor by default.", min=1, short="-j")
    ] = None,
    log: LogResult = None,
) -> None:
    """Trained models that ship with the repository. Every command takes zoo:NAME where it takes a run."""
    one_of("action", action, ACTIONS)
    if action == "add":
        if not names:
            raise ConfigError("no run was named", "cwr-mech zoo add RUN...; cwr-mech runs lists them")
        if name and len(names) > 1:
            raise ConfigError(f"{len(names)} runs cannot all be named '{name}'", "add them one by one")
        add(names, name, force, half)
    elif action == "check":
        check(names, ask=not quick)
    elif action == "analyse":
        from .zoo_report import analyse

        analyse(parts(part), preset, log, processes)
    else:
        show()


def show() -> None:
    """List the models, family by family."""
    from cwr_mech.experiments.zoo import models_and_faults
    from cwr_mech.findings.models import described

    models, faults = models_and_faults()
    rows = [described(run) for run in models]
    for folder, why in faults.items():
        say(f"{folder}: {why}")
    if not rows:
        say(NONE_HERE)
        return
    families: dict[str, list[list[object]]] = {}
    for row in rows:
        least = f"{row['least']} {number(row['least_learned'])}"
        cells = [row["name"], row["steps"], row["learned"], least]
        families.setdefault(row["family"], []).append(cells)
    for family, members in families.items():
        show_table(family, ["model", "steps", "learned", "least of its tasks"], members)
    say(f"{len(rows)} models, {size_text(1000 * sum(row['kB'] for row in rows))}")
    if len(rows) <= len(SHIPPED):
        say(OTHER_MODELS)
    say("learned: share of the gap between the best constant answer and perfect ones, mean over its tasks")
    if not faults:  # else the list would lose what can be restored
        mend(models)


def mend(models: Sequence["Run"]) -> None:
    """Write the list in zoo/README.md anew, where an adding that was stopped left an old one."""
    from cwr_mech.findings.models import mend_readme

    try:
        path = mend_readme(own_zoo(), models)
    except ArtifactError as error:  # a list is shown and models are checked where nothing can be written, too
        say(f"the list of models is an old one: {error}")
    else:
        if path is not None:
            say(f"list    {path}, which was an old one")


def add(names: list[str], new_name: str | None, force: bool, half: bool) -> None:
    """Add runs, and write the list of models into zoo/README.md."""
    from cwr_mech.training.runs import load_run

    root, runs = own_zoo(), [load_run(name) for name in names]
    from cwr_mech.experiments.zoo_files import add as add_model
    from cwr_mech.findings.models import write_readme

    for run in runs:
        model = add_model(run, root, name=new_name, replace=force, halve=half)
        about = model.manifest["zoo"]
        would, changed = "changed" if about["dtype"] == "float16" else "would change", about["changed"]
        said = f": float16 {would} {changed} of {about['asked']:,} answers" if changed else ""
        say(f"added   {model.folder}  {about['dtype']}{said}")
    say(f"list    {write_readme(root)}")


def check(names: list[str] | None, ask: bool) -> None:
    """Check models. Raises CorruptArtifact when something is wrong with any."""
    from cwr_mech.experiments.zoo import models_and_faults
    from cwr_mech.training.runs import load_run

    given = [f"zoo:{name.removeprefix('zoo:')}" for name in names or ()]
    models, faults = models_and_faults()
    asked: list[Run] = [load_run(name) for name in given] if given else models
    if not asked and not faults:
        raise MissingArtifact(*NONE_HERE.split("; "))
    from cwr_mech.experiments.zoo_files import problems

    damaged = {} if given else faults
    for folder, why in damaged.items():
        say(f"{folder}: {why}")
    wrong = len(damaged)
    for model in asked:
        found = problems(model, ask=ask)
        wrong += bool(found)
        say(f"{model.name}: {'; '.join(found) or 'as added'}")
    if not faults:
        mend(models)
    if wrong:
        raise CorruptArtifact(
            f"{wrong} of {len(asked) + len(damaged)} models are not as they were added", "git checkout zoo"
        )
