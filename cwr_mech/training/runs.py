"""A run folder: what was trained, on what, how far it got, and its checkpoints.

runs/NAME/
    manifest.json      schema, settings, parents' hashes, versions, state, checkpoints' hashes
    metrics.jsonl      one JSON object a line: losses, rates, answers scored on the way
    cities.csv         a copy of the user's own cities, where they come from a CSV file
    checkpoints/step-0001000/   Hugging Face folders (config.json, model.safetensors, tokenizer)
    state-0.safetensors, state-1.safetensors   optimiser states, written in turn, for a resume
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cwr_mech.artifacts import is_locked, read_json, require_file, sha256_file
from cwr_mech.config import RunConfig, parse
from cwr_mech.errors import ArtifactError, ConfigError, CorruptArtifact, MissingArtifact, UserError, quoted
from cwr_mech.tasks.registry import PLUGIN_HINT, UnknownTask
from cwr_mech.tasks.tokenizer import Tokenizer
from cwr_mech.training.folders import RUNS, ZOO, find_run, holds_run, latest_run, newest_first, run_folders
from cwr_mech.training.metrics import latest_lines
from cwr_mech.world.cities import World, load_world

if TYPE_CHECKING:  # torch takes seconds to import; lists of runs do without it
    import cwr_mech.model.bridge
    import cwr_mech.model.qwen2

_log = logging.getLogger(__name__)
SCHEMA = "cwr-mech/run/1"
CITIES = "cities.csv"
_STEP = re.compile(r"step-([0-9]{1,15})")
FIELDS = {"config": dict, "state": str, "world_sha256": str, "parent": dict, "checkpoints": dict}
"""Fields of a manifest that are read again -> JSON type."""


@dataclass(frozen=True)
class Run:
    """A trained (or training) model on disk."""

    folder: Path
    config: RunConfig
    manifest: Mapping[str, Any]

    def __repr__(self) -> str:
        tasks, steps = self.config.data.tasks, self.config.train.steps
        return f"Run({self.name!r}, {'+'.join(tasks)}, checkpoint {self._reached:,} of {steps:,} steps)"

    @property
    def name(self) -> str:
        """The folder's name, `zoo:` before it for a model of the zoo: what commands know it by."""
        return f"zoo:{self.folder.name}" if self.from_zoo else self.folder.name

    @property
    def reference(self) -> str:
        """What commands here find it by: its name for runs/NAME and for a model of the zoo, else its path."""
        folder, here = self.folder.resolve(), Path.cwd()
        if self.from_zoo or str(folder) == os.path.realpath(RUNS / self.folder.name):
            return self.name
        if not folder.is_relative_to(here):
            return folder.as_posix()
        path = folder.relative_to(here).as_posix()
        return path if "/" in path else f"./{path}"

    @property
    def from_zoo(self) -> bool:
        """Whether this is a model of the zoo (`cwr_mech.experiments.zoo`)."""
        return "zoo" in self.manifest

    @property
    def reads_text(self) -> bool:
        """Whether it reads texts by a tokenizer of its own; no run of ours does."""
        return False

    @property
    def text_sizes(self) -> tuple[int, int]:
        """Tokens of its vocabulary, and positions."""
        return self.config.model.d_vocab, self.config.model.n_ctx

    @property
    def settings(self) -> str:
        """Its model's settings as JSON (`cwr_mech.model.bridge.untrained`)."""
        return self.config.model.model_dump_json()

    def text_model(self, step: int | None = None) -> "cwr_mech.model.bridge.TextModel":
        """The model as analyses of texts ask it, of any architecture. Raises as `model`."""
        return self.model(step)

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
        if not isinstance(about.get("folder"), str) or not isinstance(about.get("step"), int):
            raise CorruptArtifact(f"{self.folder / 'manifest.json'} does not say where its base is")
        folder = Path(about["folder"])
        found = load_run(folder if (folder / "manifest.json").is_file() else about["run"])
        if found.sha256(about["step"]) != about.get("sha256"):
            raise CorruptArtifact(f"run {found.name} is no longer what {self.name} was fine-tuned from")
        return found

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps with a checkpoint, ascending."""
        found = ((_STEP.fullmatch(path.name), path) for path in (self.folder / "checkpoints").glob("step-*"))
        steps = sorted(int(match[1]) for match, path in found if match and path.is_dir())
        return tuple(step for step in steps if checkpoint_path(self.folder, step).is_dir())

    @property
    def last_step(self) -> int:
        """The newest checkpoint's step.

        Raises MissingArtifact when there is none, or when a finished run's last one was taken away: an older
        one must be asked for by its step.
        """
        steps = self.steps
        if self.state == "done" and self._reached > max(steps, default=-1):
            others = f"take another step ({', '.join(map(str, steps))}), or " if steps else ""
            raise MissingArtifact(
                f"the last checkpoint of run {self.name}, step {self._reached}, is gone", others + self._anew
            )
        if not steps:
            raise MissingArtifact(
                f"run {self.name} has no checkpoint yet", f"cwr-mech train --resume --out {self.folder}"
            )
        return steps[-1]

    @property
    def _reached(self) -> int:
        """The last step with a checkpoint by the manifest, 0 where it names none."""
        named = self.manifest.get("checkpoints", ())
        return max((int(step) for step in named if step.isdecimal()), default=0)

    @property
    def _anew(self) -> str:
        """What brings lost or damaged weights back."""
        if self.from_zoo:
            return "bring the model back: git checkout zoo, or install the package anew"
        settings = self.folder / "manifest.json"
        if self.parent:
            return f"fine-tune it anew, with the settings in {settings}"
        return f"cwr-mech train --config {settings} --out {self.folder}-again"

    def checkpoint(self, step: int | None = None) -> Path:
        """Folder of a checkpoint, the last one by default. Raises MissingArtifact."""
        step = self.last_step if step is None else step
        path = checkpoint_path(self.folder, step)
        if not path.is_dir():
            known = ", ".join(map(str, self.steps))
            raise MissingArtifact(f"run {self.name} has no checkpoint at step {step}", f"steps: {known}")
        return path

    def model(self, step: int | None = None) -> "cwr_mech.model.qwen2.HookedQwen2":
        """The model at a step, the last one by default.

        Raises MissingArtifact, and CorruptArtifact where the weights are not those whose hash the manifest
        holds, the settings are not the run's, or the vocabulary is another one.
        """
        from cwr_mech.model.qwen2 import HookedQwen2

        step = self.last_step if step is None else step
        folder, recorded = self.checkpoint(step), self._recorded(step)
        others = ", ".join(str(other) for other in self.steps if other != step)
        anew = (f"take another step ({others}), or " if others and not self.from_zoo else "") + self._anew
        if recorded is not None and self.sha256(step) != recorded:
            raise CorruptArtifact(f"the weights in {folder} are not those that were written", anew)
        model = HookedQwen2.from_pretrained(folder)
        if model.config != self.config.model:
            raise CorruptArtifact(f"{folder} is a model of other settings than its run's", anew)
        if self.manifest.get("tokenizer_sha256", Tokenizer().sha256) != Tokenizer().sha256:
            raise CorruptArtifact(f"run {self.name} was trained with another vocabulary", "train it anew")
        return model

    def _recorded(self, step: int) -> str | None:
        """Hash of a checkpoint's weights by the manifest, which may have grown since it was read.

        None for a checkpoint whose training was killed before its hash was recorded.
        """
        known = self.manifest["checkpoints"].get(str(step))
        return known or read_json(self.folder / "manifest.json").get("checkpoints", {}).get(str(step))

    def sha256(self, step: int | None = None) -> str:
        """Hash of a checkpoint's weights file. Raises MissingArtifact."""
        path = self.checkpoint(step) / "model.safetensors"
        require_file(path)
        return sha256_file(path)

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
        """The lines of metrics.jsonl. Lines that a crash cut short or filled with zeros are left out."""
        return [*self.latest_metrics()][::-1]

    def latest_metrics(self) -> Iterator[dict[str, Any]]:
        """The lines of metrics.jsonl, the last one first, each parsed when it is asked for."""
        return latest_lines(self.folder / "metrics.jsonl")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / "checkpoints" / f"step-{step:07d}"


def with_source(config: RunConfig, source: Path) -> RunConfig:
    """`config` with its cities read from the file `source`."""
    world = config.world.model_copy(update={"source": source.as_posix()})
    return config.model_copy(update={"world": world})


def load_run(name: Path | str | None = None) -> Run:
    """Read a run by its folder, by its name in runs/, or as `zoo:NAME`; by default the latest one that can be
    read, with a warning that names later ones. A Hugging Face folder of a Qwen2 model stands for a run of one
    step (`cwr_mech.training.model_folder`).

    Raises MissingArtifact, CorruptArtifact or SchemaMismatch, or ArtifactError for a task that a plug-in
    which is not installed has brought.
    """
    if name is None:
        return _latest_readable()
    path = find_run(name)
    if not holds_run(path):
        from cwr_mech.training.model_folder import read_model_folder

        return read_model_folder(path)
    manifest = read_json(path / "manifest.json", schema=SCHEMA, rebuild="cwr-mech train")
    for key, kind in FIELDS.items():
        if not isinstance(manifest.get(key), kind):
            raise CorruptArtifact(
                f"{path / 'manifest.json'} lacks '{key}', or it is no {kind.__name__}", "train the run anew"
            )
    if not isinstance(manifest["parent"].get("run", ""), str):
        raise CorruptArtifact(f"{path / 'manifest.json'} names its parent by no text", "train the run anew")
    try:
        config = parse(RunConfig, manifest["config"])
    except UnknownTask as error:
        raise ArtifactError(
            f"run {path.name} needs the task {quoted(error.name)}, which is not known here", PLUGIN_HINT
        ) from error
    if (path / CITIES).exists():  # the manifest says what was typed, which may not be there any more
        config = with_source(config, path / CITIES)
    return Run(path, config, manifest)


def _latest_readable() -> Run:
    """The run in runs/ that changed last of those that can be read; of none raises the latest one's fault."""
    faults: dict[Path, UserError] = {}
    for folder in newest_first(RUNS) or [latest_run()]:
        try:
            run = load_run(folder)
        except UserError as error:
            faults[folder] = error
            continue
        for later, fault in faults.items():
            _log.warning("left out %s: %s", later, fault.message)
        return run
    raise next(iter(faults.values()))


def readable_runs(root: Path | str) -> list[Run]:
    """The runs in `root` that can be read, by name: a foreign or damaged folder does not hide the others."""
    runs = []
    for folder in run_folders(root):
        with suppress(UserError):
            runs.append(load_run(folder))
    return runs
