"""Files that are either whole or absent: write, then rename; hashes, locks and provenance.

Everything this package writes goes through `atomic_file` or `atomic_folder`: the content is written under
a temporary name beside its target, flushed to the disk, and renamed. A process killed at any moment leaves
the old content or the new, never half of one, and nothing but a temporary file, which the next command that
writes into the same folder removes.

A temporary name is NAME.part-HOST-PROCESS-THREAD-RANDOM: containers that share a disk may have the same host
name and process number, and threads have the same process. Its writer holds a lock on it for as long as it
lives, so that nobody takes a file that is being written for one that was left behind.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import platform
import re
import secrets
import shutil
import socket
import stat
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cwr_mech.errors import (
    ArtifactError,
    ArtifactExists,
    ArtifactLocked,
    CorruptArtifact,
    MissingArtifact,
    NoSpace,
    SchemaMismatch,
)

PART = ".part-"
_PART_NAME = re.compile(r"\.part-([A-Za-z0-9.]+)-(\d+)-\d+-[0-9a-f]{8}$")
UMASK = os.umask(0o022)
os.umask(UMASK)
HOST = re.sub(r"[^A-Za-z0-9.]", ".", socket.gethostname())[:40] or "host"
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL, 524)
"""What flock says on a disk without locks: Lustre without -o flock, some FUSE and NFS (524: ENOTSUPP)."""
ABANDONED_SECONDS = 86400.0
"""On a disk without locks, a temporary file of another machine counts as left behind after this time."""
MOST_JSON_BYTES = 500_000_000
"""A larger JSON file is none of ours; it is refused before it is read."""
PACKAGES = ("cwr-mech", "torch", "transformer-lens", "transformers", "numpy", "scipy", "scikit-learn", "h5py")

_log = logging.getLogger(__name__)
_own_parts: set[Path] = set()


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


def one_line(error: BaseException) -> str:
    """What an exception says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says about writing `path` into one line for the user."""
    try:
        yield
    except (BrokenPipeError, InterruptedError):
        raise
    except Exception as error:
        # Libraries written in Rust (safetensors, tokenizers) give the number in their text only.
        told = re.search(r"\(os error (\d+)\)", str(error))
        number = error.errno if isinstance(error, OSError) else int(told[1]) if told else None
        if number is None:
            raise
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoSpace(
                f"no space left to write {path}", "free some space and run the command again"
            ) from error
        about = getattr(error, "filename", None)
        place = "" if about is None or Path(os.fsdecode(about)).parent == path.parent else f"{about!s}: "
        raise ArtifactError(
            f"cannot write {path}: {place}{os.strerror(number)}", "choose another output"
        ) from error


def require_file(path: Path, hint: str | None = None, most_bytes: int | None = None) -> None:
    """Insist that `path` is a file to read: there, regular (a pipe would be waited for), and not too large.

    Raises MissingArtifact, CorruptArtifact, or ArtifactError where the system refuses.
    """
    try:
        found = path.stat()
        readable = os.access(path, os.R_OK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingArtifact(f"no such file: {path}", hint) from error
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or error}", hint
        ) from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or device"
        raise CorruptArtifact(f"{path} is {kind}, not a file", hint)
    if not readable:
        raise ArtifactError(
            f"cannot read {path}: {os.strerror(errno.EACCES)}", "give yourself permission to read it"
        )
    if most_bytes is not None and found.st_size > most_bytes:
        raise CorruptArtifact(f"{path} has {found.st_size:,} bytes, more than any such file of ours", hint)


def _finish(file: Path, mode: int = 0o666 & ~UMASK) -> None:
    """Onto the disk, and readable to whom any new file is: safetensors lets only the owner read."""
    with suppress(OSError):  # some shared disks know no permissions
        file.chmod(mode)
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush_folder(path: Path) -> None:
    """Ask the disk to hold the names in `path`; not every file system can."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _lock(handle: int) -> bool | None:
    """Take the lock of an open file without waiting: whether it was free; None on a disk without locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise
    return True


def _alive(process: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@contextmanager
def _part(place: Path, name: str, *, folder: bool) -> Iterator[Path]:
    """Make a temporary file or folder in `place`, hold its lock, and remove what is left of it at the end."""
    while True:
        tag = f"{HOST}-{os.getpid()}-{threading.get_native_id()}-{secrets.token_hex(4)}"
        part = place / f"{name[:40]}{PART}{tag}"
        if folder:
            part.mkdir()
            handle = os.open(part, os.O_RDONLY)
        else:
            handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        if _lock(handle) is not False and part.exists():  # nobody sweeps it away before it is locked
            break
        os.close(handle)
    _own_parts.add(part)
    try:
        yield part
    finally:
        os.close(handle)
        remove(part)
        _own_parts.discard(part)


def remove_own_parts() -> None:
    """Remove the temporary files of this process, which is about to end while they are written."""
    for part in list(_own_parts):
        remove(part)


def remove(path: Path) -> None:
    """Remove a temporary file or folder, if it is still there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _target(path: Path) -> Path:
    """Where writing to `path` has to put its content: through symbolic links, which stay links."""
    if "\0" in str(path):
        raise ArtifactError(f"{str(path)!r} cannot name a file: it holds a NUL character")
    found = Path(os.path.realpath(path))
    if found.is_symlink():
        raise ArtifactError(f"cannot write {path}: {os.strerror(errno.ELOOP)}", "choose another output")
    return found


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the place of `path` when the block ends without error.

    Raises NoSpace when the disk is full, ArtifactExists where a folder or a device stands at `path`, and
    ArtifactError where writing is not allowed; whatever stood at `path` before still stands there then.
    """
    path = Path(path)
    with disk_errors(path):
        target = _target(path)
        if target.exists() and not target.is_file():
            kind = "a folder" if target.is_dir() else "a pipe or device"
            raise ArtifactExists(f"{path} is {kind}, not a file", "choose another output")
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep_parts(target.parent)
        with _part(target.parent, target.name, folder=False) as part:
            yield part
            kept = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~UMASK
            _finish(part, kept)
            os.replace(part, target)
            _flush_folder(target.parent)


@contextmanager
def atomic_folder(path: Path | str, *, last: str = "", stale: Collection[str] = ()) -> Iterator[Path]:
    """Yield an empty temporary folder; its content appears at `path` when the block ends without error.

    Where nothing stands at `path`, the folder appears whole, in one rename. Where a folder stands, each file
    takes the place of its namesake, one rename a file and the file `last` after all others; everything else
    in the folder stays, but for the relative paths `stale`. Raises what `atomic_file` raises.
    """
    path = Path(path)
    with disk_errors(path):
        target = _target(path)
        if target.exists() and not target.is_dir():
            raise ArtifactExists(f"{path} is a file, not a folder", "choose another output")
        place = target if target.is_dir() else target.parent  # in a folder: its parent may not be writable
        place.mkdir(parents=True, exist_ok=True)
        sweep_parts(place)
        with _part(place, target.name, folder=True) as part:
            yield part
            files = sorted(file for file in part.rglob("*") if file.is_file())
            for file in files:
                _finish(file)
            if not target.exists():
                try:
                    os.rename(part, target)
                    _flush_folder(target.parent)
                    return
                except OSError as error:  # another process was quicker
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                        raise
            _move_in(part, files, target, last, stale)


def _move_in(part: Path, files: Collection[Path], target: Path, last: str, stale: Collection[str]) -> None:
    """Rename `files` below `part` into the folder `target`, then remove what they replace."""
    names = [file.relative_to(part).as_posix() for file in files]
    for name in sorted(names, key=lambda name: (name == last, name)):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(part / name, target / name)
    for name in set(stale) - set(names):
        old = target / name
        if ".." not in old.parts and old.is_file() and not old.is_symlink():
            old.unlink()
            with suppress(OSError):  # folders that are empty now
                old.parent.rmdir()
    _flush_folder(target)


def sweep_parts(folder: Path, *, deep: bool = False) -> None:
    """Remove what killed processes left half-written in `folder`, and below it when `deep`."""
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        found = folder.rglob(f"*{PART}*") if deep else folder.iterdir()
        for left in sorted((path for path in found if PART in path.name), reverse=True):
            if left not in _own_parts:
                _sweep(left)


def _sweep(path: Path) -> None:
    """Remove `path` if `_part` gave its name and its writer has ended.

    It is removed while its lock is held, so a writer that has made it but not locked it yet notices: either
    it does not get the lock, or the file is gone when it does.
    """
    named = _PART_NAME.search(path.name)
    if named is None or path.is_symlink():
        return
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            free = _lock(handle)
            if free is None:  # no locks here: by the name, or by age
                old = time.time() - path.stat().st_mtime > ABANDONED_SECONDS
                own = int(named[2]) == os.getpid()
                free = old if named[1] != HOST or own else not _alive(int(named[2]))
            if free:
                remove(path)
        finally:
            os.close(handle)


def write_json(path: Path | str, content: Any) -> None:
    """Write `content` as sorted, indented JSON, atomically. NaN is refused: use None and say why."""
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    with atomic_file(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def read_json(path: Path | str, *, schema: str | None = None, rebuild: str | None = None) -> dict[str, Any]:
    """Read a JSON object; with `schema`, insist that its "schema" field is that.

    `rebuild` names the command that makes the file; it goes into the hint of every error.
    Raises MissingArtifact, CorruptArtifact or SchemaMismatch.
    """
    path = Path(path)
    hint = f"make it with: {rebuild}" if rebuild else None
    require_file(path, hint, MOST_JSON_BYTES)
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        json.dumps(content, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise CorruptArtifact(
            f"{path} is not valid JSON: it is truncated or another kind of file", hint
        ) from error
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

    The kernel drops the lock with the process, so a crash never leaves one behind. On a disk without locks
    the holder's name in `.lock` has to do, which tells processes of this machine apart; that is logged.
    """
    folder = Path(folder)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with disk_errors(folder):
            free = _lock(handle)
        holder = os.pread(handle, 200, 0).decode("utf-8", "replace").strip()
        if free is None:
            _log.warning(
                "%s lies on a disk without file locks: do not train it from two machines at once", folder
            )
            free = not _names_another(holder)
        if not free:
            raise ArtifactLocked(
                f"{folder} is in use by {holder or 'another process'}",
                "wait for it, or choose another folder",
            )
        with disk_errors(folder):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {HOST}\n".encode(), 0)
        try:
            yield
        finally:
            with suppress(OSError):
                os.ftruncate(handle, 0)
    finally:
        os.close(handle)


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Wait until no other process or thread writes its files into `folder` under this lock, and hold it.

    The lock is that of the folder itself, so no file is left; on a disk without locks nobody waits.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _names_another(holder: str) -> bool:
    """Whether the text of a lock names a process that runs on this machine and is not this one."""
    named = re.fullmatch(r"process (\d+) on (\S+)", holder)
    if named is None or named[2] != HOST:
        return False
    return int(named[1]) != os.getpid() and _alive(int(named[1]))


def is_locked(folder: Path | str) -> bool:
    """Whether a process holds `folder` at this moment; this one's own lock counts."""
    try:
        handle = os.open(Path(folder) / ".lock", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks on this disk
        holder = os.read(handle, 200).decode("utf-8", "replace").strip()
        return holder == f"process {os.getpid()} on {HOST}" or _names_another(holder)
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
