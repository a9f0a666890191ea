"""Files are whole or absent; what goes wrong is said in one line."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cwr_mech.artifacts import (
    atomic_file,
    atomic_folder,
    disk_errors,
    folder_lock,
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


def test_killed_parts_are_swept_and_finished_files_stay(tmp_path: Path) -> None:
    (tmp_path / "a.json.part-123").write_text("half")
    (tmp_path / "deep" / "m.part-9").mkdir(parents=True)
    (tmp_path / "deep" / "m.part-9" / "w").write_text("half")
    (tmp_path / "deep" / "kept").write_text("whole")
    sweep_parts(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["kept"]


@pytest.mark.parametrize(("text", "expected"), BROKEN_JSON)
def test_json_that_cannot_be_read_says_how_to_make_it(tmp_path: Path, text: str, expected: type) -> None:
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises(expected) as caught:
        read_json(path, schema="x/1", rebuild="cwr-mech train")
    assert "m.json" in caught.value.message
    assert "cwr-mech train" in str(caught.value.hint)
    write_json(path, {"schema": "x/1", "a": 1})
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
