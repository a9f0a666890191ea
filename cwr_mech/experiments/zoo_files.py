"""Adding a model to the zoo, and checking that it is still what was added (`cwr_mech.experiments.zoo`)."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from cwr_mech.artifacts import atomic_folder, require_file, sha256_file, write_json
from cwr_mech.config import RunConfig, parse
from cwr_mech.data.rows import Rows, generate
from cwr_mech.errors import ArtifactError, ArtifactExists, ConfigError, CorruptArtifact, CwrError
from cwr_mech.experiments.zoo import check_entry, folder_bytes, recorded_scores, zoo_models
from cwr_mech.model.evaluation import Evaluation, TaskScore, answer_rows, score_answers
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.registry import PAPER_TASKS, ordered
from cwr_mech.training.folders import own_zoo, run_folders
from cwr_mech.training.runs import Run, checkpoint_path, load_run

LICENCE = "MIT"
QUESTIONS = 200
"""Questions a task and group of cities; test split, this seed."""
SEED = 42
CURVE_POINTS = 24
"""Lines of a training curve that are kept, beside those with scores."""
DIGITS = 5
"""Significant digits of the numbers in a training curve."""
ANSWERS = "answers.json.gz"
MOST_BYTES = 40_000_000
"""The zoo is part of the repository; more than this is not added to it."""
TOLERANCE = 0.01
"""Share of the answers that another processor may round to something else."""

MOST_ANSWER_BYTES = 50_000_000
"""Unpacked answers of a model are far smaller."""

Texts = dict[str, list[str]]
""" "task/group" -> answers."""


def answers(
    model: HookedQwen2,
    run: Run,
    *,
    n: int = QUESTIONS,
    seed: int = SEED,
    advance: Callable[[int], object] | None = None,
) -> tuple[Texts, list[TaskScore]]:
    """Answers of `model` to the fixed test questions of a run, and their scores.

    Asked are the tasks it was trained on, of a fine-tuned run all tasks; about training cities, and about
    new ones where the world has any.
    """
    texts: Texts = {}
    scores: list[TaskScore] = []
    for key, rows in questions(run, n, seed):
        found = answer_rows(model, rows, advance=advance)
        scores.append(score_answers(rows, found, key.split("/")[1]))
        texts[key] = list(found.texts)
    return texts, scores


def questions(run: Run, n: int, seed: int) -> Iterator[tuple[str, Rows]]:
    """ "task/group" and rows: all that is asked of a run."""
    world, data = run.world(), run.config.data
    for task in ordered((*PAPER_TASKS, *data.tasks)) if run.parent else data.tasks:
        for group in ("old", "new") if len(world.new()) else ("old",):
            rows = generate(world, task, n, split="test", seed=seed, group=group, protocol=data.protocol)
            yield f"{task}/{group}", rows


def differing(first: Texts, second: Texts) -> int:
    """How many answers differ. Raises CorruptArtifact for answers to other questions."""
    if {key: len(texts) for key, texts in first.items()} != {
        key: len(texts) for key, texts in second.items()
    }:
        raise CorruptArtifact("the answers are to other questions", "git checkout zoo")
    return sum(a != b for key in first for a, b in zip(first[key], second[key], strict=True))


def add(
    run: Run,
    root: Path | str | None = None,
    *,
    name: str | None = None,
    replace: bool = False,
    halve: bool = False,
    n: int = QUESTIONS,
    advance: Callable[[int], object] | None = None,
) -> Run:
    """Put the last checkpoint of a finished run into the zoo `root` (by default `own_zoo`), under the run's
    name or another.

    Weights are kept in float16 where that changes none of its answers, or with `halve` in any case: answers
    and scores that are recorded are those of the weights that are kept, and how many changed stands beside.
    The base of a fine-tuned run is named by its place in the zoo when it is there. Raises ConfigError for a
    run that is not finished and when the zoo would outgrow MOST_BYTES, ArtifactExists when the name is taken
    and not to be replaced.
    """
    if run.state != "done" or run.from_zoo:
        raise ConfigError(f"run {run.name} is {'from the zoo' if run.from_zoo else run.state}, not finished")
    config = parse(RunConfig, run.config.model_dump() | {"name": name or run.folder.name})
    root = own_zoo() if root is None else Path(root)
    target = root / config.name
    if target.exists() and not replace:
        raise ArtifactExists(f"the zoo has a model '{target.name}' already", "replace it with --force")
    exact = run.model()
    texts, scores = answers(exact, run, n=n, advance=advance)
    halved = half(exact)
    rounded_texts, rounded_scores = answers(halved, run, n=n)
    changed = differing(texts, rounded_texts)
    dtype = torch.float16 if halve or not changed else torch.float32
    if dtype == torch.float16:
        exact, texts, scores = halved, rounded_texts, rounded_scores
    with atomic_folder(target, last="manifest.json", stale=_own_files(target)) as part:
        weights = checkpoint_path(part, run.last_step)
        exact.save_pretrained(weights, dtype=dtype)
        (part / ANSWERS).write_bytes(gzip.compress(json.dumps(texts).encode(), mtime=0))
        points = (json.dumps(rounded(line), sort_keys=True) + "\n" for line in curve(run.metrics()))
        (part / "metrics.jsonl").write_text("".join(points), encoding="utf-8")
        files = sorted(path for path in part.rglob("*") if path.is_file())
        about = {
            "source": {"run": run.name, "step": run.last_step, "sha256": run.sha256()},
            "dtype": str(dtype).removeprefix("torch."),
            "changed": changed,
            "asked": sum(map(len, texts.values())),
            "questions": {"n": n, "seed": SEED, "split": "test"},
            "scores": [vars(score) for score in scores],
            "files": {path.relative_to(part).as_posix(): sha256_file(path) for path in files},
            "licence": LICENCE,
        }
        kept = {str(run.last_step): sha256_file(weights / "model.safetensors")}
        parent = base_in_zoo(run.manifest["parent"], root)
        changes = {
            "config": config.model_dump(mode="json"),
            "parent": parent,
            "checkpoints": kept,
            "zoo": about,
        }
        write_json(part / "manifest.json", {**run.manifest, **changes})
        size = folder_bytes(part) + sum(folder_bytes(path) for path in run_folders(root) if path != target)
        if size > MOST_BYTES:
            raise ConfigError(
                f"with {config.name} the zoo has {size / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:.0f}",
                "remove a model that matters less",
            )
    return load_run(target)


def _own_files(folder: Path) -> tuple[str, ...]:
    """What a model that is replaced consists of, by its manifest; nothing else in its folder is removed."""
    try:
        return tuple(load_run(folder).manifest["zoo"]["files"])
    except (CwrError, KeyError, TypeError):
        return ()


def half(model: HookedQwen2) -> HookedQwen2:
    """A copy whose weights went through float16, as a reader of such a file gets them."""
    copy = HookedQwen2(model.config, seed=None).eval()
    copy.load_state_dict({name: value.half().float() for name, value in model.state_dict().items()})
    return copy


def base_in_zoo(parent: dict[str, Any], root: Path) -> dict[str, Any]:
    """`parent` as it stands in the zoo, if a model there was made from it; else as it is."""
    for model in zoo_models(root) if parent else []:
        if model.manifest["zoo"]["source"]["sha256"] == parent["sha256"]:
            place = {"run": model.name, "folder": model.source, "sha256": model.sha256()}
            return {**parent, **place}
    return parent


def curve(lines: Sequence[dict[str, Any]], points: int = CURVE_POINTS) -> list[dict[str, Any]]:
    """A training curve of about `points` lines, with all lines that hold scores and the last one."""
    losses = [line for line in lines if "scores" not in line]
    every = max(1, len(losses) // points)
    kept = {id(line) for line in [*losses[::every], *losses[-1:]]}
    return [line for line in lines if "scores" in line or id(line) in kept]


def rounded(value: Any) -> Any:
    """`value`, as JSON holds it, with all its floats rounded to DIGITS significant digits."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def recorded_answers(folder: Path) -> Texts:
    """What a model of the zoo answered when it was added. Raises CorruptArtifact."""
    path = folder / ANSWERS
    try:
        require_file(path, most_bytes=MOST_BYTES)
        with gzip.open(path) as packed:  # a few bytes may be packed for gigabytes
            texts: Texts = TypeAdapter(Texts).validate_json(packed.read(MOST_ANSWER_BYTES))
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise CorruptArtifact(f"{path} holds no answers: it is missing, cut short or another file") from error
    return texts


def problems(model: Run, *, ask: bool = True, advance: Callable[[int], object] | None = None) -> list[str]:
    """What is wrong with a model of the zoo: files changed or missing, or answers that are no longer given.

    ask: decode the recorded questions anew; otherwise only hash. An empty list is a model as it was added.
    """
    try:
        check_entry(model)
    except ArtifactError as error:
        return [error.message]
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
        changed = differing(recorded_answers(model.folder), texts)
    except ArtifactError as error:
        return [error.message]
    if changed > TOLERANCE * about["asked"]:
        found.append(f"{model.name} answers {changed} of {about['asked']} questions otherwise than recorded")
    return found


def recorded(model: Run, group: str) -> Evaluation:
    """The scores of a model of the zoo as they were when it was added. Raises CorruptArtifact."""
    check_entry(model)
    about = model.manifest["zoo"]
    try:
        scores = TypeAdapter(list[TaskScore]).validate_python(recorded_scores(model, group))
    except ValidationError as error:
        key = error.errors()[0]["loc"][-1]
        raise CorruptArtifact(
            f"{model.folder / 'manifest.json'} is broken at 'zoo.scores', '{key}'", "git checkout zoo"
        ) from error
    return Evaluation(tuple(scores), group, about["questions"]["split"], about["questions"]["seed"])
