"""Files are whole or absent; what goes wrong is said in one line."""

import errno
import fcntl
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cwr_mech.artifacts import (
    HOST,
    NO_LOCKS,
    atomic_file,
    atomic_folder,
    disk_errors,
    folder_lock,
    is_locked,
    provenance,
    read_json,
    sha256_bytes,
    sha256_file,
    sweep_parts,
    write_json,
)
from cwr_mech.errors import (
    ArtifactError,
    ArtifactLocked,
    CorruptArtifact,
    MissingArtifact,
    NoSpace,
    SchemaMismatch,
)

SYSTEM_ERRORS = [
    (errno.ENOSPC, NoSpace),
    (errno.EDQUOT, NoSpace),
    (errno.EROFS, ArtifactError),
    (errno.EACCES, ArtifactError),
]

BROKEN_JSON = [
    ("", CorruptArtifact),
    ('{"schema": "x/1", "a"', CorruptArtifact),
    ("[1, 2]", CorruptArtifact),
    ("[" * 100_000, CorruptArtifact),
    ('{"schema": "x/1", "a": NaN}', CorruptArtifact),
    ('{"schema": "x/1", "a": "\\ud800"}', CorruptArtifact),
    ('{"schema": "x/0"}', SchemaMismatch),
    ("{}", SchemaMismatch),
]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with atomic_file(target) as part:
        part.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_file(target) as part:
        part.write_text(str(len("new") // part.write_text("")))
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_others_may_read_what_they_may_read_of_any_new_file(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    with atomic_folder(tmp_path / "folder") as part:
        save_file({"x": torch.zeros(2)}, part / "weights")
    with atomic_file(tmp_path / "weights") as file:
        save_file({"x": torch.zeros(2)}, file)
    modes = {path.stat().st_mode for path in (plain, tmp_path / "weights", tmp_path / "folder" / "weights")}
    assert len(modes) == 1


def test_a_failed_folder_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for content in ("old", "newer"):
        with atomic_folder(target) as part:
            (part / "w").write_text(content)
    with pytest.raises(ZeroDivisionError), atomic_folder(target) as part:
        (part / "w").write_text(str(1 // (part / "v").write_text("")))
    assert (target / "w").read_text() == "newer"
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize(("code", "expected"), SYSTEM_ERRORS)
def test_what_the_system_says_becomes_one_line(tmp_path: Path, code: int, expected: type) -> None:
    with pytest.raises(expected) as caught, atomic_file(tmp_path / "a"):
        raise OSError(code, os.strerror(code))
    assert str(tmp_path / "a") in caught.value.message
    assert caught.value.hint
    assert names(tmp_path) == []


def test_other_system_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError), disk_errors(tmp_path):
        raise ConnectionResetError


WRITER = """
import sys, time
from cwr_mech.artifacts import atomic
atomic.HOST = sys.argv[2]
with atomic.atomic_file(sys.argv[1]) as part:
    part.write_text("half")
    print(part, flush=True)
    time.sleep(60)
"""


def half_written(target: Path, host: str = "here") -> tuple[subprocess.Popen[str], Path]:
    """A process of its own in the middle of writing `target`, and its temporary file."""
    command = [sys.executable, "-c", WRITER, str(target), host]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_process_left_goes_with_the_next_write_there(tmp_path: Path) -> None:
    for path in ("download.part-1", "a.part-ab-1-2-cafe", "kept"):  # names that are not ours
        (tmp_path / path).touch()
    killed, left = half_written(tmp_path / "a.json")
    living, busy = half_written(tmp_path / "b.json", "another.container")
    try:
        killed.kill()
        killed.wait()
        assert left.exists()
        write_json(tmp_path / "other.json", {})
        assert not left.exists()
        assert busy.exists(), "a file that is being written was swept away"
        sweep_parts(tmp_path)
        assert busy.exists()
    finally:
        living.kill()
        living.wait()
    sweep_parts(tmp_path.parent, deep=True)
    assert names(tmp_path) == ["a.part-ab-1-2-cafe", "download.part-1", "kept", "other.json"]


def test_threads_and_processes_of_one_number_write_side_by_side(tmp_path: Path) -> None:
    target = tmp_path / "x.json"

    def write(number: int) -> None:
        for _ in range(30):
            write_json(target, {"number": number, "filler": list(range(300))})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))  # raises what a thread raised
    assert read_json(target)["number"] in range(4)
    assert names(tmp_path) == ["x.json"]
    with atomic_file(target) as first, atomic_file(target) as second:
        assert first != second
        assert str(os.getpid()) in first.name
        first.write_text("1")
        second.write_text("2")


def test_links_stay_links_and_are_written_through(tmp_path: Path) -> None:
    disk, link = tmp_path / "disk", tmp_path / "link"
    disk.mkdir()
    link.symlink_to(disk)
    (tmp_path / "file-link").symlink_to(disk / "new.txt")
    with atomic_file(tmp_path / "file-link") as part:
        part.write_text("x")
    with atomic_folder(link) as part:
        (part / "w").write_text("w")
    assert link.is_symlink()
    assert (tmp_path / "file-link").is_symlink()
    assert names(disk) == ["new.txt", "w"]


def test_a_folder_in_use_keeps_what_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "figures").mkdir()
    for name in ("notes.txt", "figures/a.png", "old.bin", "w"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "w").chmod(0o640)
    monkeypatch.chdir(tmp_path)
    with atomic_folder(".", stale=["old.bin", "../" + tmp_path.name + "/notes.txt"]) as part:
        (part / "deep").mkdir()
        (part / "deep" / "v").write_text("v")
        (part / "w").write_text("new")
    assert names(tmp_path) == ["deep", "figures", "notes.txt", "w"]
    assert (tmp_path / "figures" / "a.png").read_text() == "mine"
    assert (tmp_path / "w").read_text() == "new"


def test_the_last_file_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (moved.append(Path(b).name), replace(a, b)))
    with atomic_folder(tmp_path, last="a") as part:
        for name in "cab":
            (part / name).touch()
    assert moved == ["b", "c", "a"]


def in_the_way(folder: Path) -> dict[str, Path]:
    (folder / "folder").mkdir()
    (folder / "file").write_text("precious")
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe")
    return {name: folder / name for name in ("folder", "file", "loop", "pipe")} | {
        "below a file": folder / "file" / "x",
        "too long": folder / ("a" * 300),
        "nul": folder / "a\0b",
    }


def test_what_is_in_the_way_stays_and_is_named(tmp_path: Path) -> None:
    places = in_the_way(tmp_path)
    before = sorted((path.name, path.lstat().st_ino) for path in tmp_path.iterdir())
    for name, path in places.items():
        for writer, harmless in ((atomic_file, "file"), (atomic_folder, "folder")):
            if name != harmless:
                with pytest.raises(ArtifactError), writer(path):
                    pass
    assert sorted((path.name, path.lstat().st_ino) for path in tmp_path.iterdir()) == before
    assert (tmp_path / "file").read_text() == "precious"
    for name in ("folder", "loop", "pipe", "below a file", "too long", "nul"):
        with pytest.raises(ArtifactError):
            read_json(places[name])


@pytest.mark.parametrize("code", sorted(set(NO_LOCKS)))
def test_a_disk_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with folder_lock(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    assert "without file locks" in caplog.text
    lock = tmp_path / ".lock"
    lock.write_text(f"process {os.getppid()} on {HOST}")  # another living process of this machine
    assert is_locked(tmp_path)
    with pytest.raises(ArtifactLocked), folder_lock(tmp_path):
        pass
    lock.write_text(f"process 1 on not-{HOST}")  # nobody can know: said, not refused
    with folder_lock(tmp_path):
        pass
    # No process has a number above 2^22. Of another machine nobody knows, but after a day.
    mine, other = (f"x.part-{host}-{2**22 + 1}-1-0123abcd" for host in (HOST, "elsewhere"))
    for name in (mine, other):
        (tmp_path / name).touch()
    sweep_parts(tmp_path)
    assert names(tmp_path) == [".lock", other]
    os.utime(tmp_path / other, (1, 1))
    sweep_parts(tmp_path)
    assert names(tmp_path) == [".lock"]


@pytest.mark.parametrize(("text", "expected"), BROKEN_JSON)
def test_json_that_cannot_be_read_says_how_to_make_it(tmp_path: Path, text: str, expected: type) -> None:
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises(expected) as caught:
        read_json(path, schema="x/1", rebuild="cwr-mech train")
    assert "m.json" in caught.value.message
    assert "cwr-mech train" in str(caught.value.hint)
    assert ("that wrote it reads it" in str(caught.value.hint)) == (expected is SchemaMismatch)
    write_json(path, {"schema": "x/1", "a": 1})
    assert read_json(path, schema="x/1")["a"] == 1
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as some editors save it
    assert read_json(path, schema="x/1")["a"] == 1


def test_missing_json_and_nan(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifact):
        read_json(tmp_path / "none.json")
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "nan.json", {"a": float("nan")})
    assert names(tmp_path) == []


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    code = (
        "import sys, time; from cwr_mech.artifacts import folder_lock\n"
        f"with folder_lock({str(tmp_path)!r}):\n print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ArtifactLocked, match=f"process {holder.pid}"), folder_lock(tmp_path):
            pass
        holder.kill()
        holder.wait()
    with folder_lock(tmp_path):
        pass


def test_hashes_depend_on_boundaries_and_content(tmp_path: Path) -> None:
    assert sha256_bytes(b"ab", b"c") != sha256_bytes(b"a", b"bc")
    path = tmp_path / "f"
    path.write_bytes(b"")
    assert sha256_file(path) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert provenance()["torch"][0].isdigit()
