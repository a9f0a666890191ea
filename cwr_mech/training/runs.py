"""A run folder: what was trained, on what, how far it got, and its checkpoints.

runs/NAME/
    manifest.json      schema, settings, parents' hashes, versions, state, checkpoints' hashes
    metrics.jsonl      one JSON object a line: losses, rates, answers scored on the way
    cities.csv         a copy of the user's own cities, where they come from a CSV file
    checkpoints/step-0001000/   Hugging Face folders (config.json, model.safetensors, tokenizer)
    state-0.safetensors, state-1.safetensors   optimiser states, written in turn, for a resume
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cwr_mech.artifacts import atomic_file, is_locked, provenance, read_json, sha256_file, write_json
from cwr_mech.config import RunConfig, parse
from cwr_mech.errors import ArtifactError, ArtifactExists, ConfigError, CorruptArtifact, MissingArtifact
from cwr_mech.tasks.registry import PLUGIN_HINT, UnknownTask
from cwr_mech.tasks.tokenizer import Tokenizer
from cwr_mech.training.folders import ZOO, find_run
from cwr_mech.world.cities import World, load_world
from cwr_mech.world.sources import is_file

if TYPE_CHECKING:  # torch takes seconds to import; lists of runs do without it
    import cwr_mech.model.qwen2

SCHEMA = "cwr-mech/run/1"
CITIES = "cities.csv"
_STEP = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class Run:
    """A trained (or training) model on disk."""

    folder: Path
    config: RunConfig
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The folder's name, `zoo:` before it for a model of the zoo: what commands know it by."""
        return f"zoo:{self.folder.name}" if self.from_zoo else self.folder.name

    @property
    def from_zoo(self) -> bool:
        """Whether this is a model of the zoo (`cwr_mech.experiments.zoo`)."""
        return "zoo" in self.manifest

    @property
    def source(self) -> str:
        """What results call their input: its folder, zoo/NAME for a model of the zoo wherever it lies."""
        return f"{ZOO}/{self.folder.name}" if self.from_zoo else self.folder.as_posix()

    @property
    def state(self) -> str:
        """ "running", "done", "interrupted", "diverged", or "stopped": killed, or the machine went down."""
        state = str(self.manifest["state"])
        return "stopped" if state == "running" and not is_locked(self.folder) else state

    def has_settings(self, config: RunConfig) -> bool:
        """Whether this run was begun with `config`; a CSV file of cities counts by its content."""
        own, given = Path(self.config.world.source), Path(config.world.source)
        same = own.is_file() and given.is_file() and sha256_file(own) == sha256_file(given)
        return self.config == (with_source(config, own) if same else config)

    @property
    def parent(self) -> str | None:
        """Name of the run whose last checkpoint this one started from; None for a fresh start."""
        return self.manifest["parent"].get("run")

    def base(self) -> "Run":
        """The run that a fine-tuned run started from.

        Raises MissingArtifact when it is not here, CorruptArtifact when its weights have changed since, and
        ConfigError for a run that started fresh.
        """
        about = self.manifest["parent"]
        if not about:
            raise ConfigError(f"run {self.name} was not fine-tuned from another")
        folder = Path(about["folder"])
        found = load_run(folder if (folder / "manifest.json").is_file() else about["run"])
        if found.sha256(about["step"]) != about["sha256"]:
            raise CorruptArtifact(f"run {found.name} is no longer what {self.name} was fine-tuned from")
        return found

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps with a checkpoint, ascending."""
        found = (_STEP.fullmatch(path.name) for path in (self.folder / "checkpoints").glob("step-*"))
        return tuple(sorted(int(match[1]) for match in found if match))

    @property
    def last_step(self) -> int:
        """The newest checkpoint's step. Raises MissingArtifact when there is none."""
        if not self.steps:
            raise MissingArtifact(
                f"run {self.name} has no checkpoint yet", f"cwr-mech train --resume --out {self.folder}"
            )
        return self.steps[-1]

    def checkpoint(self, step: int | None = None) -> Path:
        """Folder of a checkpoint, the last one by default. Raises MissingArtifact."""
        step = self.last_step if step is None else step
        path = checkpoint_path(self.folder, step)
        if not path.is_dir():
            known = ", ".join(map(str, self.steps))
            raise MissingArtifact(f"run {self.name} has no checkpoint at step {step}", f"steps: {known}")
        return path

    def model(self, step: int | None = None) -> "cwr_mech.model.qwen2.HookedQwen2":
        """The model at a step, the last one by default."""
        from cwr_mech.model.qwen2 import HookedQwen2

        return HookedQwen2.from_pretrained(self.checkpoint(step))

    def sha256(self, step: int | None = None) -> str:
        """Hash of a checkpoint's weights file."""
        return sha256_file(self.checkpoint(step) / "model.safetensors")

    @cached_property
    def _world(self) -> World:
        world = load_world(self.config.world)
        if world.sha256 != self.manifest["world_sha256"]:
            raise CorruptArtifact(
                f"the world of run {self.name} is no longer the one it was trained in",
                f"restore the cities that '{self.config.world.source}' stood for, or train the run anew",
            )
        return world

    def world(self) -> World:
        """The world this run was trained in. Raises CorruptArtifact when its cities have changed since."""
        return self._world

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of all runs."""
        return Tokenizer()

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line cut short by a crash is left out."""
        return [*self.latest_metrics()][::-1]

    def latest_metrics(self) -> Iterator[dict[str, Any]]:
        """The lines of metrics.jsonl, the last one first, each parsed when it is asked for."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
        yield from map(json.loads, reversed(lines[:-1]))


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / "checkpoints" / f"step-{step:07d}"


def with_source(config: RunConfig, source: Path) -> RunConfig:
    """`config` with its cities read from the file `source`."""
    world = config.world.model_copy(update={"source": source.as_posix()})
    return config.model_copy(update={"world": world})


def require_free(folder: Path) -> None:
    """Raises ArtifactExists when `folder` holds a run, or anything else that is not ours."""
    if (folder / "manifest.json").exists():
        raise ArtifactExists(
            f"{folder} holds a run already", "continue it with --resume, or choose another --out"
        )
    own = (".lock", "checkpoints", CITIES)
    if folder.exists() and any(path.name not in own for path in folder.iterdir()):
        raise ArtifactExists(f"{folder} exists and is not a run", "choose another --out")


def create_run(
    folder: Path,
    config: RunConfig,
    model: "cwr_mech.model.qwen2.HookedQwen2",
    parent: Run | None = None,
) -> Run:
    """Begin a run that starts from `model`: write its first checkpoint, then the manifest.

    The manifest comes last, so where there is one there is also a model to start from, whatever it was made
    of. Cities from a user's CSV file are copied, so that the run stands without it. `parent` is the run whose
    last checkpoint `model` is. Raises ArtifactExists when the folder is taken.
    """
    require_free(folder)
    world = load_world(config.world)
    parents: dict[str, Any] = {}
    if parent is not None:
        step = parent.last_step
        parents = {
            "run": parent.name,
            "folder": parent.source,
            "step": step,
            "sha256": parent.sha256(step),
        }
    if is_file(config.world.source):
        with atomic_file(folder / CITIES) as part:
            shutil.copyfile(config.world.source, part)
    model.save_pretrained(checkpoint_path(folder, 0))
    manifest = {
        "schema": SCHEMA,
        "config": config.model_dump(mode="json"),
        "world_sha256": world.sha256,
        "tokenizer_sha256": Tokenizer().sha256,
        "parent": parents,
        "state": "running",
        "checkpoints": {"0": sha256_file(checkpoint_path(folder, 0) / "model.safetensors")},
        "provenance": provenance(),
    }
    write_json(folder / "manifest.json", manifest)
    return load_run(folder)


def update_manifest(run: Run, **changes: Any) -> Run:
    """Write changed manifest fields and return the run as it now stands."""
    write_json(run.folder / "manifest.json", {**run.manifest, **changes})
    return load_run(run.folder)


def load_run(name: Path | str | None = None) -> Run:
    """Read a run by its folder, by its name in runs/, or as `zoo:NAME`; the latest run by default.

    Raises MissingArtifact, CorruptArtifact or SchemaMismatch, or ArtifactError for a task that a plug-in
    which is not installed has brought.
    """
    path = find_run(name)
    manifest = read_json(path / "manifest.json", schema=SCHEMA, rebuild="cwr-mech train")
    for key in ("config", "state", "world_sha256", "parent", "checkpoints"):
        if key not in manifest:
            raise CorruptArtifact(f"{path / 'manifest.json'} lacks '{key}'", "train the run anew")
    try:
        config = parse(RunConfig, manifest["config"])
    except UnknownTask as error:
        raise ArtifactError(
            f"run {path.name} needs the task '{error.name}', which is not known here", PLUGIN_HINT
        ) from error
    if (path / CITIES).exists():  # the manifest says what was typed, which may not be there any more
        config = with_source(config, path / CITIES)
    return Run(path, config, manifest)
