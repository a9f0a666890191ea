"""Metrics sent to TensorBoard or Weights & Biases besides, through Accelerate's trackers.

Neither is needed: metrics.jsonl holds the same numbers. The package comes from the user.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cwr_mech.config import RunConfig
from cwr_mech.errors import ConfigError, MissingArtifact, UnknownName
from cwr_mech.training.loop import Listener

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

TRACKERS = ("tensorboard", "wandb")
PROJECT = "cwr-mech"


@contextmanager
def tracked(name: str | None, config: RunConfig, folder: Path, listener: Listener) -> Iterator[Listener]:
    """Yield a listener for `train` that passes everything on to `listener` and to the tracker `name`, if any.

    TensorBoard's files go to `folder`/tensorboard, where a resume takes back the steps that are done again;
    a resume is a new run of Weights & Biases. Raises UnknownName, MissingArtifact when the package is not
    installed, and ConfigError when the tracker does not start.
    """
    if name is None:
        yield listener
        return
    if name not in TRACKERS:
        raise UnknownName("tracker", name, TRACKERS)
    if find_spec(name) is None:
        raise MissingArtifact(f"--log {name} needs the package {name}", f"install it: pip install {name}")
    tracker: GeneralTracker | None = None

    def both(record: Mapping[str, Any]) -> None:
        nonlocal tracker
        listener(record)
        tracker = tracker or _started(name, config, folder, record["step"])
        tracker.log(numbers(record), step=record["step"])

    try:
        yield both
    finally:
        if tracker is not None:
            tracker.finish()


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a metrics line by name; those of tasks as losses/distance, scores/distance, ..."""
    flat: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}/{task}": float(number) for task, number in value.items()}
        elif key not in ("step", "steps"):
            flat[key] = float(value)
    return flat


def _started(name: str, config: RunConfig, folder: Path, step: int) -> "GeneralTracker":
    from accelerate import PartialState
    from accelerate.tracking import TensorBoardTracker, WandBTracker

    PartialState()  # Accelerate's trackers speak through a logger that insists on it
    if name == "tensorboard":
        tracker: GeneralTracker = TensorBoardTracker("tensorboard", folder, purge_step=step)
        tracker.start()
        return tracker
    import wandb

    settings = config.model_dump(mode="json")
    tracker = WandBTracker(PROJECT, name=config.name, dir=folder.as_posix(), config=settings)
    try:
        tracker.start()
    except wandb.Error as error:
        raise ConfigError(
            f"wandb does not start: {error}", "log in with 'wandb login', or set WANDB_MODE=offline"
        ) from error
    return tracker
