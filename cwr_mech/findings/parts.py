"""The parts of the zoo's reports, for whatever models there are: which study is asked of which of them."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from cwr_mech.analysis.locating.tables import LOCATED
from cwr_mech.errors import AnalysisError, one_of
from cwr_mech.experiments.finetuning import PLAIN, condition_of
from cwr_mech.experiments.presets import nearest
from cwr_mech.experiments.zoo import family
from cwr_mech.experiments.zoo_files import QUESTIONS
from cwr_mech.findings.conditions import DIVERGENT
from cwr_mech.findings.routing import CONVERGENT
from cwr_mech.findings.tables import MEASURES
from cwr_mech.tasks.registry import PAPER_TASKS
from cwr_mech.training.runs import Run

SIDES = ("distance", "compass", "angle")
PATCHED, PATCH_PAIRS = "distance,angle,compass,perimeter", 48
Models = Sequence[Run]


class Family(NamedTuple):
    """Models of one preset, which share a world; the reports about them, and the parts these are made of."""

    models: list[Run]
    maps: str
    routing: str
    parts: tuple[str, ...]


class Part(NamedTuple):
    """A study, by its command, of some models of a family, all together or `each` by itself, in a report (a
    field of Family). "models", "maps" and "curves" are no studies but results about all of them.
    """

    report: str
    study: str
    of: Callable[[Models], Models]
    options: Callable[[Models], Mapping[str, Any]] | Mapping[str, Any] = MappingProxyType({})
    each: bool = False


def families(models: Models, preset: str | None) -> list[Family]:
    """The models of every preset, or of the one named, that of most models first. Raises UnknownName."""
    made_by: dict[str, list[Run]] = defaultdict(list)
    for model in models:
        made_by[nearest(model.config) or "other"].append(model)
    chosen = (
        [one_of("preset of zoo models", preset, made_by)]
        if preset
        else sorted(made_by, key=lambda name: -len(made_by[name]))
    )
    usual = {name: (name, f"{name}-routing", tuple(PARTS)) for name in chosen}
    return [Family(made_by[name], *(usual | REPORTS)[name]) for name in chosen]


def chosen(models: Models, holds: Callable[[Run], bool], what: str) -> list[Run]:
    """The models for which something holds. Raises AnalysisError, which says `what` they are, for none."""
    found = [model for model in models if holds(model)]
    if not found:
        raise AnalysisError(f"there is no {what}")
    return found


def is_a(kind: str, model: Run) -> bool:
    """Whether a model was trained from fresh weights and is of a family (`cwr_mech.experiments.zoo`)."""
    return model.parent is None and family(model.config, False) == kind


def bases(models: Models) -> list[Run]:
    """Models of all tasks that have not seen the new cities."""
    return chosen(models, partial(is_a, "all seven tasks"), "model of all seven tasks")


def conditioned(models: Models) -> list[Run]:
    """Fine-tunings of the bases on one task, without elicitation rows, under every condition."""
    of = {base.name for base in bases(models)}
    return [
        model
        for model in chosen(models, lambda model: model.parent is not None, "fine-tuned model")
        if model.parent in of
        and len(model.config.data.tasks) == 1
        and "elicitation none" in condition_of(model.config)
    ]


def taught(models: Models) -> list[Run]:
    """Bases of which usual fine-tunings are here."""
    of = {model.parent for model in conditioned(models) if condition_of(model.config) == PLAIN}
    return chosen(bases(models), lambda base: base.name in of, "fine-tuning of a model of all seven tasks")


def plain(models: Models, tasks: Sequence[str]) -> list[Run]:
    """Of these the usual ones on some tasks: own rows and replay, nothing frozen or projected."""
    return [
        model
        for model in conditioned(models)
        if condition_of(model.config) == PLAIN and model.config.data.tasks[0] in tasks
    ]


def with_course(models: Models) -> list[Run]:
    """Of these the unprojected ones whose checkpoints are kept."""
    kept = [model for model in conditioned(models) if condition_of(model.config) == PLAIN]
    return chosen(kept, lambda model: len(model.steps) > 3, "model with more than its last checkpoint")


def fresh(models: Models) -> list[Run]:
    """Models that were trained from fresh weights, two at least."""
    found = [model for model in models if model.parent is None]
    if len(found) < 2:
        raise AnalysisError("similarity needs two models that were trained from fresh weights")
    return found


def alone(models: Models) -> list[Run]:
    """Models of one task alone."""
    fresh = [model for model in models if model.parent is None]
    return chosen(fresh, lambda model: len(model.config.data.tasks) == 1, "model of one task alone")


def unprojected(models: Models) -> list[Run]:
    """Fine-tunings without anything done to the gradient."""
    tuned = chosen(models, lambda model: model.parent is not None, "fine-tuned model")
    return [model for model in tuned if not model.config.route.changes]


def with_bases(models: Models) -> list[Run]:
    """Fine-tunings under every condition, after models of more than two tasks."""
    many = [model for model in models if model.parent is None and len(model.config.data.tasks) > 2]
    return [*many, *conditioned(models)]


def located(models: Models) -> list[Run]:
    """Bases, their fine-tunings on tasks whose answers place a city, models that had all cities."""
    tuned = [model for model in conditioned(models) if model.config.data.tasks[0] in LOCATED]
    told = [model for model in models if is_a("all seven tasks, new cities in pretraining", model)]
    return [*bases(models), *tuned, *told]


def similar(models: Models) -> dict[str, str]:
    """At the layer that corresponds to the paper's: the last block but one."""
    return {"measures": ",".join(MEASURES), "layers": str(max(0, models[0].config.model.n_layers - 2))}


def surfaced(models: Models) -> dict[str, str]:
    """There, too, in the prompts of all tasks that a model was trained on."""
    return {"prompts": "trained", "layers": similar(models)["layers"]}


RECORDED = {"rows": QUESTIONS}
"""Questions that were asked when a model was added to the zoo: they need no asking again."""
PARTS: Mapping[str, tuple[Part, ...]] = {
    "models": (Part("maps", "models", list),),
    "learning": (Part("maps", "curves", alone),),
    "maps": (Part("maps", "maps", list),),
    "decoded": (Part("maps", "places", bases, {"prompts": "all"}),),
    "surfaced": (Part("maps", "surfacing", fresh, surfaced),),
    "beforehand": (Part("maps", "predict", bases, each=True),),
    "similarity": (Part("maps", "similarity", fresh, similar),),
    "transfer": (Part("maps", "transfer", unprojected, RECORDED),),
    "course": (Part("maps", "course", with_course, {"places": True}),),
    "conditions": (
        Part("routing", "models", with_bases),
        Part("routing", "transfer", conditioned, RECORDED),
    ),
    "sites": (Part("routing", "sites", taught, {"tasks": PATCHED}, each=True),),
    "shares": (Part("routing", "subspace", taught, each=True),),
    "locate": (Part("routing", "locate", located, {"tasks": ",".join(LOCATED)}),),
    "places": (
        Part("routing", "trajectory", partial(plain, tasks=(DIVERGENT, *CONVERGENT)), {"prompts": "all"}),
    ),
    "gradients": (Part("routing", "conflict", taught, each=True),),
    "sides": (Part("routing", "anatomy", partial(plain, tasks=SIDES)),),
    "power": (Part("routing", "routing-power", partial(plain, tasks=PAPER_TASKS), {"task": "distance"}),),
    "patching": (Part("routing", "patch-parts", taught, {"tasks": PATCHED, "pairs": PATCH_PAIRS}),),
}
"""The parts of the reports in the order in which they need each other, those that take longest first."""
REPORTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "ripe": ("ripe", "routing", tuple(PARTS)),
    "small": ("zoo", "routing", ()),
}
"""Preset -> report about maps and what models teach, report about the routes of updates, and parts; others
have `PRESET` and `PRESET-routing`, and all parts. Models of `small` stop before they have learned most tasks
(reports/LOG.md): they are examples for tutorials and tests, and nothing is concluded from them.
"""
