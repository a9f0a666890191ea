"""The short form of tests/fuzz.py: some dozens of mutated inputs of every kind, and its own alarm."""

from pathlib import Path

import fuzz
import pytest


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> fuzz.Base:
    return fuzz.Base(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("kind", ["h5", "result", "run", "hf", "csv"])
def test_mutated_files_work_or_are_one_line(kind: str, base: fuzz.Base) -> None:
    found = fuzz.try_all(kind, 0, 40, base)
    assert [seen for _, seen in found if seen.outcome in fuzz.FAULTS] == []
    assert len(found) == 40
    assert {seen.outcome for _, seen in found} >= {"refused", "accepted"}


def test_odd_command_lines_work_or_are_one_line(base: fuzz.Base) -> None:
    found = fuzz.try_all("cli", 0, 12, base)
    assert [seen for _, seen in found if seen.outcome in fuzz.FAULTS] == []


def hangs(folder: Path) -> None:
    import signal

    signal.pause()


def grows(folder: Path) -> None:
    bytearray(10 * fuzz.MEMORY)


def writes(folder: Path) -> None:
    (folder / "new.txt").write_text("half")


ALARMS = {
    "hang": hangs,
    "memory": grows,
    "half-written": writes,
    "traceback": lambda folder: [][1],
    "crash": None,
}


@pytest.mark.parametrize("outcome", ALARMS)
def test_the_fuzzer_sees_what_it_is_for(
    outcome: str, base: fuzz.Base, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import os

    monkeypatch.setattr(fuzz, "WALL_SECONDS", 2)
    monkeypatch.setitem(fuzz.USES, "csv", ALARMS[outcome] or (lambda folder: os.abort()))
    found = fuzz.try_all("csv", 0, 2, base)
    assert [seen.outcome for _, seen in found] == [outcome] * 2
    assert fuzz.show({"csv": found}) == 1
    assert "2 inputs, 2 faults" in capsys.readouterr().out
