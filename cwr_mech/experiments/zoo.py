"""The zoo: small trained models that ship with the repository; a few of them inside the wheel.

zoo/NAME/ is a run folder (`cwr_mech.training.runs`) with one checkpoint, so whatever reads a run reads it,
by the name `zoo:NAME`. Its manifest has one more entry, "zoo":

    source     name, step and weights' hash of the run it was made from
    dtype      "float16" where that changed no answer to the questions below or was asked for, else "float32"
    changed    how many answers float16 changes, or would have changed
    questions  how many for each task and group of cities, and their seed
    scores     a row for each task and group of cities (`cwr_mech.model.evaluation.TaskScore`)
    files      path -> sha256 of everything but the manifest
    licence    of the weights

answers.json.gz holds what the shipped weights answer to these questions, as text.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cwr_mech.artifacts import PART
from cwr_mech.config import RunConfig
from cwr_mech.data.summary import gain
from cwr_mech.errors import CorruptArtifact, UserError
from cwr_mech.experiments.finetuning import condition_of, noise_of
from cwr_mech.results import Row
from cwr_mech.tasks.registry import PAPER_TASKS
from cwr_mech.training.folders import holds_run, run_folders, zoo_folders
from cwr_mech.training.folders import zoo_models as found_models
from cwr_mech.training.runs import Run, load_run


class _Part(BaseModel):
    """A part of the entry "zoo"; what only its reader needs is left to that."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class _Score(_Part):
    task: str
    group: str
    metric: Literal["error", "accuracy"]
    value_mean: float
    baseline: float


class _Source(_Part):
    sha256: str


class _Questions(_Part):
    n: int = Field(ge=1, le=100_000)
    seed: int
    split: str


class _Entry(_Part):
    source: _Source
    dtype: str
    asked: int
    questions: _Questions
    scores: list[_Score]
    files: dict[str, str]


def check_entry(model: Run) -> None:
    """Raises CorruptArtifact where a manifest's entry "zoo" lacks something, and what `last_step` raises."""
    place = model.folder / "manifest.json"
    try:
        _Entry.model_validate(model.manifest["zoo"])
    except ValidationError as error:
        where = ".".join(str(key) for key in ("zoo", *error.errors()[0]["loc"]))
        raise CorruptArtifact(f"{place} is broken at '{where}'", "git checkout zoo") from error
    if not recorded_gains(model):
        raise CorruptArtifact(f"{place} holds no score of a trained task", "git checkout zoo")
    model.last_step  # noqa: B018


def models_and_faults(root: Path | str | None = None) -> tuple[list[Run], dict[Path, str]]:
    """All models in the zoo `root`, or on the search path (`cwr_mech.training.folders`): those of all tasks
    first, then by number of tasks, fine-tuned ones last; and what is wrong with folders that cannot be read.
    """
    found, faults = [], {}
    for folder in found_models().values() if root is None else run_folders(root):
        try:
            run = load_run(folder)
            if run.from_zoo:
                check_entry(run)
                found.append(run)
        except UserError as error:
            faults[folder] = error.message
    for place in zoo_folders() if root is None else [Path(root)]:
        for checkpoints in sorted(place.glob("*/checkpoints")):
            folder = checkpoints.parent
            if PART not in folder.name and not holds_run(folder):
                faults[folder] = "there are checkpoints and no manifest.json"
    found.sort(key=lambda run: (run.parent is not None, -len(run.config.data.tasks), run.name))
    return found, faults


def zoo_models(root: Path | str | None = None) -> list[Run]:
    """The models of `models_and_faults`."""
    return models_and_faults(root)[0]


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
        return tasks + (", new cities in pretraining" if from_the_start else "") + noise_of(config)
    replay, elicitation, *update = condition_of(config).split(", ")
    rows = [] if elicitation == "elicitation none" else [elicitation]
    again = [] if replay == "replay trained" else [replay]
    return ", ".join([f"fine-tuned on {tasks}", *again, *update, *rows])
