"""Files that are either whole or absent: write, then rename; hashes, locks and provenance.

Everything this package writes goes through `atomic_file` or `atomic_folder`: the content is written under
a temporary name beside its target, flushed to the disk, and renamed. A process killed at any moment leaves
the old content or the new, never half of one. Temporary names hold `.part-`; they are removed on an
exception, and `sweep_parts` removes those that a killed process left.
"""

import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cwr_mech.errors import (
    ArtifactError,
    ArtifactLocked,
    CorruptArtifact,
    MissingArtifact,
    NoSpace,
    SchemaMismatch,
)

PART = ".part-"
UMASK = os.umask(0o022)
os.umask(UMASK)
PACKAGES = ("cwr-mech", "torch", "transformer-lens", "transformers", "numpy", "scipy", "scikit-learn", "h5py")


def sha256_bytes(*chunks: bytes | memoryview) -> str:
    """Hex digest of the chunks, each preceded by its length so that boundaries count."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(len(chunk).to_bytes(8, "little"))
        digest.update(chunk)
    return digest.hexdigest()


def sha256_file(path: Path | str) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says about `path` into one line for the user."""
    try:
        yield
    except Exception as error:
        # Libraries written in Rust (safetensors, tokenizers) give the number in their text only.
        told = re.search(r"\(os error (\d+)\)", str(error))
        number = error.errno if isinstance(error, OSError) else int(told[1]) if told else None
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoSpace(
                f"no space left to write {path}", "free some space and run the command again"
            ) from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise ArtifactError(
                f"cannot write {path}: {os.strerror(number)}", "choose another output folder"
            ) from error
        raise


def _finish(file: Path) -> None:
    """Onto the disk, and readable to whom any new file is: safetensors lets only the owner read."""
    file.chmod(0o666 & ~UMASK)
    _flush(file)


def _flush(path: Path) -> None:
    """Ask the disk to hold `path`'s content, so that the rename never arrives before it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the place of `path` when the block ends without error.

    Raises NoSpace when the disk is full and ArtifactError where writing is not allowed; in both cases
    whatever stood at `path` before still stands there.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}{PART}{os.getpid()}")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            _finish(part)
            os.replace(part, path)
            _flush(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Like `atomic_file` for a folder. `path` may exist: it is replaced in two renames."""
    path = Path(path)
    part = path.with_name(f"{path.name}{PART}{os.getpid()}")
    old = path.with_name(f"{path.name}{PART}{os.getpid()}-old")
    try:
        with disk_errors(path):
            part.mkdir(parents=True)
            yield part
            for file in part.rglob("*"):
                if file.is_file():
                    _finish(file)
            _flush(part)
            if path.exists():
                os.replace(path, old)
            os.replace(part, path)
            _flush(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def sweep_parts(folder: Path) -> None:
    """Remove what killed processes left half-written below `folder`, whose lock the caller holds."""
    for left in sorted(folder.rglob(f"*{PART}*"), reverse=True):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def write_json(path: Path | str, content: Any) -> None:
    """Write `content` as sorted, indented JSON, atomically. NaN is refused: use None and say why."""
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    with atomic_file(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path | str, *, schema: str | None = None, rebuild: str | None = None) -> dict[str, Any]:
    """Read a JSON object; with `schema`, insist that its "schema" field is that.

    `rebuild` names the command that makes the file; it goes into the hint of every error.
    Raises MissingArtifact, CorruptArtifact or SchemaMismatch.
    """
    path = Path(path)
    hint = f"make it with: {rebuild}" if rebuild else None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingArtifact(f"no such file: {path}", hint) from error
    except (ValueError, UnicodeDecodeError) as error:
        raise CorruptArtifact(
            f"{path} is not valid JSON: it is truncated or another kind of file", hint
        ) from error
    except IsADirectoryError as error:
        raise CorruptArtifact(f"{path} is a folder, not a file", hint) from error
    if not isinstance(content, dict):
        raise CorruptArtifact(f"{path} holds no JSON object", hint)
    if schema is not None and content.get("schema") != schema:
        raise SchemaMismatch(
            f"{path} has schema {content.get('schema')!r}; this version reads {schema!r}", hint
        )
    return content


@contextmanager
def folder_lock(folder: Path | str) -> Iterator[None]:
    """Hold `folder` for this process. Raises ArtifactLocked, naming the holder, when another has it.

    The kernel drops the lock with the process, so a crash never leaves one behind.
    """
    folder = Path(folder)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(handle, 200).decode("utf-8", "replace").strip() or "another process"
            raise ArtifactLocked(
                f"{folder} is in use by {holder}", "wait for it, or choose another folder"
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def is_locked(folder: Path | str) -> bool:
    """Whether a process holds `folder` at this moment; this one's own lock counts."""
    try:
        handle = os.open(Path(folder) / ".lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def provenance() -> dict[str, str]:
    """Versions of what computed a result: Python, the machine type and the packages that matter."""
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions
