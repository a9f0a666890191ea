"""A checkpoint folder of anybody's in the place of a run: what commands can ask of weights alone.

It has one step, 0, and no history. A Qwen2 is a HookedQwen2; a model of another architecture is hooked by
TransformerLens' TransformerBridge and asked about texts alone. A Qwen2 whose tokenizer is ours is asked about
cities: those of its run where it is a run's checkpoint, else those of the default world. A folder with a
tokenizer of its own reads text (`cwr_mech.activations.prompts`); it has no world of ours, and says so.
"""

import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cwr_mech.artifacts import read_json, sha256_bytes, sha256_file
from cwr_mech.config import RunConfig, WorldConfig
from cwr_mech.errors import AnalysisError, ConfigError, CorruptArtifact, MissingArtifact
from cwr_mech.model.bridge import foreign_config, read_bridged, settings_text, sizes
from cwr_mech.model.settings import model_config
from cwr_mech.model.text import is_ours
from cwr_mech.training.folders import holds_run
from cwr_mech.training.runs import Run, load_run
from cwr_mech.world.cities import World, load_world

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from cwr_mech.model.bridge import TextModel
    from cwr_mech.model.qwen2 import HookedQwen2


def read_model_folder(folder: Path) -> "ModelFolder":
    """The folder as a run of one step.

    Raises CorruptArtifact when its settings are not those of a causal language model that can be read.
    """
    name = re.sub(r"[^A-Za-z0-9._+-]", "-", _name(folder)).lstrip("._+-") or "model"
    content = read_json(folder / "config.json")
    manifest: dict[str, Any] = {"parent": {}, "checkpoints": {}, "state": "done"}
    if content.get("model_type") != "qwen2":
        return BridgedFolder(folder, RunConfig(name=name), manifest)
    try:
        settings = model_config(content)
    except ConfigError as error:
        raise CorruptArtifact(f"{folder} cannot be read as a model: {error.message}", error.hint) from error
    return ModelFolder(folder, RunConfig(name=name, world=_world_of_run(folder), model=settings), manifest)


def _name(folder: Path) -> str:
    """A folder's own name; of a run's checkpoint RUN-step-N."""
    place = folder.resolve()
    return f"{place.parents[1].name}-{place.name}" if place.parent.name == "checkpoints" else place.name


def _world_of_run(folder: Path) -> WorldConfig:
    """The world of the run whose checkpoint a folder is, else the default one."""
    place = folder.resolve().parent  # the root has no parent: a folder may be mounted there
    if place.name != "checkpoints" or not holds_run(place.parent):
        return WorldConfig()
    return load_run(place.parent).config.world


class ModelFolder(Run):
    """A checkpoint folder that no run of ours stands behind."""

    @property
    def name(self) -> str:
        """The folder's name, in letters that a file's name may have."""
        return self.config.name

    @property
    def source(self) -> str:
        """The folder."""
        return self.folder.as_posix()

    @property
    def state(self) -> str:
        """ "done": nothing trains it here."""
        return "done"

    @property
    def steps(self) -> tuple[int, ...]:
        """Its one step."""
        return (0,)

    @property
    def reads_text(self) -> bool:
        """Whether it has a tokenizer of its own, or none, and is therefore never fed with our characters."""
        return not is_ours(self.folder)

    def checkpoint(self, step: int | None = None) -> Path:
        """The folder. Raises MissingArtifact for another step than 0."""
        if step not in (None, 0):
            raise MissingArtifact(f"{self.folder} is one checkpoint, without step {step}", "leave out --step")
        return self.folder

    def model(self, step: int | None = None) -> "HookedQwen2":
        """The model, in float32. Raises CorruptArtifact."""
        from cwr_mech.model.qwen2 import HookedQwen2

        return HookedQwen2.from_pretrained(self.checkpoint(step))

    @cached_property
    def _digest(self) -> str:
        single = self.folder / "model.safetensors"
        if single.is_file():
            return sha256_file(single)
        shards = sorted(path for path in self.folder.glob("*.safetensors") if path.is_file())
        return sha256_bytes(*(f"{shard.name} {sha256_file(shard)}".encode() for shard in shards))

    def sha256(self, step: int | None = None) -> str:
        """Hash of the weights' file; of the names and hashes of its shards where there are several."""
        self.checkpoint(step)
        return self._digest

    def world(self) -> World:
        """The world that questions are about. Raises AnalysisError for a model that reads text."""
        if self.reads_text:
            raise AnalysisError(
                f"{self.folder} has a tokenizer of its own, or none, so our questions about cities do not "
                "fit it",
                f"keep what it holds about texts: cwr-mech cache-acts {self.folder} --prompts FILE.csv, or "
                "--template 'The city of {name} is in'",
            )
        return load_world(self.config.world)

    def metrics(self) -> list[dict[str, Any]]:
        """Nothing: a folder has no history."""
        return []


class BridgedFolder(ModelFolder):
    """A folder with a causal language model of another architecture; `config` says nothing about it."""

    @cached_property
    def _foreign(self) -> "PreTrainedConfig":
        return foreign_config(self.folder)

    @property
    def reads_text(self) -> bool:
        """True: our questions are asked of Qwen2 models only."""
        return True

    @property
    def text_sizes(self) -> tuple[int, int]:
        """Tokens of its vocabulary, and positions. Raises CorruptArtifact."""
        return sizes(self._foreign)

    @property
    def settings(self) -> str:
        """transformers' settings as JSON. Raises CorruptArtifact."""
        return settings_text(self._foreign)

    def model(self, step: int | None = None) -> "HookedQwen2":
        """Raises AnalysisError: it is no HookedQwen2."""
        raise AnalysisError(
            f"{self.folder} holds a {self._foreign.model_type} model, and this needs a Qwen2",
            f"what it holds about texts is kept by: cwr-mech cache-acts {self.folder} --prompts FILE.csv",
        )

    def text_model(self, step: int | None = None) -> "TextModel":
        """The model with TransformerBridge's hooks, in float32. Raises CorruptArtifact."""
        return read_bridged(self.checkpoint(step))
