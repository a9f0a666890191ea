"""Who works in a folder: locks that the kernel drops with the process, and what there is on disks without."""

import errno
import fcntl
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cwr_mech.artifacts.disk import disk_errors
from cwr_mech.errors import ArtifactLocked

HOST = re.sub(r"[^A-Za-z0-9.]", ".", socket.gethostname())[:40] or "host"
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL, 524)
"""What flock says on a disk without locks: Lustre without -o flock, some FUSE and NFS (524: ENOTSUPP)."""
_log = logging.getLogger(__name__)


def lock(handle: int) -> bool | None:
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


def alive(process: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


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
            free = lock(handle)
        holder = os.pread(handle, 200, 0).decode("utf-8", "replace").strip()
        if free is None:
            _log.warning("%s lies on a disk without file locks: do not train it from two machines", folder)
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


def _names_another(holder: str) -> bool:
    """Whether the text of a lock names a process that runs on this machine and is not this one."""
    named = re.fullmatch(r"process (\d+) on (\S+)", holder)
    if named is None or named[2] != HOST:
        return False
    return int(named[1]) != os.getpid() and alive(int(named[1]))
