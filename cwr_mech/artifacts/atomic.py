"""Files and folders that appear whole or not at all.

A temporary name is NAME.part-HOST-PROCESS-THREAD-RANDOM: containers that share a disk may have the same host
name and process number, and threads have the same process. Its writer holds a lock on it for as long as it
lives, so that nobody takes a file that is being written for one that was left behind.
"""

import errno
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cwr_mech.artifacts.disk import UMASK, disk_errors, finish, flush_folder
from cwr_mech.artifacts.locks import HOST, alive, lock
from cwr_mech.errors import ArtifactError, ArtifactExists

PART = ".part-"
_PART_NAME = re.compile(r"\.part-([A-Za-z0-9.]+)-(\d+)-\d+-[0-9a-f]{8}$")
ABANDONED_SECONDS = 86400.0
"""On a disk without locks, a temporary file of another machine counts as left behind after this time."""
_own_parts: set[Path] = set()


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
            finish(part, kept)
            os.replace(part, target)
            flush_folder(target.parent)


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
                finish(file)
            if not target.exists():
                try:
                    os.rename(part, target)
                    flush_folder(target.parent)
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
    flush_folder(target)


def _target(path: Path) -> Path:
    """Where writing to `path` has to put its content: through symbolic links, which stay links."""
    if "\0" in str(path):
        raise ArtifactError(f"{str(path)!r} cannot name a file: it holds a NUL character")
    found = Path(os.path.realpath(path))
    if found.is_symlink():
        raise ArtifactError(f"cannot write {path}: {os.strerror(errno.ELOOP)}", "choose another output")
    return found


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
        if lock(handle) is not False and part.exists():  # nobody sweeps it away before it is locked
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
            free = lock(handle)
            if free is None:  # no locks here: by the name, or by age
                old = time.time() - path.stat().st_mtime > ABANDONED_SECONDS
                own = int(named[2]) == os.getpid()
                free = old if named[1] != HOST or own else not alive(int(named[2]))
            if free:
                remove(path)
        finally:
            os.close(handle)
