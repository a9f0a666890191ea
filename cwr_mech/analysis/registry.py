"""Every analysis: one row each, from which its command, library function, report section and figures follow.

The function is `cwr_mech.analysis.PACKAGE.study.NAME` (hyphens become underscores); how its results are shown
stands in `cwr_mech.analysis.PACKAGE.show.SHOWS`. Rows are in the order of a report.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from cwr_mech.render.shown import Show, Shows


class Opt(NamedTuple):
    """An option of a study or a command: its help text, the least and the greatest number it takes, a short
    form such as -n beside --NAME, or all its forms where they are others (`flags`).

    metavar: what stands for its value in the help text. callback: looks at the value before the command does.
    show_default: the default in words.
    """

    help: str
    min: int | None = None
    short: str | None = None
    max: int | None = None
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    callback: Callable[..., Any] | None = None
    show_default: str | bool = True


class Analysis(NamedTuple):
    """A question that is asked of trained models.

    `by_run`: a report may hold one result for each run, so that their files are told apart by its name.
    """

    name: str
    package: str
    help: str
    by_run: bool = False

    @property
    def module(self) -> str:
        """Where the study stands."""
        return f"cwr_mech.analysis.{self.package}.study"

    @property
    def function_name(self) -> str:
        """Name of the study in its module and in `cwr_mech`."""
        return {"eval": "answers"}.get(self.name, self.name.replace("-", "_"))

    @property
    def function(self) -> Callable[..., Any]:
        """The study, imported when it is asked for."""
        found: Callable[..., Any] = getattr(import_module(self.module), self.function_name)
        return found


ANALYSES: tuple[Analysis, ...] = (
    Analysis("probe", "probing", "Linear probes for coordinates, with controls; do held-out cities decode?"),
    Analysis("places", "probing", "Decoded places of every city, by layer, prompt and checkpoint."),
    Analysis("readout", "probing", "Probe generalisation: other prompts, regions, few cities, nonlinearity."),
    Analysis("timeline", "manifold", "When the map forms, checkpoint by checkpoint."),
    Analysis("manifold", "manifold", "Is a city's error on-manifold or off-manifold?"),
    Analysis("surfacing", "probing", "Coordinate variance in the first components, by number of tasks."),
    Analysis("eval", "answers", "How well a model answers, beside a constant-prediction baseline."),
    Analysis("erase", "erasure", "Erase the coordinate subspace (LEACE) and measure each task's loss."),
    Analysis("cka", "similarity", "Representational similarity (CKA) between layers and models."),
    Analysis("similarity", "similarity", "Many similarity measures between models, with nulls and ceilings."),
    Analysis("sites", "patching", "Where does a task read a city? Found by interchange interventions.", True),
    Analysis("patch", "patching", "Activation patching: which states carry a city to the answer?"),
    Analysis("patch-tasks", "patching", "Patching, tasks beside each other: at which layers a city is held."),
    Analysis("patch-parts", "patching", "Which subspace of a city's state do answers read? With controls."),
    Analysis("locate", "locating", "Where do a model's own answers put a city, task by task?"),
    Analysis("anatomy", "anatomy", "Which part of an update carries what? Norms, ranks, grafts."),
    Analysis("course", "course", "What fine-tuning teaches, step by step and at matched competence."),
    Analysis("transfer", "transfer", "What fine-tuning on some tasks did to all of them."),
    Analysis("subspace", "routing", "Do updates of cities run on the manifold, or off it?", True),
    Analysis("conflict", "routing", "Do tasks pull the weights the same way?", True),
    Analysis("trajectory", "routing", "Where a fine-tuning puts new cities, step by step."),
    Analysis("routing-power", "routing", "Would the routing test see a hidden route? Planted codes."),
    Analysis("predict", "prediction", "Can divergence be told before training?", True),
)


def shows() -> Shows:
    """Kind of result -> how it is shown, over all analyses, in the order of a report."""
    packages = dict.fromkeys(row.package for row in ANALYSES)
    found: dict[str, Any] = {}
    for package in packages:
        found |= import_module(f"cwr_mech.analysis.{package}.show").SHOWS
    return found


def show_of_kind(kind: str) -> Show | None:
    """How one kind of result is shown; None for a kind of no analysis.

    Packages and studies named like the kind come first: to import them all takes as long as a short analysis.
    """
    alike = [row.package for row in ANALYSES if kind in (row.package, row.name.replace("-", "_"))]
    for package in dict.fromkeys([*alike, *(row.package for row in ANALYSES)]):
        found: Shows = import_module(f"cwr_mech.analysis.{package}.show").SHOWS
        if kind in found:
            return found[kind]
    return None
