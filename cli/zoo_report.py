"""The parts of the zoo's reports, for whatever models there are: `cwr-mech zoo analyse`."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from cwr_mech.training.runs import Run

COMMAND = "cwr-mech zoo analyse"
SIDES = ("distance", "compass", "angle")
PATCHED, PATCH_PAIRS = "distance,angle,compass,perimeter", 48


class Family(NamedTuple):
    """Models of one preset, which share a world, and the reports about them: one about maps and what models
    teach, one about the routes of updates.
    """

    models: "list[Run]"
    maps: str
    routing: str


def family_of(models: "Sequence[Run]", preset: str | None) -> Family:
    """The models of a preset, by default of that with most models. Raises UnknownName."""
    from collections import Counter

    from cwr_mech.errors import UnknownName
    from cwr_mech.experiments.presets import nearest

    made_by = {model.folder: nearest(model.config) or "other" for model in models}
    counts = Counter(made_by.values()).most_common()
    if preset is not None and preset not in dict(counts):
        raise UnknownName("preset of zoo models", preset, dict(counts))
    chosen = preset or counts[0][0]
    mine = [model for model in models if made_by[model.folder] == chosen]
    return Family(mine, "zoo", "routing") if chosen == "small" else Family(mine, chosen, f"{chosen}-routing")


def analyse(names: Sequence[str] | None = None, preset: str | None = None) -> None:
    """Run the analyses that the reports are made of (all, or the parts named), and write these.

    Models of one `preset` are analysed together, by default of that with most models.

    Each part is saved when it is done; a part that the models here do not allow yet is named and left out.
    Raises AnalysisError without models, UnknownName for another part.
    """
    import time

    from cwr_mech.errors import AnalysisError, UnknownName
    from cwr_mech.experiments.zoo import zoo_models
    from cwr_mech.findings.questions import write_findings
    from cwr_mech.report.write import write_report

    from .common import duration, report_folder, say
    from .zoo import NONE_HERE

    for name in names or ():
        if name not in PARTS:
            raise UnknownName("part", name, PARTS)
    found = zoo_models()
    if not found:
        raise AnalysisError(*NONE_HERE.split("; "))
    family = family_of(found, preset)
    began = time.monotonic()
    for name in names or PARTS:
        start = time.monotonic()
        try:
            PARTS[name].make(family)
        except AnalysisError as error:
            say(f"{name} left out: {error.message}")
        say(f"{name:<12} {duration(time.monotonic() - start):>8}")
    for report in dict.fromkeys(getattr(family, PARTS[name].report) for name in names or PARTS):
        folder = report_folder(report)
        say(f"result  {write_findings(folder, COMMAND)}")
        say(f"report  {write_report(folder)}, {duration(time.monotonic() - began)} in all")


def overview(family: Family) -> None:
    """All models: tasks, conditions, recorded scores."""
    models = family.models
    from cwr_mech.findings.zoo import models_result

    from .common import save_result

    save_result(models_result(models, COMMAND), family.maps, "models")


def maps(family: Family) -> None:
    """Activation files, and a linear probe in each model."""
    models = family.models
    from cwr_mech.findings.zoo import maps_result

    from . import cache_acts
    from .common import ACTIVATIONS, progress, save_result

    for model in models:
        cache_acts.command(model.name)
    with progress("probes", len(models), "models") as advance:
        save_result(maps_result(models, ACTIVATIONS, COMMAND, advance), family.maps, "maps")


def alike(family: Family) -> None:
    """Representational similarity at the layer that corresponds to the paper's: the last block but one."""
    models = family.models
    from cwr_mech.errors import AnalysisError
    from cwr_mech.findings.tables import MEASURES

    from . import analyses

    trained = [model.name for model in models if model.parent is None]
    if len(trained) < 2:
        raise AnalysisError("similarity needs two models that were trained from fresh weights")
    layer = str(max(0, models[0].config.model.n_layers - 2))
    analyses.run("similarity", family.maps, runs=trained, measures=",".join(MEASURES), layers=layer)


def taught(family: Family) -> None:
    """What unprojected fine-tunings teach, by recorded answers."""
    models = family.models
    _taught(models, [m for m in tuned(models) if m.config.route.condition == "unprojected"], family.maps)


def courses(family: Family) -> None:
    """Unprojected single-task fine-tunings at matched competence, where their checkpoints are kept."""
    models = family.models
    from cwr_mech.errors import AnalysisError
    from cwr_mech.experiments.finetuning import PLAIN, condition_of

    from . import analyses

    chosen = [
        model for model in conditioned(models) if condition_of(model.config) == PLAIN and len(model.steps) > 3
    ]
    if not chosen:
        raise AnalysisError("models of the zoo keep their last checkpoint alone")
    analyses.run("course", family.maps, runs=[model.name for model in chosen], places=True)


def conditions(family: Family) -> None:
    """What single-task fine-tunings teach under every condition of the gradient, by recorded answers."""
    models = family.models
    from cwr_mech.findings.zoo import models_result

    from .common import save_result

    chosen = conditioned(models)
    bases = [model for model in models if model.parent is None and len(model.config.data.tasks) > 2]
    save_result(models_result([*bases, *chosen], COMMAND), family.routing, "models")
    _taught(models, chosen, family.routing)


def _taught(models: "list[Run]", chosen: "list[Run]", report: str) -> None:
    from cwr_mech.findings.zoo import transfer_result

    from .common import progress, save_result

    with progress("answering", len({model.parent for model in chosen}), "bases") as advance:
        save_result(transfer_result(chosen, untuned(models), COMMAND, advance), report, "transfer")


def conditioned(models: "list[Run]") -> "list[Run]":
    """Fine-tunings of the bases on one task, without elicitation rows, under every condition.

    Raises AnalysisError when there is none.
    """
    bases = {base.name for base in all_tasks(models)}
    return [
        model
        for model in tuned(models)
        if model.parent in bases and len(model.config.data.tasks) == 1 and not elicited(model)
    ]


def elicited(model: "Run") -> bool:
    """Whether a fine-tuning set holds elicitation rows."""
    from cwr_mech.experiments.finetuning import condition_of

    return "elicitation none" not in condition_of(model.config)


def places(family: Family) -> None:
    """Where a probe finds new cities after fine-tunings under every condition."""
    models = family.models
    from cwr_mech.findings.zoo import places_result

    from .common import progress, save_result

    chosen = conditioned(models)
    with progress("placing", len(chosen), "models") as advance:
        save_result(places_result(chosen, untuned(models), COMMAND, advance), family.routing, "trajectory")


def sites(family: Family) -> None:
    """Where the bases read cities, by interchange interventions."""
    models = family.models
    from .analyses import run

    for base in all_tasks(models):
        run(
            "sites", family.routing, file=f"sites-{base.name.replace(':', '-')}", run=base.name, tasks=PATCHED
        )


def located(family: Family) -> None:
    """Where answers of the bases, of unprojected fine-tunings and of models that had all cities put new
    cities."""
    models = family.models
    from cwr_mech.findings.routing import LOCATED

    from . import analyses

    tuned_on = [
        model
        for model in conditioned(models)
        if model.config.route.condition == "unprojected" and set(model.config.data.tasks) <= set(LOCATED)
    ]
    told = [model for model in models if model.parent is None and has_new(model)]
    named = [model.folder.as_posix() for model in [*all_tasks(models), *tuned_on, *told]]
    analyses.run("locate", family.routing, runs=named, tasks=",".join(LOCATED))


def has_new(model: "Run") -> bool:
    """Whether a model was trained on all tasks with the held-out cities from the start."""
    from cwr_mech.experiments.zoo import family

    return family(model.config, False) == "all seven tasks, new cities in pretraining"


def shares(family: Family) -> None:
    """How much of updates lies in the manifold's span, base by base."""
    models = family.models
    from . import subspace

    for base in all_tasks(models):
        subspace.command(base.name, report=family.routing)


def sides(family: Family) -> None:
    """Which side of the network carries what single-task fine-tunings teach."""
    models = family.models
    from cwr_mech.analysis.anatomy.study import anatomy
    from cwr_mech.analysis.study import followed_by
    from cwr_mech.experiments.finetuning import PLAIN, condition_of

    from .common import progress, save_result

    chosen = [
        model.name
        for model in conditioned(models)
        if model.config.data.tasks[0] in SIDES and condition_of(model.config) == PLAIN
    ]
    with followed_by(progress):
        save_result(anatomy(chosen), family.routing, "anatomy")


def power(family: Family) -> None:
    """Whether the routing test would see a hidden route: planted codes."""
    models = family.models
    from cwr_mech.analysis.routing.study import routing_power
    from cwr_mech.analysis.study import followed_by

    from .common import progress, save_result

    with followed_by(progress):
        save_result(
            routing_power([model.name for model in conditioned(models)]), family.routing, "routing_power"
        )


def followed(family: Family) -> None:
    """What answers follow when a part of a city's state is interchanged."""
    models = family.models
    from .analyses import run

    bases = [base.name for base in all_tasks(models)]
    run("patch-parts", family.routing, runs=bases, tasks=PATCHED, pairs=PATCH_PAIRS)


class Part(NamedTuple):
    """A part of a report (a field of Family), and what makes it."""

    report: str
    make: "Callable[[Family], None]"


PARTS = {
    "models": Part("maps", overview),
    "maps": Part("maps", maps),
    "similarity": Part("maps", alike),
    "transfer": Part("maps", taught),
    "course": Part("maps", courses),
    "conditions": Part("routing", conditions),
    "sites": Part("routing", sites),
    "locate": Part("routing", located),
    "places": Part("routing", places),
    "shares": Part("routing", shares),
    "sides": Part("routing", sides),
    "power": Part("routing", power),
    "patching": Part("routing", followed),
}
"""The parts of the reports in the order in which they need each other."""


def tuned(models: "list[Run]") -> "list[Run]":
    """The fine-tuned ones. Raises AnalysisError when there is none."""
    from cwr_mech.errors import AnalysisError

    found = [model for model in models if model.parent is not None]
    if not found:
        raise AnalysisError("there is no fine-tuned model")
    return found


def untuned(models: "list[Run]") -> "dict[str, Run]":
    """The models trained from fresh weights, by name."""
    return {model.name: model for model in models if model.parent is None}


def all_tasks(models: "list[Run]") -> "list[Run]":
    """The bases: models of all tasks that have not seen the new cities. Raises AnalysisError without any."""
    from cwr_mech.errors import AnalysisError
    from cwr_mech.experiments.zoo import family

    found = [model for model in models if family(model.config, model.parent is not None) == "all seven tasks"]
    if not found:
        raise AnalysisError("there is no model of all seven tasks")
    return found
