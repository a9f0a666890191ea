"""What the report of the zoo is computed from: results about all its models together."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from cwr_mech.activations.reader import ActivationStore, activations_path, digests
from cwr_mech.analysis.probing.tables import probe_result
from cwr_mech.analysis.selection import choose_hooks
from cwr_mech.data.summary import gain
from cwr_mech.experiments.plans import find_plan
from cwr_mech.experiments.presets import nearest, preset
from cwr_mech.experiments.zoo import family
from cwr_mech.experiments.zoo_files import QUESTIONS, SEED
from cwr_mech.results import Result, Row
from cwr_mech.training.runs import Run

SITE = "last_digit+delimiter"
PLAN_OF = {"small": "zoo", "ripe": "ripe"}
"""Preset -> the plan of its models in the zoo."""


def models_result(models: Sequence[Run], command: str) -> Result:
    """The result of kind "zoo".

    Tables: `models` (with the hours that their training took, by the clock), `scores` (recorded when the
    models were added), `plan` (models of each kind in the plan that their preset was made for, and how many
    of them are here).
    """
    table: list[Row] = []
    scores: list[Row] = []
    plan = PLAN_OF.get(nearest(models[0].config) or "")
    for model in models:
        train, about = model.config.train, model.manifest["zoo"]
        row: Row = {"run": model.name, "tasks": "+".join(model.config.data.tasks), "base": model.parent}
        row |= {"route": model.config.route.name, "seed": train.seed}
        row |= {"family": family(model.config, model.parent is not None), "steps": model.last_step}
        spent = next((line["seconds"] for line in model.latest_metrics() if "seconds" in line), 0.0)
        row |= {"rows": model.last_step * train.batch_size, "hours": spent / 3600}
        table.append(row | {"dtype": about["dtype"]})
        for score in about["scores"]:
            value, constant = score["value_mean"], score["baseline"]
            scores.append(
                {column: score[column] for column in ("task", "group", "metric", "unit", "baseline")}
                | {"run": model.name, "value": value, "gain": gain(score["metric"], value, constant)}
                | {"trained": score["task"] in model.config.data.tasks}
            )
    return Result(
        kind="zoo",
        command=command,
        inputs={model.checkpoint().as_posix(): model.sha256() for model in models},
        params={"runs": [model.name for model in models], "questions": QUESTIONS, "seed": SEED}
        | {"plan": plan},
        values=_sizes(models),
        tables={"models": table, "scores": scores, "plan": plan_rows(table, plan) if plan else []},
        notes=[f"{QUESTIONS} test questions a task and group; new: at least one new city in the question."],
    )


def _sizes(models: Sequence[Run]) -> dict[str, int]:
    """World and model of the first run; how many pretrained models began with some of their tasks alone."""
    config, world = models[0].config, models[0].world()
    scratch = [model for model in models if model.parent is None]
    return {
        "n_cities": len(world.old()),
        "n_new": len(world.new()),
        "n_layers": config.model.n_layers,
        "d_model": config.model.d_model,
        "parameters": config.model.n_parameters,
        "first_tasks": sum(bool(model.config.data.first_tasks) for model in scratch),
    }


def plan_rows(models: Sequence[Row], name: str) -> list[Row]:
    """Models of each family in a plan, how many are there, and the hours that these took together."""
    plan = find_plan(name)
    planned = Counter(family(run.config, run.base is not None) for run in plan.runs(preset(plan.preset)))
    here = Counter(str(row["family"]) for row in models)
    hours: Counter[str] = Counter()
    for row in models:
        hours[str(row["family"])] += row["hours"]
    return [
        {"family": name, "planned": planned[name], "here": here[name], "hours": float(hours[name])}
        for name in planned | here
    ]


def maps_result(
    models: Sequence[Run], folder: Path, command: str, advance: Callable[[int], object] = lambda n: None
) -> Result:
    """The result of kind "maps": probes of each model's activation file in `folder`, in the prompts of its
    own tasks; tables `layers` and `new` as in `probe_result`. `advance(1)` is called after every model.
    """
    tables: dict[str, list[Row]] = {"layers": [], "new": []}
    inputs: dict[str, str] = {}
    notes: list[str] = []
    for model in models:
        path = activations_path(model.reference, model.last_step, folder)
        store = ActivationStore(path, world=model.world(), model_sha256=model.sha256())
        found = probe_result(store, choose_hooks(store, None), list(model.config.data.tasks), [SITE])
        kind = {"family": family(model.config, model.parent is not None)}
        for name, rows in tables.items():
            rows += [row | kind for row in found.tables.get(name, [])]
        inputs |= digests(store)
        notes = [note for note in found.notes if "untrained" not in note]
        advance(1)
    runs = [model.name for model in models]
    return Result("maps", command, inputs, {"runs": runs, "seed": 0}, tables=tables, notes=notes)
