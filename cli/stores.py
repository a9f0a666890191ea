"""Which activation files an analysis reads: those given, or those of the runs named."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cwr_mech.activations.reader import ActivationStore
    from cwr_mech.analysis.stats.models import Member


@dataclass(frozen=True)
class Source:
    """An open activation file and the run it was made from, when that is known here."""

    store: "ActivationStore"
    path: Path
    run: str
    tasks: tuple[str, ...] | None


def open_sources(
    runs: Sequence[str] | None, files: Sequence[Path] | None = None, step: int | None = None
) -> list[Source]:
    """Open `files`, or the file of each run's `step` (its last one by default; the latest run without names).

    Raises MissingArtifact with the command that makes the file.
    """
    from cwr_mech.activations.reader import ActivationStore, activations_path
    from cwr_mech.training.runs import load_run

    from .common import ACTIVATIONS, resolve_run

    if files:
        return [_known(ActivationStore(path), path) for path in files]
    found = []
    for name in runs or (None,):
        run = load_run(resolve_run(name))
        path = activations_path(run.name, run.last_step if step is None else step, ACTIVATIONS)
        store = ActivationStore(path, world=run.world(), model_sha256=run.sha256(step))
        found.append(Source(store, path, run.name, tuple(run.config.data.tasks)))
    return found


def _known(store: "ActivationStore", path: Path) -> Source:
    """A file given by its path, with the tasks of its run when the run is here."""
    from cwr_mech.errors import ArtifactError
    from cwr_mech.training.runs import load_run

    from .common import resolve_run

    name = str(store.attrs.get("run") or path.stem)
    try:
        tasks: tuple[str, ...] | None = tuple(load_run(resolve_run(name)).config.data.tasks)
    except ArtifactError:
        tasks = None
    return Source(store, path, name, tasks)


def open_untrained(source: Source) -> "ActivationStore | None":
    """The activation file of the same model before training, or None when it was not made."""
    from cwr_mech.activations.reader import ActivationStore, activations_path

    path = activations_path(source.run, None, source.path.parent)
    return ActivationStore(path) if path.exists() else None


def hashes(sources: Sequence[Source]) -> dict[str, str]:
    """File -> sha256, for a result's `inputs`."""
    from cwr_mech.artifacts import sha256_file

    return {source.path.as_posix(): sha256_file(source.path) for source in sources}


def command_line() -> str:
    """What the user typed, for a result's `command`; a result does not depend on being resumed."""
    return shlex.join(["cwr-mech", *(word for word in sys.argv[1:] if word != "--resume")])


def split(text: str | None) -> list[str] | None:
    """The comma-separated parts of an option, None when it was not given."""
    return [part.strip() for part in text.split(",") if part.strip()] if text else None


def prompts_of(source: Source, prompts: Sequence[str] | None, *, default: str = "all") -> list[str]:
    """The prompts to read a file in: the tasks named, "own" (the run's first task) or "all" in the file.

    Raises UnknownName for a prompt that is not in the file.
    """
    from cwr_mech.errors import UnknownName

    words = list(prompts or [default])
    if words == ["all"]:
        return list(source.store.tasks)
    if words == ["own"]:
        own = [task for task in source.tasks or () if task in source.store.tasks]
        return [(own or list(source.store.tasks))[0]]
    for word in words:
        if word not in source.store.tasks:
            raise UnknownName(f"prompt in {source.path}", word, ("own", "all", *source.store.tasks))
    return words


def labels(sources: Sequence[Source]) -> list[str]:
    """What each file's model is called: its run, with the step where one run stands several times.

    Raises AnalysisError for the same state of the same run twice.
    """
    from cwr_mech.analysis.selection import run_label
    from cwr_mech.errors import AnalysisError

    names = [run_label(source.store) for source in sources]
    found = [
        f"{name}@{source.store.attrs['step']}" if names.count(name) > 1 else name
        for name, source in zip(names, sources, strict=True)
    ]
    for label in found:
        if found.count(label) > 1:
            raise AnalysisError(f"{label} was given twice", "name each run and each file once")
    return found


def member_of(source: Source, label: str) -> "Member":
    """How a run was trained and what it learnt, from its folder: a model of the zoo by its test questions, a
    run by the scores of its last evaluation.

    A file without a run, and a state that is not the run's last, is a model on its own.
    """
    from cwr_mech.analysis.answers.curves import training_result
    from cwr_mech.analysis.stats.models import Member, gain
    from cwr_mech.errors import ArtifactError
    from cwr_mech.findings.models import gains
    from cwr_mech.training.runs import load_run

    from .common import resolve_run

    try:
        found = load_run(resolve_run(source.run))
        learned = gains(found) if found.from_zoo else None
        table = [] if learned else training_result(found, "").tables["tasks"]
    except ArtifactError:
        return Member(label, source.tasks or (label,), 0, 0, 0)
    if source.store.attrs["step"] != found.last_step:
        return Member(label, (label,), 0, 0, 0)
    config = found.config
    rows = config.train.steps * config.train.batch_size
    last = [row for row in table if row["step"] == table[-1]["step"] and row["value"] is not None]
    learned = learned or {row["task"]: gain(row["metric"], row["value"], row["baseline"]) for row in last}
    tasks = tuple(config.data.tasks)
    return Member(label, tasks, config.train.seed, rows, rows // len(tasks), learned or None)
