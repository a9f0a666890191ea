"""The parts of the zoo's report, for whatever models there are: `cwr-mech zoo analyse`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cwr_mech.training.runs import Run

COMMAND, REPORT = "cwr-mech zoo analyse", "zoo"
PATCHED, PATCH_PAIRS = "distance,angle,compass,perimeter", 48


def analyse(names: Sequence[str] | None = None) -> None:
    """Run the analyses that the report is made of (all, or the parts named), and write it.

    Each part is saved when it is done; a part that the models here do not allow yet is named and left out.
    Raises AnalysisError without models, UnknownName for another part.
    """
    import time

    from cwr_mech.errors import AnalysisError, UnknownName
    from cwr_mech.experiments.zoo import zoo_models
    from cwr_mech.findings.findings import write_findings
    from cwr_mech.report.write import write_report

    from .common import ZOO, duration, report_folder, say

    for name in names or ():
        if name not in PARTS:
            raise UnknownName("part", name, PARTS)
    found = zoo_models(ZOO)
    if not found:
        raise AnalysisError(f"there are no models in {ZOO}/", "add a finished run with: cwr-mech zoo add RUN")
    began = time.monotonic()
    for name in names or PARTS:
        start = time.monotonic()
        try:
            PARTS[name](found)
        except AnalysisError as error:
            say(f"{name} left out: {error.message}")
        say(f"{name:<12} {duration(time.monotonic() - start):>8}")
    folder = report_folder(REPORT)
    say(f"result  {write_findings(folder, COMMAND)}")
    say(f"report  {write_report(folder)}, {duration(time.monotonic() - began)} in all")


def overview(models: "list[Run]") -> None:
    """Section 1."""
    from cwr_mech.findings.zoo import models_result

    from .common import save_result

    save_result(models_result(models, COMMAND), REPORT, "models")


def maps(models: "list[Run]") -> None:
    """Activation files, and section 2."""
    from cwr_mech.findings.zoo import maps_result

    from . import cache_acts
    from .common import ACTIVATIONS, progress, save_result

    for model in models:
        cache_acts.command(model.name)
    with progress("probes", len(models), "models") as advance:
        save_result(maps_result(models, ACTIVATIONS, COMMAND, advance), REPORT, "maps")


def alike(models: "list[Run]") -> None:
    """Section 3, at the layer that corresponds to the paper's: the last block but one."""
    from cwr_mech.errors import AnalysisError
    from cwr_mech.findings.claims import MEASURES

    from . import analyses

    trained = [model.name for model in models if model.parent is None]
    if len(trained) < 2:
        raise AnalysisError("similarity needs two models that were trained from fresh weights")
    layer = str(max(0, models[0].config.model.n_layers - 2))
    analyses.run("cka", REPORT, runs=trained, layers=layer)
    analyses.run("similarity", REPORT, runs=trained, measures=",".join(MEASURES), layers=layer)


def taught(models: "list[Run]") -> None:
    """Section 4: the plain fine-tunings."""
    from cwr_mech.findings.zoo import transfer_result

    from .common import progress, save_result

    chosen = [model for model in tuned(models) if model.config.route.condition == "unprojected"]
    with progress("answering", len({model.parent for model in chosen}), "bases") as advance:
        save_result(transfer_result(chosen, untuned(models), COMMAND, advance), REPORT, "transfer")


def relation(models: "list[Run]") -> None:
    """Section 5, from the results of sections 3 and 4."""
    from cwr_mech.findings.claims import Saved
    from cwr_mech.findings.findings import sources
    from cwr_mech.findings.relation import relation_result

    from .common import report_folder, save_result

    results, inputs = sources(report_folder(REPORT), ("zoo", "similarity", "transfer"))
    save_result(relation_result(Saved(results), inputs, COMMAND), REPORT, "relation")


def places(models: "list[Run]") -> None:
    """Section 6: where fine-tunings and arms put new cities."""
    from cwr_mech.findings.zoo import places_result

    from .common import progress, save_result

    chosen = tuned(models)
    with progress("placing", len(chosen), "models") as advance:
        save_result(places_result(chosen, untuned(models), COMMAND, advance), REPORT, "trajectory")


def routes(models: "list[Run]") -> None:
    """Section 6: shares of updates in the map, and the verdicts."""
    from . import subspace
    from .common import report_folder
    from .routing import add_routing

    for base in all_tasks(models):
        subspace.command(base.name, report=REPORT)
    add_routing(report_folder(REPORT))


def followed(models: "list[Run]") -> None:
    """Section 6: what answers follow when a part of a city's state is swapped."""
    from . import patch

    bases = [base.name for base in all_tasks(models)]
    parts = "manifold,random"
    patch.command(bases, task=PATCHED, pairs=PATCH_PAIRS, subspace=parts, only_subspace=True, report=REPORT)


def foretold(models: "list[Run]") -> None:
    """Section 7."""
    from . import predict

    predict.command(all_tasks(models)[0].name, report=REPORT)


PARTS = {
    "models": overview,
    "maps": maps,
    "similarity": alike,
    "transfer": taught,
    "relation": relation,
    "places": places,
    "routing": routes,
    "patching": followed,
    "prediction": foretold,
}
"""The parts of the report in the order in which they need each other."""


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
