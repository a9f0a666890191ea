"""The parts of the zoo's reports, for whatever models there are: `cwr-mech zoo analyse`."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from cwr_mech.training.runs import Run

COMMAND = "cwr-mech zoo analyse"
SIDES = ("distance", "compass", "angle")
PATCHED, PATCH_PAIRS = "distance,angle,compass,perimeter", 48
QUESTIONS = 200
"""Questions a task and group that were asked when a model was added to the zoo: they need no asking again."""


class Family(NamedTuple):
    """Models of one preset, which share a world; the reports about them, and the parts these are made of."""

    models: "list[Run]"
    maps: str
    routing: str
    parts: tuple[str, ...]


def families(models: "Sequence[Run]", preset: str | None) -> list[Family]:
    """The models of every preset, or of the one named, that of most models first. Raises UnknownName."""
    from collections import defaultdict

    from cwr_mech.errors import UnknownName
    from cwr_mech.experiments.presets import nearest

    made_by: dict[str, list[Run]] = defaultdict(list)
    for model in models:
        made_by[nearest(model.config) or "other"].append(model)
    if preset is not None and preset not in made_by:
        raise UnknownName("preset of zoo models", preset, made_by)
    chosen = [preset] if preset else sorted(made_by, key=lambda name: -len(made_by[name]))
    usual = {name: (name, f"{name}-routing", tuple(PARTS)) for name in chosen}
    return [Family(made_by[name], *(usual | REPORTS)[name]) for name in chosen]


def analyse(names: Sequence[str] | None = None, preset: str | None = None, log: str | None = None) -> None:
    """Run the analyses that the reports are made of (all, or the parts named), and write these.

    Models of one preset share a world and are analysed together; `preset` names the only one wanted. `log`
    names a tracker that gets the reports' results and figures.

    Each part is saved when it is done; a part that the models here do not allow yet is named and left out.
    Raises AnalysisError without models, UnknownName for another part.
    """
    from cwr_mech.errors import AnalysisError, UnknownName
    from cwr_mech.experiments.zoo import zoo_models

    from .common import check_log
    from .zoo import NONE_HERE

    check_log(log)

    for name in names or ():
        if name not in PARTS:
            raise UnknownName("part", name, PARTS)
    found = zoo_models()
    if not found:
        raise AnalysisError(*NONE_HERE.split("; "))
    for family in families(found, preset):
        wanted = [name for name in family.parts if names is None or name in names]
        if wanted:
            _analyse(family, wanted, log)


def _analyse(family: Family, names: Sequence[str], log: str | None) -> None:
    """These parts of the reports about a family."""
    import time

    from cwr_mech.errors import AnalysisError
    from cwr_mech.findings.questions import write_findings
    from cwr_mech.report.write import write_report

    from .common import duration, log_report, report_folder, say

    began = time.monotonic()
    reports = dict.fromkeys(getattr(family, PARTS[name].report) for name in names)
    say(f"{len(family.models)} models into reports {', '.join(reports)}")
    for name in names:
        start = time.monotonic()
        try:
            PARTS[name].make(family.models, getattr(family, PARTS[name].report))
        except AnalysisError as error:
            say(f"{name} left out: {error.message}")
        say(f"{name:<12} {duration(time.monotonic() - start):>8}")
    for report in reports:
        folder = report_folder(report)
        try:
            say(f"result  {write_findings(folder, COMMAND)}")
        except AnalysisError as error:
            say(f"findings left out: {error.message}")
        say(f"report  {write_report(folder)}, {duration(time.monotonic() - began)} in all")
        if log:
            log_report(log, folder)


def study(name: str, report: str, models: "Sequence[Run]", **options: Any) -> None:
    """Run the study of a command on these models and save its result, made by `zoo analyse`, in a report."""
    from . import analyses

    analyses.run(name, report, said=COMMAND, runs=[model.folder.as_posix() for model in models], **options)


def each(name: str, report: str, models: "Sequence[Run]", **options: Any) -> None:
    """Run a study of single models on each of these."""
    from . import analyses

    for model in models:
        analyses.run(name, report, said=COMMAND, run=model.folder.as_posix(), **options)


def overview(models: "Sequence[Run]", report: str) -> None:
    """All models: tasks, conditions, recorded scores."""
    from cwr_mech.findings.zoo import models_result

    from .common import save_result

    save_result(models_result(models, COMMAND), report, "models")


def maps(models: "list[Run]", report: str) -> None:
    """Activation files, and a linear probe in each model."""
    from cwr_mech.findings.zoo import maps_result

    from . import cache_acts
    from .common import ACTIVATIONS, progress, save_result

    for model in models:
        cache_acts.command(model.name)
    with progress("probes", len(models), "models") as advance:
        save_result(maps_result(models, ACTIVATIONS, COMMAND, advance), report, "maps")


def learning(models: "list[Run]", report: str) -> None:
    """Learning curves of the models of one task alone, and when each was learned."""
    from cwr_mech.analysis.answers.curves import curves_result
    from cwr_mech.errors import AnalysisError

    from .common import save_result

    alone = [model for model in models if model.parent is None and len(model.config.data.tasks) == 1]
    if not alone:
        raise AnalysisError("there is no model of one task alone")
    save_result(curves_result(alone, COMMAND), report, "curves")


def decoded(models: "list[Run]", report: str) -> None:
    """Places decoded from the bases at every layer and prompt: the map in motion of `report --html`."""
    study("places", report, all_tasks(models), prompts="all")


def alike(models: "list[Run]", report: str) -> None:
    """Representational similarity at the layer that corresponds to the paper's: the last block but one."""
    from cwr_mech.errors import AnalysisError
    from cwr_mech.findings.tables import MEASURES

    trained = [model for model in models if model.parent is None]
    if len(trained) < 2:
        raise AnalysisError("similarity needs two models that were trained from fresh weights")
    layer = str(max(0, models[0].config.model.n_layers - 2))
    study("similarity", report, trained, measures=",".join(MEASURES), layers=layer)


def taught(models: "list[Run]", report: str) -> None:
    """What unprojected fine-tunings teach, by recorded answers."""
    study("transfer", report, [model for model in tuned(models) if unprojected(model)], rows=QUESTIONS)


def courses(models: "list[Run]", report: str) -> None:
    """Unprojected single-task fine-tunings at matched competence, where their checkpoints are kept."""
    from cwr_mech.errors import AnalysisError

    chosen = [model for model in conditioned(models) if plain(model) and len(model.steps) > 3]
    if not chosen:
        raise AnalysisError("models of the zoo keep their last checkpoint alone")
    study("course", report, chosen, places=True)


def conditions(models: "list[Run]", report: str) -> None:
    """What single-task fine-tunings teach under every condition of the gradient, by recorded answers."""
    chosen = conditioned(models)
    bases = [model for model in models if model.parent is None and len(model.config.data.tasks) > 2]
    overview([*bases, *chosen], report)
    study("transfer", report, chosen, rows=QUESTIONS)


def located(models: "list[Run]", report: str) -> None:
    """Where answers put new cities: of the bases, of their fine-tunings under every condition, and of models
    that had all cities."""
    from cwr_mech.analysis.locating.tables import LOCATED

    tuned_on = [model for model in conditioned(models) if set(model.config.data.tasks) <= set(LOCATED)]
    told = [model for model in models if model.parent is None and has_new(model)]
    study("locate", report, [*all_tasks(models), *tuned_on, *told], tasks=",".join(LOCATED))


def trajectories(models: "list[Run]", report: str) -> None:
    """Where fine-tuning on the tasks that claims about shares compare moves new cities."""
    from cwr_mech.findings.routing import CONVERGENT, DIVERGENT

    compared = {DIVERGENT, *CONVERGENT}
    chosen = [
        model for model in conditioned(models) if plain(model) and {*model.config.data.tasks} <= compared
    ]
    study("trajectory", report, chosen, prompts="all")


def sides(models: "list[Run]", report: str) -> None:
    """Which side of the network carries what single-task fine-tunings teach."""
    chosen = [model for model in conditioned(models) if model.config.data.tasks[0] in SIDES and plain(model)]
    study("anatomy", report, chosen)


def power(models: "list[Run]", report: str) -> None:
    """Whether the routing test would see a hidden route: planted codes."""
    study("routing-power", report, conditioned(models), task="distance")


def parts(models: "list[Run]", report: str) -> None:
    """What answers follow when a part of a city's state is interchanged."""
    study("patch-parts", report, all_tasks(models), tasks=PATCHED, pairs=PATCH_PAIRS)


class Part(NamedTuple):
    """A part of a report (a field of Family), and what makes it of models, for a report."""

    report: str
    make: "Callable[[list[Run], str], None]"


PARTS = {
    "models": Part("maps", overview),
    "learning": Part("maps", learning),
    "maps": Part("maps", maps),
    "decoded": Part("maps", decoded),
    "similarity": Part("maps", alike),
    "transfer": Part("maps", taught),
    "course": Part("maps", courses),
    "conditions": Part("routing", conditions),
    "sites": Part("routing", lambda models, to: each("sites", to, all_tasks(models), tasks=PATCHED)),
    "locate": Part("routing", located),
    "places": Part("routing", trajectories),
    "shares": Part("routing", lambda models, to: each("subspace", to, all_tasks(models))),
    "gradients": Part("routing", lambda models, to: each("conflict", to, all_tasks(models))),
    "sides": Part("routing", sides),
    "power": Part("routing", power),
    "patching": Part("routing", parts),
}
"""The parts of the reports in the order in which they need each other."""

REPORTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "ripe": ("ripe", "routing", tuple(PARTS)),
    "small": ("zoo", "routing", ()),
}
"""Preset -> report about maps and what models teach, report about the routes of updates, and parts; others
have `PRESET` and `PRESET-routing`, and all parts. Models of `small` stop before they have learned most tasks
(reports/LOG.md): they are examples for tutorials and tests, and nothing is concluded from them.
"""


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


def plain(model: "Run") -> bool:
    """Whether a model was fine-tuned as usual: its own rows and replay, nothing frozen or projected."""
    from cwr_mech.experiments.finetuning import PLAIN, condition_of

    return condition_of(model.config) == PLAIN


def unprojected(model: "Run") -> bool:
    """Whether a model was fine-tuned without anything done to its gradient."""
    return bool(model.config.route.condition == "unprojected")


def elicited(model: "Run") -> bool:
    """Whether a fine-tuning set holds elicitation rows."""
    from cwr_mech.experiments.finetuning import condition_of

    return "elicitation none" not in condition_of(model.config)


def has_new(model: "Run") -> bool:
    """Whether a model was trained on all tasks with the held-out cities from the start."""
    from cwr_mech.experiments.zoo import family

    return family(model.config, False) == "all seven tasks, new cities in pretraining"


def tuned(models: "list[Run]") -> "list[Run]":
    """The fine-tuned ones. Raises AnalysisError when there is none."""
    from cwr_mech.errors import AnalysisError

    found = [model for model in models if model.parent is not None]
    if not found:
        raise AnalysisError("there is no fine-tuned model")
    return found


def all_tasks(models: "list[Run]") -> "list[Run]":
    """The bases: models of all tasks that have not seen the new cities. Raises AnalysisError without any."""
    from cwr_mech.errors import AnalysisError
    from cwr_mech.experiments.zoo import family

    found = [model for model in models if family(model.config, model.parent is not None) == "all seven tasks"]
    if not found:
        raise AnalysisError("there is no model of all seven tasks")
    return found
