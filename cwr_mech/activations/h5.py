"""HDF5 files of anybody: read within what the file holds, and called damaged where that is not possible.

The library follows links to other files, allocates what a header declares, and its own errors come in every
type. Here only datasets of the file itself are read, none declares more than its stored bytes can be unpacked
to, and every failure is a `Damaged` with one line.

A file of ours ends with the line "cwr-mech sha256 HEX", the digest of all before it, which HDF5 does not look
at. So a changed byte is known before the library sees it. A program that opens the file for writing cuts the
line off; such a file is read like one of another program.
"""

import fcntl
import hashlib
import mmap
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from cwr_mech.artifacts import one_line

MAGIC = b"\x89HDF\r\n\x1a\n"
SEAL = re.compile(rb"\ncwr-mech sha256 ([0-9a-f]{64})\n")
SEAL_BYTES = len(b"\ncwr-mech sha256 ") + 64 + 1
HEAP = re.compile(rb"GCOL\x01\0\0\0(.{8})", re.DOTALL)
OBJECT_HEAD = 16
MOST_UNPACKED = 1100
"""No filter of HDF5 packs more than about 1,032 bytes into one (deflate)."""
SMALL = 1_000_000
"""Bytes that may be declared without being stored."""
MOST_CHUNK = 256_000_000
MOST_ATTRIBUTES = 1000


class Damaged(Exception):
    """Why a file cannot be read: the end of a sentence that begins with its name."""


def sealed(content: memoryview | bytes) -> bytes:
    """The last line of a file with this content."""
    return seal_line(hashlib.sha256(content).hexdigest())


def seal_line(digest: str) -> bytes:
    """The last line of a file whose content has this sha256."""
    return f"\ncwr-mech sha256 {digest}\n".encode()


def check_seal(path: Path) -> None:
    """Raise Damaged unless the file begins as HDF5 does and is, as far as it says so, as it was written."""
    with open(path, "rb") as file:
        head = file.read(64)
        if not head.startswith(MAGIC):
            raise Damaged("is not an HDF5 file")
        size = file.seek(0, 2)
        file.seek(max(size - SEAL_BYTES, 0))
        seal = SEAL.fullmatch(file.read())
        if seal is None and size > _end_by_header(head):
            raise Damaged("is a truncated or damaged HDF5 file (a part of its last line is gone)")
        if seal is None:
            _check_heaps(file)
            return
        file.seek(0)
        digest, left = hashlib.sha256(), size - SEAL_BYTES
        while left and (piece := file.read(min(left, 1 << 20))):
            digest.update(piece)
            left -= len(piece)
    if digest.hexdigest() != seal[1].decode():
        raise Damaged("was changed or damaged after it was written")


def _check_heaps(file: BinaryIO) -> None:
    """Raise Damaged where a global heap, which holds texts, has an object of no bytes.

    HDF5 walks a heap from object to object by their sizes; free space that says to be 0 bytes long keeps it
    in place forever (HDF5 file format, III.E: index u16, references u16, 4 reserved, size u64, content).
    """
    if not file.seek(0, 2):
        return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for heap in HEAP.finditer(content):
            size = int.from_bytes(heap[1], "little")
            at, end = heap.end(), min(heap.start() + size, len(content))
            while at + OBJECT_HEAD <= end:
                index, length = struct.unpack_from("<H6xQ", content, at)
                if not index and not length:
                    raise Damaged("is a damaged HDF5 file (an object of 0 bytes among its texts)")
                at += OBJECT_HEAD + -(-length // 8) * 8 if index else length


def _end_by_header(head: bytes) -> int:
    """Where HDF5's own content ends, by the superblock (HDF5 file format, III.A; addresses of 8 bytes)."""
    start = {0: 40, 1: 44}.get(head[8], 28)
    return int.from_bytes(head[start : start + 8], "little")


def held_by_writer(path: Path) -> bool:
    """Whether another program holds the file open for writing: HDF5 locks it then."""
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a disk without locks
            return False
    return False


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Yield the open file; whatever the library finds wrong with it becomes Damaged."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except MemoryError as error:
        raise Damaged("declares more than fits into the memory") from error
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise Damaged(f"is a truncated or damaged HDF5 file ({one_line(error)[:200]})") from error


def attributes(file: h5py.File) -> dict[str, Any]:
    """The root attributes as Python's own texts and numbers, whatever their width, order and padding.

    Attributes of other kinds are left out. Raises Damaged.
    """
    if len(file.attrs) > MOST_ATTRIBUTES:
        raise Damaged(f"has {len(file.attrs)} attributes")
    found: dict[str, Any] = {}
    for name in file.attrs:
        about = file.attrs.get_id(name)
        if about.shape not in ((), (1,)) or about.get_storage_size() > SMALL:
            continue
        value = np.asarray(file.attrs[name]).reshape(-1)[0]
        if isinstance(value, bytes):
            value = value.rstrip(b"\0").decode("utf-8")
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, str | int | float):
            found[name] = value
    return found


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """The dataset `name`, if it lies in this file and can be read in bounded memory. Raises Damaged."""
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        place = "/".join(parts[:depth])
        link = file.get(place, getlink=True)
        if link is None:
            raise Damaged(f"has no array {name}")
        if not isinstance(link, h5py.HardLink):
            raise Damaged(f"holds a link at {place}, which may lead out of it")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise Damaged(f"has no array {name}")
    if found.is_virtual or found.external:
        raise Damaged(f"keeps {name} in another file")
    if found.shape is None:
        raise Damaged(f"has an empty {name}")
    stored = found.id.get_storage_size()
    if (
        found.nbytes > SMALL + MOST_UNPACKED * stored
        or found.nbytes > SMALL + MOST_UNPACKED * file.id.get_filesize()
    ):
        raise Damaged(f"declares {found.nbytes:,} bytes of {name}, and holds {stored:,}")
    if found.chunks and np.prod(found.chunks, dtype=float) * found.dtype.itemsize > max(
        MOST_CHUNK, found.nbytes
    ):
        raise Damaged(f"has chunks of {found.chunks} in {name}")
    return found


def numbers(file: h5py.File, name: str, kinds: str, axes: int) -> np.ndarray:
    """Dataset `name` if it has so many axes and its type is of numpy's `kinds`. Raises Damaged."""
    found = dataset(file, name)
    if found.dtype.kind not in kinds or found.ndim != axes:
        raise Damaged(f"holds {found.dtype} of shape {found.shape} at {name}")
    return np.asarray(found[()])


def texts(file: h5py.File, name: str) -> np.ndarray:
    """Dataset `name` of texts, of variable or fixed length. Raises Damaged."""
    found = dataset(file, name)
    if h5py.check_string_dtype(found.dtype) is None or found.ndim != 1:
        raise Damaged(f"holds {found.dtype} of shape {found.shape} at {name}, not texts")
    return np.array(found.asstr("utf-8")[()], dtype=str)
