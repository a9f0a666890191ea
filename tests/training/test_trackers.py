"""Metrics go to a tracker as well as to the listener; what is missing is said before anything is trained."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import synthetic
from matplotlib.image import imread

from cwr_mech.config import RunConfig
from cwr_mech.errors import MissingArtifact, UnknownName
from cwr_mech.report.figures import draw
from cwr_mech.training import trackers
from cwr_mech.training.trackers import log_results, numbers, tracked

LOSS = {"step": 7, "steps": 9, "rows": 14, "loss": 0.5, "losses": {"angle": 0.5}, "lr": 1e-3}
SCORES = {"step": 9, "steps": 9, "scores": {"angle": 12.0}, "scores_new": {"angle": 40}}
FLAT = {"rows": 14.0, "loss": 0.5, "losses/angle": 0.5, "lr": 1e-3}


class Recorder:
    """Stands for one of Accelerate's trackers."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = False

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished = True


def test_a_record_becomes_named_numbers() -> None:
    assert numbers(LOSS) == FLAT
    assert numbers(SCORES) == {"scores/angle": 12.0, "scores_new/angle": 40.0}


def test_both_listeners_hear_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recorder, started = Recorder(), []
    monkeypatch.setattr(trackers, "find_spec", lambda name: name)
    monkeypatch.setattr(trackers, "_started", lambda *given: started.append(given) or recorder)
    heard: list[Mapping[str, Any]] = []
    with suppress(KeyboardInterrupt), tracked("wandb", RunConfig(), tmp_path, heard.append) as listener:
        listener(LOSS)
        listener(SCORES)
        assert not recorder.finished
        raise KeyboardInterrupt
    assert heard == [LOSS, SCORES]
    assert recorder.logged == [(7, FLAT), (9, numbers(SCORES))]
    assert started == [("wandb", "run", RunConfig().model_dump(mode="json"), tmp_path, 7)]
    assert recorder.finished
    with tracked(None, RunConfig(), tmp_path, heard.append) as listener:
        assert listener == heard.append


def test_a_result_is_sent_with_its_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recorder, images = Recorder(), {}
    recorder.log_images = lambda values, step, **kind: images.update(values)  # type: ignore[attr-defined]
    monkeypatch.setattr(trackers, "find_spec", lambda name: name)
    monkeypatch.setattr(trackers, "_started", lambda *given: recorder)
    result = synthetic.probe()
    figures = draw(result, tmp_path, "probe")
    log_results("wandb", {"probe": result, "again": result}, {"probe": figures, "again": []}, tmp_path)
    for step, (name, logged) in enumerate(zip(("probe", "again"), recorder.logged, strict=True)):
        assert logged == (0, {f"{name}/{key}": value for key, value in result.values.items()}), step
    assert set(images) == {f"probe/{path.stem}" for path in figures}
    assert len(figures) == 3
    for path in figures:
        picture = images[f"probe/{path.stem}"]
        assert picture.shape == (1, *imread(path).shape[:2], 3)
        assert 0 <= picture.min() < picture.max() <= 1
    assert recorder.finished


def test_wandb_takes_a_result_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    result = synthetic.probe()
    log_results("wandb", {"probe": result}, {"probe": draw(result, tmp_path, "probe")}, tmp_path)
    kept = {
        path.name.split("_")[0]
        for path in tmp_path.glob("wandb/offline-run-*/files/media/images/probe/*.png")
    }
    assert kept == {"probe-map", "probe-pca", "probe-layers"}


def test_unknown_and_missing_trackers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with (
        pytest.raises(MissingArtifact, match=r"needs the package tensorboard .*pip install tensorboard"),
        tracked("tensorboard", RunConfig(), tmp_path, print),
    ):
        pass
    with (
        pytest.raises(UnknownName, match="did you mean 'tensorboard'"),
        tracked("tensorbord", RunConfig(), tmp_path, print),
    ):
        pass


def test_tensorboard_reads_the_numbers_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tracked("tensorboard", RunConfig(), tmp_path, lambda record: None) as listener:
        listener(LOSS)
        listener(SCORES)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(FLAT) | set(numbers(SCORES))
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(7, 0.5)]
