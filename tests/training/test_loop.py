"""A training ends with the same weights however often and wherever it was stopped."""

import json
import resource
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import two_processes

from cwr_mech.artifacts import folder_lock
from cwr_mech.errors import (
    ArtifactExists,
    ArtifactLocked,
    ConfigError,
    CorruptArtifact,
    MissingArtifact,
    NoSpace,
    TrainingDiverged,
)
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.training.engine import GradientHook
from cwr_mech.training.loop import Trainer, checkpoint_steps, train
from cwr_mech.training.optimizer import Optimizer
from cwr_mech.training.parameters import module_of
from cwr_mech.training.runs import Run, load_run
from cwr_mech.training.state import recover_state

STEPS = 20
CONFIG = two_processes.CONFIG.with_settings([f"steps={STEPS}", "batch_size=8", "eval_every=10"])


def weights(run: Run) -> dict[str, str]:
    """Digest of every checkpoint, as the manifest claims and as the files are."""
    found = {str(step): run.sha256(step) for step in run.steps}
    assert found == run.manifest["checkpoints"]
    return found


def lines(run: Run, key: str) -> list[int]:
    """Steps of the metrics lines that hold `key`."""
    return [line["step"] for line in run.metrics() if key in line]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(CONFIG, tmp_path_factory.mktemp("run") / "t")


def interrupt_at(step: int, key: str = "loss") -> Callable[[Mapping[str, Any]], None]:
    """A listener that presses Ctrl-C when it hears of `step`."""

    def listener(record: Mapping[str, Any]) -> None:
        if record["step"] == step and key in record:
            raise KeyboardInterrupt

    return listener


def test_a_finished_run_is_complete(unbroken: Run) -> None:
    assert unbroken.state == "done"
    assert unbroken.steps == tuple(sorted(checkpoint_steps(STEPS, 2)))
    assert len(set(weights(unbroken).values())) == len(unbroken.steps)
    assert lines(unbroken, "loss") == list(range(1, STEPS + 1))
    assert lines(unbroken, "scores") == [10, 20]
    assert unbroken.model(0).config == CONFIG.model
    started = HookedQwen2(CONFIG.model, seed=CONFIG.train.seed)
    assert torch.equal(unbroken.model(0).W_E, started.W_E)
    left = {path.name for path in unbroken.folder.iterdir()}
    assert left == {".lock", "manifest.json", "metrics.jsonl", "checkpoints"}


@pytest.mark.parametrize(
    ("step", "key"), [(1, "loss"), (7, "loss"), (8, "loss"), (10, "scores"), (20, "scores")]
)
def test_ctrl_c_loses_nothing(tmp_path: Path, unbroken: Run, step: int, key: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, tmp_path / "t", listener=interrupt_at(step, key))
    assert load_run(tmp_path / "t").state == "interrupted"
    state = recover_state(tmp_path / "t")
    assert state is not None
    assert state.step == step
    run = train(CONFIG, tmp_path / "t", resume=True)
    assert weights(run) == weights(unbroken)
    assert lines(run, "loss") == lines(unbroken, "loss")
    assert lines(run, "scores") == lines(unbroken, "scores")


def test_many_interruptions_equal_none(tmp_path: Path, unbroken: Run) -> None:
    for attempt in range(2, STEPS, 3):
        with pytest.raises(KeyboardInterrupt):
            train(CONFIG, tmp_path / "t", resume=attempt > 2, listener=interrupt_at(attempt))
    run = train(CONFIG, tmp_path / "t", resume=True)
    assert weights(run) == weights(unbroken)
    seconds = [line["seconds"] for line in run.metrics()]
    assert seconds == sorted(seconds)


def test_half_an_update_is_not_saved(tmp_path: Path, unbroken: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_step = Optimizer.step

    def half_step(self: Optimizer, step: int, norm: float) -> None:
        if step == 9:
            self.flat.values.mul_(2)
            raise KeyboardInterrupt
        whole_step(self, step, norm)

    with monkeypatch.context() as patch:
        patch.setattr(Optimizer, "step", half_step)
        with pytest.raises(KeyboardInterrupt):
            train(CONFIG, tmp_path / "t")
    state = recover_state(tmp_path / "t")
    assert state is not None
    assert state.step == 8
    assert weights(train(CONFIG, tmp_path / "t", resume=True)) == weights(unbroken)


def truncate(path: Path) -> None:
    """Cut a file in the middle."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Change one bit of the last number."""
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip])
@pytest.mark.parametrize("n_broken", [1, 2])
def test_broken_states_are_passed_over(
    tmp_path: Path, unbroken: Run, damage: Callable[[Path], None], n_broken: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, tmp_path / "t", listener=interrupt_at(13))
    files = sorted((tmp_path / "t").glob("state-*"), key=lambda path: path.stat().st_mtime_ns)
    assert len(files) == 2
    for path in files[-n_broken:]:
        damage(path)
    state = recover_state(tmp_path / "t")
    assert (state.step if state else None) == (12 if n_broken == 1 else None)
    run = train(CONFIG, tmp_path / "t", resume=True)
    assert weights(run) == weights(unbroken)
    assert lines(run, "loss") == lines(unbroken, "loss")


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file may grow beyond `limit` bytes; writing more fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("limit", [1_000, 40_000])
def test_a_full_disk_stops_training_and_costs_nothing(tmp_path: Path, unbroken: Run, limit: int) -> None:
    with full_disk(limit), pytest.raises(NoSpace, match="no space left"):
        train(CONFIG, tmp_path / "t")
    assert not list((tmp_path / "t").rglob("*.part-*"))
    run = train(CONFIG, tmp_path / "t", resume=(tmp_path / "t" / "manifest.json").exists())
    assert weights(run) == weights(unbroken)


def test_divergence_keeps_the_last_good_checkpoints(tmp_path: Path) -> None:
    settings = CONFIG.with_settings(["lr=1e30", "schedule=constant", "warmup=18"])
    with pytest.raises(TrainingDiverged, match="no longer a number after step"):
        train(settings, tmp_path / "t")
    run = load_run(tmp_path / "t")
    assert run.state == "diverged"
    for step in run.steps:
        assert all(torch.isfinite(parameter).all() for parameter in run.model(step).parameters())
    with pytest.raises(TrainingDiverged, match="would again"):
        train(settings, tmp_path / "t", resume=True)


def test_an_infinite_gradient_never_reaches_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Optimizer, "norm", lambda self: float("nan"))
    with pytest.raises(TrainingDiverged):
        train(CONFIG, tmp_path / "t")
    assert load_run(tmp_path / "t").steps == (0,)


def test_folders_in_use_are_left_alone(tmp_path: Path, unbroken: Run) -> None:
    with pytest.raises(ArtifactExists, match="holds a run already"):
        train(CONFIG, unbroken.folder)
    with pytest.raises(ConfigError, match="other settings"):
        train(CONFIG.with_settings(["lr=1"]), unbroken.folder, resume=True)
    with pytest.raises(MissingArtifact):
        train(CONFIG, tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactExists, match="not a run"):
        train(CONFIG, tmp_path)
    with folder_lock(unbroken.folder), pytest.raises(ArtifactLocked, match="in use by process"):
        train(CONFIG, unbroken.folder, resume=True)
    before = (unbroken.folder / "manifest.json").read_bytes()
    assert train(CONFIG, unbroken.folder, resume=True).state == "done"
    assert (unbroken.folder / "manifest.json").read_bytes() == before


def test_a_start_killed_before_its_manifest_can_be_made_again(tmp_path: Path, unbroken: Run) -> None:
    HookedQwen2(CONFIG.model, seed=1).save_pretrained(tmp_path / "t" / "checkpoints" / "step-0000000")
    assert weights(train(CONFIG, tmp_path / "t")) == weights(unbroken)


def test_a_run_killed_while_running_is_called_stopped(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        train(CONFIG, tmp_path / "t", listener=_leave)
    run = load_run(tmp_path / "t")
    assert run.state == "stopped"
    with folder_lock(run.folder):
        assert run.state == "running"


def _leave(record: Mapping[str, Any]) -> None:
    raise SystemExit


def test_a_run_from_a_base_resumes_without_it(tmp_path: Path, unbroken: Run) -> None:
    def leave_at_once(record: Mapping[str, Any]) -> None:
        raise SystemExit

    whole = train(CONFIG, tmp_path / "whole", base=unbroken)
    assert whole.parent == unbroken.name
    assert whole.manifest["parent"]["sha256"] == unbroken.sha256()
    assert whole.sha256(0) == unbroken.sha256()
    with pytest.raises(SystemExit):  # before any state was saved
        train(CONFIG, tmp_path / "cut", base=unbroken, listener=leave_at_once)
    assert weights(train(CONFIG, tmp_path / "cut", resume=True)) == weights(whole)
    with pytest.raises(ConfigError, match="another shape"):
        train(CONFIG.with_settings(["d_mlp=32"]), tmp_path / "other", base=unbroken)


def test_a_hook_is_given_the_rows_and_may_change_the_gradient(tmp_path: Path, unbroken: Run) -> None:
    seen: list[int] = []

    def silent(rows: Any) -> GradientHook:
        def at(layer: int, grad: torch.Tensor, x: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
            seen.extend(which.tolist())
            assert grad.shape == x.shape
            assert grad.shape[0] == len(which)
            return grad

        return at

    def deaf(rows: Any) -> GradientHook:
        return lambda layer, grad, x, which: torch.zeros_like(grad)

    assert weights(train(CONFIG, tmp_path / "silent", hook=silent)) == weights(unbroken)
    assert sorted(seen) == sorted(list(range(8)) * STEPS)
    run = train(CONFIG.with_settings(["weight_decay=0"]), tmp_path / "deaf", hook=deaf)
    assert torch.equal(run.model().W_E, run.model(0).W_E)
    assert not torch.equal(run.model().W_U, run.model(0).W_U)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("only", [("E",), ("L0", "U")])
def test_frozen_modules_keep_every_bit_and_a_resume_knows_it(
    tmp_path: Path, only: tuple[str, ...], optimizer: str
) -> None:
    settings = {"train_only": only, "optimizer": optimizer, "weight_decay": 0.5, "final_dtype": "float16"}
    config = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update=settings)})
    run = train(config, tmp_path / "frozen")
    before, after = (dict(run.model(step).named_parameters()) for step in (0, STEPS))
    for name, value in before.items():
        assert torch.equal(value, after[name]) == (module_of(name) not in only), name
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "broken", listener=interrupt_at(7))
    assert weights(train(config, tmp_path / "broken", resume=True)) == weights(run)
    with pytest.raises(ConfigError, match="other settings"):  # the manifest says what was frozen
        train(CONFIG, tmp_path / "frozen", resume=True)


def test_a_changed_world_is_noticed(tmp_path: Path, unbroken: Run) -> None:
    manifest = dict(unbroken.manifest) | {"world_sha256": "0" * 64}
    with pytest.raises(CorruptArtifact, match="no longer the one"):
        Run(unbroken.folder, unbroken.config, manifest).world()


def test_metrics_lines_are_whole_and_evenly_spaced(tmp_path: Path) -> None:
    config = CONFIG.with_settings(["steps=2500", "eval_every=5000"])
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "t", listener=interrupt_at(30))
    text = (tmp_path / "t" / "metrics.jsonl").read_text()
    assert [json.loads(line)["step"] for line in text.splitlines()] == list(range(3, 31, 3))
    line = json.loads(text.splitlines()[0])
    assert line["rows"] == 24
    assert set(line["losses"]) == {"distance", "compass"}
    assert 0 <= line["data_share"] < 1


def test_losses_of_answers_alone_leave_the_question_out(tmp_path: Path) -> None:
    run = train(CONFIG.with_settings(["loss=answer", "steps=1"]), tmp_path / "t")
    trainer_loss = run.metrics()[0]["loss"]
    trainer = Trainer(train(CONFIG.with_settings(["steps=1"]), tmp_path / "u"))
    rows = trainer.batches.at(0)
    logp = run.model(0)(torch.from_numpy(rows.tokens.astype(np.int64))).log_softmax(-1).detach()
    place = np.arange(rows.tokens.shape[1])[None]
    counts = (place >= rows.answer_start[:, None]) & (place < rows.lengths[:, None])
    picked = logp[:, :-1].gather(2, torch.from_numpy(rows.tokens[:, 1:, None].astype(np.int64)))[..., 0]
    expected = -(picked.numpy() * counts[:, 1:]).sum() / counts.sum()
    assert trainer_loss == pytest.approx(expected, rel=1e-5)


def test_last_weights_fit_into_float16_where_asked(tmp_path: Path) -> None:
    half = CONFIG.with_settings(["final_dtype=float16", "optimizer=muon"])
    run = train(half, tmp_path / "half")
    first, last = (run.model(step).state_dict() for step in (0, run.last_step))
    assert all(torch.equal(value, value.half().float()) for value in last.values())
    assert any(not torch.equal(value, value.half().float()) for value in first.values())
    broken = tmp_path / "broken"
    stops = iter([KeyboardInterrupt])

    def stop(record: Mapping[str, Any]) -> None:
        if record["step"] >= 7:
            for error in stops:
                raise error

    with pytest.raises(KeyboardInterrupt):
        train(half, broken, listener=stop)
    assert weights(train(half, broken, resume=True)) == weights(run)
