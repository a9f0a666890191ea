"""Two processes do what one does with the same batch; one that dies takes nothing with it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two_processes
from two_processes import CONFIG, DEAD, STOPPED, ByRow

from cwr_mech.errors import ConfigError
from cwr_mech.training.distributed import Processes, launched
from cwr_mech.training.loop import train
from cwr_mech.training.runs import Run, load_run

LAUNCH = (
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("together")
    command = [sys.executable, *LAUNCH, two_processes.__file__, str(place)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode != 0  # the last of its trainings loses a process
    assert (place / "dead").exists(), done.stderr[-3000:]
    return place


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(CONFIG, tmp_path_factory.mktemp("alone") / "t", hook=ByRow())


def assert_near(run: Run, other: Run) -> None:
    """All checkpoints agree to what sums in another order leave open."""
    assert run.steps == other.steps
    for step in run.steps:
        for ours, theirs in zip(run.model(step).parameters(), other.model(step).parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_two_processes_train_as_one_with_the_same_batch(folder: Path, alone: Run, tmp_path: Path) -> None:
    run = load_run(folder / "whole")
    assert run.state == "done"
    assert_near(run, alone)
    with pytest.raises(AssertionError):  # the change by row, which tells the rows apart, is no trifle
        assert_near(run, train(CONFIG, tmp_path / "t"))
    assert run.manifest["computed"][0]["processes"] == 2
    pairs = list(zip(run.metrics(), alone.metrics(), strict=True))
    assert [ours["step"] for ours, _ in pairs] == [theirs["step"] for _, theirs in pairs]
    for ours, theirs in pairs:
        assert ours.get("loss", 0) == pytest.approx(theirs.get("loss", 0), rel=1e-4)
    assert sum("scores" in line for line, _ in pairs) == 2


def test_interrupted_and_resumed_they_end_with_the_same_bits(folder: Path) -> None:
    whole, cut = load_run(folder / "whole"), load_run(folder / "cut")
    assert [cut.sha256(step) for step in cut.steps] == [whole.sha256(step) for step in whole.steps]
    assert [entry["from_step"] for entry in cut.manifest["computed"]] == [0]
    assert 0 < STOPPED < CONFIG.train.steps


def test_a_process_that_dies_costs_nothing(folder: Path, alone: Run) -> None:
    dead = load_run(folder / "dead")
    assert dead.state in ("interrupted", "stopped")
    assert not list(dead.folder.rglob("*.part-*"))
    run = train(CONFIG, dead.folder, resume=True, hook=ByRow())  # by one process
    assert_near(run, alone)
    assert [entry["processes"] for entry in run.manifest["computed"]] == [2, 1]
    assert run.manifest["computed"][1]["from_step"] in (4, DEAD)


def test_launchers_that_start_one_process_are_told_so() -> None:
    plain = {"ACCELERATE_MIXED_PRECISION": "no"}
    assert launched({}, "cpu") == launched(plain, "cpu") == Processes()
    with pytest.raises(ConfigError, match=r"started one.*--multi_gpu"):
        launched({**plain, "MASTER_PORT": "29500"}, "cpu")


@pytest.mark.parametrize("left", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "x"}, {"WORLD_SIZE": ""}])
def test_what_another_launcher_left_in_the_environment_is_named(
    left: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate import PartialState

    for name, value in left.items():
        monkeypatch.setenv(name, value)
    PartialState._reset_state()  # it is one object in a process, also when it could not be made
    with pytest.raises(ConfigError, match="unset WORLD_SIZE"):
        launched(left, "cpu")


def test_a_batch_must_have_a_row_for_each_process(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a batch of 9 rows is too small for 10 processes"):
        Processes(0, 10).check_batch(9)


def test_shares_make_up_the_batch() -> None:
    rows = torch.arange(9)
    shares = [Processes(rank, 4) for rank in range(4)]
    parts = [rows[one.share()] for one in shares]
    assert torch.cat(parts).sort().values.equal(rows)
    for one, part in zip(shares, parts, strict=True):
        assert one.in_batch(torch.arange(len(part))).equal(part)
