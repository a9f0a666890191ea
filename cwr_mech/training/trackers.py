"""Metrics, results and figures sent to TensorBoard or Weights & Biases besides, by Accelerate's trackers.

Neither is needed: metrics.jsonl and reports/ hold the same. The package comes from the user.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cwr_mech.config import RunConfig
from cwr_mech.errors import ConfigError, MissingArtifact, one_of
from cwr_mech.results import Result
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
    check_tracker(name)
    tracker: GeneralTracker | None = None

    def both(record: Mapping[str, Any]) -> None:
        nonlocal tracker
        listener(record)
        settings = config.model_dump(mode="json")
        tracker = tracker or _started(name, config.name, settings, folder, record["step"])
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


def check_tracker(name: str) -> None:
    """Raise UnknownName, or MissingArtifact when the package of a tracker is not installed."""
    one_of("tracker", name, TRACKERS)
    if find_spec(name) is None:
        raise MissingArtifact(f"--log {name} needs the package {name}", f"install it: pip install {name}")


def log_results(
    tracker: str, results: Mapping[str, Result], figures: Mapping[str, Sequence[Path]], folder: Path
) -> None:
    """Send the numbers (NAME/VALUE) and the figures (NAME/FILE) of results by name to a tracker, as one run.

    TensorBoard's files go to `folder`/tensorboard. Raises what `tracked` raises.
    """
    from matplotlib.image import imread

    check_tracker(tracker)
    settings = {
        name: {"command": result.command, "inputs": result.inputs, "params": result.params}
        for name, result in results.items()
    }
    run = _started(
        tracker, " ".join([folder.name, *(results if len(results) == 1 else ())]), settings, folder, 0
    )
    try:
        for name, result in results.items():
            plain = {key: value for key, value in result.values.items() if type(value) in (int, float)}
            run.log({f"{name}/{key}": float(value) for key, value in plain.items()}, step=0)
            kind = {"dataformats": "NHWC"} if tracker == "tensorboard" else {}
            for path in figures[name]:
                picture = imread(path)[None, ..., :3]  # [1 height width 3], in 0..1
                run.log_images({f"{name}/{path.stem}": picture}, step=0, **kind)
    finally:
        run.finish()


def _started(name: str, run: str, settings: Mapping[str, Any], folder: Path, step: int) -> "GeneralTracker":
    from accelerate import PartialState
    from accelerate.tracking import TensorBoardTracker, WandBTracker

    PartialState()  # Accelerate's trackers speak through a logger that insists on it
    if name == "tensorboard":
        tracker: GeneralTracker = TensorBoardTracker("tensorboard", folder, purge_step=step)
        tracker.start()
        return tracker
    import wandb

    tracker = WandBTracker(PROJECT, name=run, dir=folder.as_posix(), config=dict(settings))
    try:
        tracker.start()
    except wandb.Error as error:
        raise ConfigError(
            f"wandb does not start: {error}", "log in with 'wandb login', or set WANDB_MODE=offline"
        ) from error
    return tracker
