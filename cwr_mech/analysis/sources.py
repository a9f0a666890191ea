"""The activation files that a study reads: those given, or those of the runs named, made where missing."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cwr_mech.activations.reader import ActivationStore, activations_path, digests, reusable
from cwr_mech.activations.site import POSITIONS as DEFAULT_SITES
from cwr_mech.analysis.selection import choose_hooks, run_label
from cwr_mech.analysis.study import Names, measured_in, names, stage, uses
from cwr_mech.artifacts import provenance, sha256_bytes
from cwr_mech.errors import AnalysisError, ArtifactError, MissingArtifact, UnknownName
from cwr_mech.tasks.registry import TASKS, get_task
from cwr_mech.training.runs import Run, load_run

if TYPE_CHECKING:
    from cwr_mech.model.qwen2 import HookedQwen2

FOLDER = Path("activations")
"""Where activation files of runs are kept, below the current folder."""
UNTRAINED = "-untrained"


@dataclass(frozen=True)
class Source:
    """An open activation file, and the run it was made from when that is known here.

    `label` tells checkpoints of one run apart.
    """

    store: ActivationStore
    path: Path
    run: str
    tasks: tuple[str, ...] | None
    label: str = ""

    def hooks(self, layers: Names) -> list[str]:
        """Hooks of the layers named, all in the file by default. Raises UnknownName."""
        return choose_hooks(self.store, names(layers))

    def block_hooks(self, layers: Names) -> list[str]:
        """Hooks of the layers named, those of all blocks by default. Raises UnknownName."""
        return [hook for hook in self.hooks(layers) if layers is not None or hook.startswith("blocks.")]

    def prompts(self, wanted: Names) -> list[str]:
        """The prompts to read the file in: tasks by name, "own" (the run's first task), "trained" (all
        tasks of the run) or "all" in the file.

        Raises UnknownName for a prompt that is not in the file.
        """
        words = names(wanted) or ["all"]
        if words == ["all"]:
            return list(self.store.tasks)
        if words in (["own"], ["trained"]):
            own = [task for task in self.tasks or () if task in self.store.tasks] or list(self.store.tasks)
            return own if words == ["trained"] else own[:1]
        for word in words:
            if word not in self.store.tasks:
                raise UnknownName(
                    f"prompt in {self.path}", word, ("own", "trained", "all", *self.store.tasks)
                )
        return words

    def site(self, wanted: str | None) -> str:
        """The site asked for, as one name; by default where entities of this file are read."""
        default = "+".join(site for site in DEFAULT_SITES if site in self.store.sites)
        return wanted or default or self.store.sites[0]

    def sites(self, wanted: Names) -> list[str]:
        """The sites asked for, by default the one of `site`."""
        return names(wanted) or [self.site(None)]

    def trained(self) -> Run | None:
        """The run a file was made from; None when it is not here, and for a model that reads text."""
        if self.store.reads_text:
            return None
        try:
            return load_run(self.run)
        except ArtifactError:
            return None

    def untrained(self) -> ActivationStore | None:
        """Activations of the same architecture before training, made where missing.

        None for a file whose run is not here, and for a fine-tuned run, which never was untrained.
        """
        if self.store.reads_text:
            return ActivationStore(_untrained_texts(self.store))
        run = self.trained()
        return None if run is None or run.parent else _drawn(run)


def open_sources(
    runs: Names | Path = None, files: Sequence[str | Path] | str | Path | None = None, step: int | None = None
) -> list[Source]:
    """Open `files`, or the file of each run's `step` (its last one by default; the latest run without names).

    A file that is not there is made, as `cwr-mech cache-acts` would. Raises MissingArtifact or AnalysisError.
    """
    if given := names(files):
        found = [_known(ActivationStore(path), Path(path)) for path in given]
    else:
        found = [_of_run(run, step) for run in runs_of(runs)]
    for source in found:
        for name, digest in digests(source.store).items():
            uses(name, digest)
    return _labelled(found)


def run_of(name: str | Path | None) -> Run:
    """The run named, the latest by default, in whose unit the study measures. Raises MissingArtifact."""
    run = load_run(name)
    measured_in(run.config.world.unit)
    return run


def runs_of(runs: Names | Path) -> list[Run]:
    """The runs named, the latest without names. Raises MissingArtifact."""
    return [run_of(name) for name in names(runs) or (None,)]


def tasks_named(tasks: Names, run: Run) -> list[str]:
    """Tasks by name, or those a run was trained on ("own"). Raises UnknownName."""
    asked = names(tasks) or ["own"]
    return list(run.config.data.tasks) if asked == ["own"] else [get_task(name).name for name in asked]


def activations_of(run: Run, step: int | None = None) -> ActivationStore:
    """The activations of a checkpoint, the last one by default; made if missing or of other weights."""
    at = run.last_step if step is None else step
    return _made(run, activations_path(run.reference, at, FOLDER), run.sha256(at), lambda: run.model(at), at)


def texts_path(run: Run, prompts: str, *, untrained: bool = False) -> Path:
    """Where `cwr-mech cache-acts --prompts` puts a file: activations/MODEL-PROMPTS.h5."""
    return FOLDER / f"{run.name.replace(':', '-')}-{prompts}{UNTRAINED if untrained else ''}.h5"


def _untrained_texts(store: ActivationStore) -> Path:
    """The file of the untrained model beside a file of texts; made where it is missing or of other texts."""
    from cwr_mech.activations.extract_texts import extract_again, holds

    path = store.path.with_name(f"{store.path.stem}{UNTRAINED}.h5")
    if store.path.stem.endswith(UNTRAINED):
        return store.path
    from cwr_mech.activations.extract import model_digest
    from cwr_mech.model.bridge import untrained

    model = untrained(str(store.attrs["model"]))
    digest = model_digest(model)
    old = reusable(path, model_sha256=digest)
    texts = {task: store.token_rows(task) for task in store.tasks}
    if old is not None and holds(old, texts, store.hooks, store.sites):
        return path
    total = len(store) * len(store.tasks)
    with stage(f"activations of {path.stem}", total, "texts") as advance:
        about = {"run": str(store.attrs["run"]), "folder": "", "model_sha256": digest}
        extract_again(model, store, path, attrs=about, advance=advance)
    return path


def untrained_state(run: Run) -> tuple[Path, str, "Callable[[], HookedQwen2]", int]:
    """File, weights' digest, model and step (0) of a run before training: drawn anew from its seed."""
    from cwr_mech.activations.extract import model_digest
    from cwr_mech.model.qwen2 import HookedQwen2

    model = HookedQwen2(run.config.model, seed=run.config.train.seed).eval()
    return activations_path(run.reference, None, FOLDER), model_digest(model), lambda: model, 0


def drawn_from(run: Run) -> str:
    """Digest of the settings and the version that a run's first weights are drawn from: attribute `drawn`."""
    settings = [provenance()["cwr-mech"], run.config.model.model_dump(mode="json"), run.config.train.seed]
    return sha256_bytes(json.dumps(settings, sort_keys=True).encode())


def _drawn(run: Run) -> ActivationStore:
    """Activations of a run before training; made where it is missing, broken or of other weights.

    A file that says it was drawn from these settings by this version is taken at its word: drawing the
    weights again to compare them would cost more than most analyses of the file.
    """
    path, drawn = activations_path(run.reference, None, FOLDER), drawn_from(run)
    store = reusable(path, world=run.world())
    if store is not None and store.attrs.get("drawn") == drawn:
        return store
    return _made(run, *untrained_state(run), drawn=drawn)


def _made(
    run: Run, path: Path, sha256: str, model: "Callable[[], HookedQwen2]", step: int, **more: str
) -> ActivationStore:
    """The activations of these weights at `path`: made where it is missing, broken or of other weights."""
    world = run.world()
    store = reusable(path, world=world, model_sha256=sha256)
    if store is not None:
        return store
    from cwr_mech.activations.extract import extract

    with stage(f"activations of {path.stem}", world.n * len(TASKS), "prompts") as advance:
        attrs: dict[str, str | int] = {"run": run.reference, "step": step, "model_sha256": sha256, **more}
        extract(model(), world, path, attrs=attrs, advance=advance)
    return ActivationStore(path, world=world, model_sha256=sha256)


def _of_run(run: Run, step: int | None) -> Source:
    if run.reads_text:
        return _of_texts(run)
    store = activations_of(run, step)
    return Source(store, store.path, run.reference, tuple(run.config.data.tasks))


def _of_texts(folder: Run) -> Source:
    """The one file in activations/ that holds what this model holds about texts.

    Raises MissingArtifact for none, AnalysisError for several.
    """
    found = [
        store
        for path in sorted(FOLDER.glob(f"{texts_path(folder, '*').stem}.h5"))
        if (store := ActivationStore(path)).attrs["model_sha256"] == folder.sha256()
    ]
    if not found:
        raise MissingArtifact(
            f"no activation file of {folder.folder} in {FOLDER}/",
            f"make one with: cwr-mech cache-acts {folder.folder} --prompts FILE.csv, or "
            "--template 'The city of {name} is in'",
        )
    if len(found) > 1:
        several = ", ".join(store.path.name for store in found)
        raise AnalysisError(
            f"{len(found)} files are of {folder.folder}: {several}", "name one with --activations"
        )
    return _known(found[0], found[0].path)


def _known(store: ActivationStore, path: Path) -> Source:
    """A file given by its path, with the tasks of its run when the run is here."""
    source = Source(store, path, str(store.attrs.get("run") or path.stem), None)
    run = source.trained()
    if run is None:
        return source
    measured_in(run.config.world.unit)
    return replace(source, tasks=tuple(run.config.data.tasks))


def _labelled(sources: Sequence[Source]) -> list[Source]:
    """Sources with the name of their run, and the step where one run stands several times.

    Raises AnalysisError for the same state of the same run twice.
    """
    runs = [run_label(source.store) for source in sources]
    labels = [
        f"{name}@{source.store.attrs['step']}" if runs.count(name) > 1 else name
        for name, source in zip(runs, sources, strict=True)
    ]
    for label in labels:
        if labels.count(label) > 1:
            raise AnalysisError(f"{label} was given twice", "name each run and each file once")
    return [replace(source, label=label) for source, label in zip(sources, labels, strict=True)]
