"""What the operating system says about reading and writing, as one line for the user."""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cwr_mech.errors import ArtifactError, CorruptArtifact, MissingArtifact, NoSpace

UMASK = os.umask(0o022)
os.umask(UMASK)


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
            raise NoSpace(f"no space left to write {path}", "free some space and try again") from error
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
        raise ArtifactError(f"cannot read {path}: {getattr(error, 'strerror', 0) or error}", hint) from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or device"
        raise CorruptArtifact(f"{path} is {kind}, not a file", hint)
    if not readable:
        raise ArtifactError(f"cannot read {path}: {os.strerror(errno.EACCES)}", "make it readable to you")
    if most_bytes is not None and found.st_size > most_bytes:
        raise CorruptArtifact(f"{path} has {found.st_size:,} bytes, more than any such file of ours", hint)


def finish(file: Path, mode: int = 0o666 & ~UMASK) -> None:
    """Onto the disk, and readable to whom any new file is: safetensors lets only the owner read."""
    with suppress(OSError):  # some shared disks know no permissions
        file.chmod(mode)
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_folder(path: Path) -> None:
    """Ask the disk to hold the names in `path`; not every file system can."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
