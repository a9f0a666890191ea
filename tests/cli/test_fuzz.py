"""The short form of tests/fuzz.py: some dozens of mutated inputs of every kind, and its own alarm."""

import os
from collections.abc import Iterator
from pathlib import Path

import fuzz
import psutil
import pytest


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> fuzz.Base:
    return fuzz.Base(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("kind", ["h5", "result", "run", "zoo", "hf", "csv", "plan"])
def test_mutated_files_work_or_are_one_line(kind: str, base: fuzz.Base) -> None:
    found = dict(fuzz.try_all(kind, 0, list(range(40)), base))
    assert [seen for seen in found.values() if seen.outcome in fuzz.FAULTS] == []
    assert len(found) == 40
    assert {seen.outcome for seen in found.values()} >= {"refused", "accepted"}


def test_odd_command_lines_work_or_are_one_line(base: fuzz.Base) -> None:
    found = dict(fuzz.try_all("cli", 0, list(range(12)), base))
    assert [seen for seen in found.values() if seen.outcome in fuzz.FAULTS] == []


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
    monkeypatch.setattr(fuzz, "WALL_SECONDS", 2)
    monkeypatch.setitem(fuzz.USES, "csv", ALARMS[outcome] or (lambda folder: os.abort()))
    found = list(fuzz.try_all("csv", 0, [0, 1], base))
    assert [seen.outcome for _, seen in found] == [outcome] * 2
    assert fuzz.show({"csv": found}) == 1
    assert "2 inputs, 2 faults" in capsys.readouterr().out


def test_a_stopped_run_shows_what_it_tried_and_goes_on_from_its_log(
    base: fuzz.Base, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    log = fuzz.Log(0, path)
    assert not fuzz.work(("csv",), 6, log, base, minutes=0)  # stops after the first input
    assert len(log.found["csv"]) == 1
    with path.open("a") as file:
        file.write('[0, "csv", 5, "acc')  # cut by a power failure
    again = fuzz.Log(0, path)
    assert again.found == log.found
    assert fuzz.work(("csv",), 6, again, base, minutes=60)
    assert sorted(again.found["csv"]) == list(range(6))
    assert fuzz.Log(0, path).found == again.found
    assert fuzz.Log(1, path).found == {}  # another seed has other inputs
    at_once = dict(fuzz.try_all("csv", 0, list(range(6)), base))
    assert {key: seen[:2] for key, seen in again.found["csv"].items()} == {
        key: seen[:2] for key, seen in at_once.items()
    }  # what was said names folders


def test_an_interrupt_ends_the_child_and_counts_what_was_tried(
    base: fuzz.Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(psutil.Process().children())
    tried = iter(fuzz.try_all("csv", 0, [0, 1, 2], base))

    def interrupted(*arguments: object) -> Iterator[tuple[int, fuzz.Seen]]:
        yield next(tried)
        try:
            raise KeyboardInterrupt
        finally:
            tried.close()

    monkeypatch.setattr(fuzz, "try_all", interrupted)
    log = fuzz.Log(0, None)
    assert not fuzz.work(("csv",), 3, log, base, minutes=60)
    assert list(log.found["csv"]) == [0]
    assert set(psutil.Process().children()) <= before, "other tests' helpers may be there"
