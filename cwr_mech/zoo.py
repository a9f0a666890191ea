"""The zoo: small trained models that ship with the repository.

zoo/NAME/ is a run folder (`cwr_mech.runs`) with one checkpoint, so whatever reads a run reads it, by the name
`zoo:NAME`. Its manifest has one more entry, "zoo":

    source     name, step and weights' hash of the run it was made from
    dtype      "float16" where that changed no answer to the questions below, else "float32"
    changed    how many answers float16 would have changed, of `asked`
    questions  how many for each task and group of cities, and their seed
    scores     task, group of cities, score and the best constant answer's
    files      path -> sha256 of everything but the manifest
    licence    of the weights

answers.json holds what the shipped weights answer to these questions, as text.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from cwr_mech.analysis.models import gain
from cwr_mech.artifacts import PART, atomic_file, atomic_folder, read_json, sha256_file, write_json
from cwr_mech.config import TASK_NAMES, RunConfig, parse
from cwr_mech.dataset import generate
from cwr_mech.errors import ArtifactError, ArtifactExists, ConfigError
from cwr_mech.evaluation import answer_rows, score_answers
from cwr_mech.formats import number
from cwr_mech.model import HookedQwen2
from cwr_mech.report_text import markdown_table
from cwr_mech.results import Result, Row
from cwr_mech.runs import ZOO, Run, checkpoint_path, load_run

LICENCE = "MIT"
QUESTIONS = 200
"""Questions a task and group of cities; test split, this seed."""
SEED = 42
CURVE_POINTS = 60
"""Lines of a training curve that are kept, beside those with scores."""
TOLERANCE = 0.01
"""Share of the answers that another processor may round to something else."""

README = """# The zoo

Small trained models, ready to look into: every command takes `zoo:NAME` where it takes a run.

    cwr-mech zoo list                        what there is
    cwr-mech cache-acts zoo:quick-seed1      what it holds about every city
    cwr-mech probe zoo:quick-seed1           is there a map in it?
    cwr-mech finetune zoo:quick-seed1 --tasks angle
    cwr-mech zoo check                       files unchanged, same answers as when they were added
    cwr-mech zoo analyse                     every analysis of the zoo, into reports/zoo/report.md

A model is a run folder with one checkpoint, `NAME/checkpoints/step-N`, which
`transformers.AutoModelForCausalLM.from_pretrained` and `cwr_mech.HookedQwen2.from_pretrained` read. Its
`manifest.json` says from which settings, seeds, base and versions it was made and holds the hash of every
file; `answers.json` is what it answers to fixed test questions, `metrics.jsonl` its training curve, thinned.
Weights are in float16 where that changes not one of these answers, in float32 otherwise.

The models know the cities of the shipped table (`cwr_mech/data/README.md` says where it is from); the weights
are under the MIT licence, as the code. Made with `cwr-mech train --preset ...` (or `cwr-mech finetune`) and
`cwr-mech zoo add`, which also writes this file. Scores below are mean errors or accuracies over 200 test
questions about ordinary cities, for the tasks a model was trained on.
"""

Texts = dict[str, list[str]]
""" "task/group" -> answers."""


def zoo_models(root: Path | str = ZOO) -> list[Run]:
    """All models of the zoo: those of all tasks first, then by number of tasks, fine-tuned ones last."""
    paths = sorted(Path(root).glob("*/manifest.json"))
    found = [load_run(path.parent) for path in paths if PART not in path.parent.name]
    return sorted(found, key=lambda run: (run.parent is not None, -len(run.config.data.tasks), run.name))


def answers(
    model: HookedQwen2,
    run: Run,
    *,
    n: int = QUESTIONS,
    seed: int = SEED,
    advance: Callable[[int], object] | None = None,
) -> tuple[Texts, list[dict[str, Any]]]:
    """Answers of `model` to the fixed test questions of a run, and their scores.

    Asked are the tasks it was trained on, of a fine-tuned run all tasks; about old cities, and about new ones
    where the world has any.
    """
    world, data = run.world(), run.config.data
    texts: Texts = {}
    scores = []
    for task in TASK_NAMES if run.parent else data.tasks:
        for group in ("old", "new") if len(world.new()) else ("old",):
            rows = generate(world, task, n, split="test", seed=seed, group=group, protocol=data.protocol)
            found = answer_rows(model, rows, advance=advance)
            score = score_answers(rows, found, group)
            texts[f"{task}/{group}"] = list(found.texts)
            columns = ("task", "group", "metric", "unit", "value_mean", "baseline", "parse_rate")
            scores.append({column: getattr(score, column) for column in columns})
    return texts, scores


def differing(first: Texts, second: Texts) -> int:
    """How many answers differ. Both must be to the same questions."""
    return sum(a != b for key in first for a, b in zip(first[key], second[key], strict=True))


def add(
    run: Run,
    root: Path | str = ZOO,
    *,
    name: str | None = None,
    replace: bool = False,
    n: int = QUESTIONS,
    advance: Callable[[int], object] | None = None,
) -> Run:
    """Put the last checkpoint of a finished run into the zoo, under the run's name or another.

    The base of a fine-tuned run is named by its place in the zoo when it is there. Raises ConfigError for a
    run that is not finished, ArtifactExists when the name is taken and not to be replaced.
    """
    if run.state != "done" or run.from_zoo:
        raise ConfigError(
            f"run {run.name} is {'from the zoo' if run.from_zoo else run.state}, not a finished run"
        )
    config = parse(RunConfig, run.config.model_dump() | {"name": name or run.folder.name})
    target = Path(root) / config.name
    if target.exists() and not replace:
        raise ArtifactExists(f"the zoo has a model '{target.name}' already", "replace it with --force")
    exact = run.model()
    texts, scores = answers(exact, run, n=n, advance=advance)
    rounded, rounded_scores = answers(half(exact), run, n=n, advance=advance)
    changed = differing(texts, rounded)
    dtype = torch.float32 if changed else torch.float16
    if not changed:
        texts, scores = rounded, rounded_scores
    with atomic_folder(target) as part:
        weights = checkpoint_path(part, run.last_step)
        exact.save_pretrained(weights, dtype=dtype)
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(found)}" for key, found in texts.items())
        (part / "answers.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
        points = (json.dumps(line, sort_keys=True) + "\n" for line in curve(run.metrics()))
        (part / "metrics.jsonl").write_text("".join(points), encoding="utf-8")
        files = sorted(path for path in part.rglob("*") if path.is_file())
        about = {
            "source": {"run": run.name, "step": run.last_step, "sha256": run.sha256()},
            "dtype": str(dtype).removeprefix("torch."),
            "changed": changed,
            "asked": sum(map(len, texts.values())),
            "questions": {"n": n, "seed": SEED, "split": "test"},
            "scores": scores,
            "files": {path.relative_to(part).as_posix(): sha256_file(path) for path in files},
            "licence": LICENCE,
        }
        kept = {str(run.last_step): sha256_file(weights / "model.safetensors")}
        parent = base_in_zoo(run.manifest["parent"], Path(root))
        changes = {
            "config": config.model_dump(mode="json"),
            "parent": parent,
            "checkpoints": kept,
            "zoo": about,
        }
        write_json(part / "manifest.json", {**run.manifest, **changes})
    return load_run(target)


def half(model: HookedQwen2) -> HookedQwen2:
    """A copy whose weights went through float16, as a reader of such a file gets them."""
    copy = HookedQwen2(model.config, seed=None).eval()
    copy.load_state_dict({name: value.half().float() for name, value in model.state_dict().items()})
    return copy


def base_in_zoo(parent: dict[str, Any], root: Path) -> dict[str, Any]:
    """`parent` as it stands in the zoo, if a model there was made from it; else as it is."""
    for model in zoo_models(root) if parent else []:
        if model.manifest["zoo"]["source"]["sha256"] == parent["sha256"]:
            place = {"run": model.name, "folder": model.folder.as_posix(), "sha256": model.sha256()}
            return {**parent, **place}
    return parent


def curve(lines: Sequence[dict[str, Any]], points: int = CURVE_POINTS) -> list[dict[str, Any]]:
    """A training curve of about `points` lines, with all lines that hold scores and the last one."""
    losses = [line for line in lines if "scores" not in line]
    every = max(1, len(losses) // points)
    kept = {id(line) for line in [*losses[::every], *losses[-1:]]}
    return [line for line in lines if "scores" in line or id(line) in kept]


def problems(model: Run, *, ask: bool = True, advance: Callable[[int], object] | None = None) -> list[str]:
    """What is wrong with a model of the zoo: files changed or missing, or answers that are no longer given.

    ask: decode the recorded questions anew; otherwise only hash. An empty list is a model as it was added.
    """
    about = model.manifest["zoo"]
    found = []
    for name, digest in about["files"].items():
        path = model.folder / name
        if not path.is_file():
            found.append(f"{path} is missing")
        elif sha256_file(path) != digest:
            found.append(f"{path} is not the file that was added")
    if found or not ask:
        return found
    try:
        settings = about["questions"]
        texts, _ = answers(model.model(), model, n=settings["n"], seed=settings["seed"], advance=advance)
        recorded = read_json(model.folder / "answers.json")
    except ArtifactError as error:
        return [error.message]
    changed = differing(recorded, texts)
    if changed > TOLERANCE * about["asked"]:
        found.append(f"{model.name} answers {changed} of {about['asked']} questions otherwise than recorded")
    return found


def weight_bytes(model: Run) -> int:
    """Size of a model's folder."""
    return sum(path.stat().st_size for path in model.folder.rglob("*") if path.is_file())


def described(model: Run) -> dict[str, Any]:
    """One row of a list of models."""
    data, about = model.config.data, model.manifest["zoo"]
    return {
        "name": model.name,
        "tasks": "all" if data.tasks == TASK_NAMES else ", ".join(data.tasks),
        "base": model.parent,
        "seed": model.config.train.seed,
        "steps": model.last_step,
        "dtype": about["dtype"],
        "kB": round(weight_bytes(model) / 1000),
        "scores": "; ".join(
            f"{score['task']} {number(score['value_mean'])} ({number(score['baseline'])})"
            for score in about["scores"]
            if score["group"] == "old" and score["task"] in data.tasks
        ),
    }


def write_readme(root: Path | str = ZOO) -> Path:
    """Write README.md of the zoo: what it is, and a table of its models; returns its path."""
    path = Path(root) / "README.md"
    columns = ("name", "tasks", "base", "seed", "steps", "dtype", "kB", "scores")
    heads = {column: column for column in columns} | {"scores": "test score (best constant answer)"}
    table = markdown_table([described(model) for model in zoo_models(root)], heads)
    with atomic_file(path) as part:
        part.write_text(f"{README}\n{table}\n", encoding="utf-8")
    return path


def models_result(models: Sequence[Run], command: str) -> Result:
    """The result of kind "zoo": tables `models` and `scores` (recorded when the models were added)."""
    table: list[Row] = []
    scores: list[Row] = []
    for model in models:
        train, about = model.config.train, model.manifest["zoo"]
        row: Row = {"run": model.name, "tasks": "+".join(model.config.data.tasks), "base": model.parent}
        row |= {"seed": train.seed, "steps": model.last_step, "rows": model.last_step * train.batch_size}
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
        params={"runs": [model.name for model in models], "questions": QUESTIONS, "seed": SEED},
        tables={"models": table, "scores": scores},
        notes=[f"{QUESTIONS} test questions a task and group; new: at least one new city in the question."],
    )
