"""The optimiser's state on disk: two files written in turn, each whole, each with its own checksum."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cwr_mech.artifacts import atomic_file, sha256_bytes


def _digest(tensors: dict[str, Tensor]) -> str:
    return sha256_bytes(*(tensors[name].contiguous().numpy().tobytes() for name in sorted(tensors)))


def _newest_first(folder: Path) -> list[tuple[int, Path]]:
    found = []
    for path in sorted(folder.glob("state-*.safetensors")):
        try:
            with safe_open(path, "pt") as handle:
                found.append((int(handle.metadata()["step"]), path))
        except (SafetensorError, KeyError, TypeError, ValueError, OSError):
            continue
    return sorted(found, reverse=True)


def write_state(folder: Path, step: int, metrics_length: int, tensors: dict[str, Tensor]) -> None:
    """Write the state of `step` over the older of the two files. Raises NoSpace."""
    newest = _newest_first(folder)
    name = (
        "state-1.safetensors"
        if newest and newest[0][1].name == "state-0.safetensors"
        else "state-0.safetensors"
    )
    whole = {key: value.detach().clone().contiguous() for key, value in tensors.items()}
    metadata = {"step": str(step), "metrics_length": str(metrics_length), "sha256": _digest(whole)}
    with atomic_file(folder / name) as part:
        save_file(whole, part, metadata=metadata)


def read_state(folder: Path) -> tuple[int, int, dict[str, Tensor]] | None:
    """(step, length of metrics.jsonl, tensors) of the newest state that is whole; None when there is none.

    A truncated or altered file is passed over, so that training goes on from the one before it.
    """
    for step, path in _newest_first(folder):
        try:
            with safe_open(path, "pt") as handle:
                metadata = handle.metadata()
                tensors: dict[str, Tensor] = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            continue
        if _digest(tensors) == metadata.get("sha256"):
            return step, int(metadata["metrics_length"]), tensors
    return None
