"""Begin a run: its folder, the model that it starts from, and its manifest."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cwr_mech.artifacts import PART, atomic_file, provenance, sha256_file, write_json
from cwr_mech.config import RunConfig
from cwr_mech.errors import ArtifactExists, ConfigError
from cwr_mech.tasks.tokenizer import VOCAB, Tokenizer
from cwr_mech.training.runs import CITIES, SCHEMA, Run, checkpoint_path, load_run
from cwr_mech.world.cities import load_world
from cwr_mech.world.sources import is_file

if TYPE_CHECKING:
    from cwr_mech.model.qwen2 import HookedQwen2

LONGEST_QUESTION = 64
"""Positions that a question with its answer may take."""


def require_free(folder: Path) -> None:
    """Raises ArtifactExists when `folder` holds a run, or anything else that is not ours."""
    if (folder / "manifest.json").exists():
        raise ArtifactExists(f"{folder} holds a run already", "continue it with --resume, or change --out")
    own = (".lock", "checkpoints", CITIES)
    here = [path.name for path in folder.iterdir()] if folder.exists() else []
    if any(name not in own and PART not in name for name in here):  # parts of a killed one are swept away
        raise ArtifactExists(f"{folder} exists and is not a run", "choose another --out")


def create_run(
    folder: Path,
    config: RunConfig,
    model: "HookedQwen2",
    parent: Run | None = None,
    parent_step: int | None = None,
) -> Run:
    """Begin a run that starts from `model`: write its first checkpoint, then the manifest.

    The manifest comes last, so where there is one there is also a model to start from, whatever it was made
    of. Cities from a user's CSV file are copied, so that the run stands without it. `parent` is the run whose
    checkpoint `model` is, the last one or that of `parent_step`. Raises ArtifactExists when the folder is
    taken, ConfigError for a model too small for questions.
    """
    require_free(folder)
    if config.model.d_vocab < len(VOCAB) or config.model.n_ctx < LONGEST_QUESTION:
        raise ConfigError(
            f"d_vocab {config.model.d_vocab} and n_ctx {config.model.n_ctx} are too few for our questions",
            f"they need {len(VOCAB)} tokens and {LONGEST_QUESTION} positions at least",
        )
    world = load_world(config.world)
    parents: dict[str, Any] = {}
    if parent is not None:
        step = parent.last_step if parent_step is None else parent_step
        parents = {"run": parent.name, "folder": parent.source, "step": step, "sha256": parent.sha256(step)}
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
