"""The zoo: small trained models that ship with the repository; three of them inside the wheel.

zoo/NAME/ is a run folder (`cwr_mech.training.runs`) with one checkpoint, so whatever reads a run reads it,
by the name `zoo:NAME`. Its manifest has one more entry, "zoo":

    source     name, step and weights' hash of the run it was made from
    dtype      "float16" where that changed no answer to the questions below, else "float32"
    differs    the first task and group of cities whose answers float16 would have changed, if any
    questions  how many for each task and group of cities, and their seed
    scores     a row for each task and group of cities (`cwr_mech.model.evaluation.TaskScore`)
    files      path -> sha256 of everything but the manifest
    licence    of the weights

answers.json.gz holds what the shipped weights answer to these questions, as text.
"""

from contextlib import suppress
from pathlib import Path

from cwr_mech.config import RunConfig
from cwr_mech.data.summary import gain
from cwr_mech.errors import UserError
from cwr_mech.experiments.finetuning import condition_of
from cwr_mech.results import Row
from cwr_mech.tasks.registry import PAPER_TASKS
from cwr_mech.training.folders import run_folders
from cwr_mech.training.folders import zoo_models as found_models
from cwr_mech.training.runs import Run, load_run


def zoo_models(root: Path | str | None = None) -> list[Run]:
    """All models in the zoo `root`, or on the search path (`cwr_mech.training.folders`): those of all tasks
    first, then by number of tasks, fine-tuned ones last. Folders that cannot be read are left out.
    """
    folders = found_models().values() if root is None else run_folders(root)
    found = []
    for folder in folders:
        with suppress(UserError):
            run = load_run(folder)
            found += [run] if run.from_zoo else []
    return sorted(found, key=lambda run: (run.parent is not None, -len(run.config.data.tasks), run.name))


def recorded_scores(model: Run, group: str) -> list[Row]:
    """Rows of `cwr_mech.model.evaluation.TaskScore`: the model's scores as they were when it was added."""
    return [score for score in model.manifest["zoo"]["scores"] if score["group"] == group]


def recorded_gains(model: Run) -> dict[str, float]:
    """Trained task -> share of the gap between the best constant answer and perfect ones, training cities."""
    return {
        score["task"]: gain(score["metric"], score["value_mean"], score["baseline"])
        for score in recorded_scores(model, "old")
        if score["task"] in model.config.data.tasks
    }


def folder_bytes(folder: Path) -> int:
    """Size of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def family(config: RunConfig, tuned: bool) -> str:
    """What kind of model it is: how many tasks, from fresh weights or `tuned`, and with what besides."""
    count = len(config.data.tasks)
    tasks = (
        "all seven tasks"
        if set(config.data.tasks) == set(PAPER_TASKS)
        else f"{count} task{'s' if count > 1 else ''}"
    )
    if not tuned:
        from_the_start = any(part.group == "all" for part in config.data.parts)
        return f"{tasks}, new cities in pretraining" if from_the_start else tasks
    elicitation, *update = condition_of(config).partition("elicitation ")[2].split(", ")
    rows = [] if elicitation == "none" else [f"elicitation {elicitation}"]
    return ", ".join([f"fine-tuned on {tasks}", *update, *rows])
