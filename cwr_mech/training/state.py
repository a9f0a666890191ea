"""The state of a training on disk: two files written in turn, each whole, each with its own checksum."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cwr_mech.artifacts import atomic_file, sha256_bytes

FILES = ("state-0.safetensors", "state-1.safetensors")


@dataclass(frozen=True, eq=False)
class TrainingState:
    """Everything a resume needs.

    metrics_length: bytes of metrics.jsonl that belong to the steps done; lines after them are of steps that
    will be done again. seconds: time the run has taken so far.
    """

    step: int
    metrics_length: int
    seconds: float
    tensors: dict[str, Tensor]


def write_state(folder: Path, state: TrainingState) -> None:
    """Write over the older of the two files. Raises NoSpace, and then both files stand as they were."""
    older = min((_step_of(folder / name), name) for name in FILES)[1]
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.tensors.items()}
    metadata = {
        "step": str(state.step),
        "metrics_length": str(state.metrics_length),
        "seconds": repr(state.seconds),
    }
    metadata["sha256"] = _digest(metadata, tensors)
    with atomic_file(folder / older) as part:
        save_file(tensors, part, metadata=metadata)


def find_state(folder: Path) -> tuple[TrainingState | None, list[Path]]:
    """The newest state that is whole (None: there is none), and the files that are truncated or altered."""
    read = {folder / name: _read(folder / name) for name in FILES}
    whole = [state for state in read.values() if state is not None]
    broken = [path for path, state in read.items() if state is None and path.exists()]
    return max(whole, key=lambda state: state.step, default=None), broken


def recover_state(folder: Path) -> TrainingState | None:
    """The newest state that is whole; None when there is none.

    Truncated or altered files are removed, so that the next write does not spare them.
    """
    state, broken = find_state(folder)
    for path in broken:
        path.unlink(missing_ok=True)
    return state


def remove_states(folder: Path) -> None:
    """Remove both files: the training is done."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)


def _digest(metadata: dict[str, str], tensors: dict[str, Tensor]) -> str:
    about = [f"{key}={metadata[key]}".encode() for key in sorted(metadata)]
    # As bytes without a copy: a large model's state is several times as large as all else in memory.
    chunks = (tensors[name].reshape(-1).view(torch.uint8).numpy().data for name in sorted(tensors))
    return sha256_bytes(*about, *chunks)


def _step_of(path: Path) -> int:
    """The step a file claims to hold, -1 when it is not there or cannot be read."""
    try:
        with safe_open(path, "pt") as handle:
            return int(handle.metadata()["step"])
    except (SafetensorError, KeyError, TypeError, ValueError, OSError):
        return -1


def _read(path: Path) -> TrainingState | None:
    try:
        with safe_open(path, "pt") as handle:
            metadata: dict[str, str] = handle.metadata() or {}
            names: list[str] = list(handle.keys())
            tensors = {name: handle.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, RuntimeError):
        return None
    claimed = metadata.pop("sha256", None)
    try:
        if claimed != _digest(metadata, tensors):
            return None
        return TrainingState(
            int(metadata["step"]), int(metadata["metrics_length"]), float(metadata["seconds"]), tensors
        )
    except (KeyError, ValueError, RuntimeError, TypeError):  # another program's file of this name
        return None
