"""Files that are either whole or absent: write, then rename; hashes, locks and provenance.

Everything this package writes goes through `atomic_file` or `atomic_folder`: the content is written under
a temporary name beside its target, flushed to the disk, and renamed. A process killed at any moment leaves
the old content or the new, never half of one, and nothing but a temporary file, which the next command that
writes into the same folder removes.
"""

from cwr_mech.artifacts.atomic import PART, atomic_file, atomic_folder, remove_own_parts, sweep_parts
from cwr_mech.artifacts.content import (
    other_schema,
    provenance,
    read_json,
    sha256_bytes,
    sha256_file,
    write_json,
)
from cwr_mech.artifacts.disk import disk_errors, one_line, require_file
from cwr_mech.artifacts.locks import HOST, NO_LOCKS, folder_lock, is_locked, one_writer

__all__ = [
    "HOST", "NO_LOCKS", "PART", "atomic_file", "atomic_folder", "disk_errors", "folder_lock", "is_locked",
    "one_line", "one_writer", "other_schema", "provenance", "read_json", "remove_own_parts", "require_file",
    "sha256_bytes", "sha256_file", "sweep_parts", "write_json",
]  # fmt: skip
