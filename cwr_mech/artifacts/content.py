"""JSON, digests, and the versions of what computed a result."""

import hashlib
import json
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cwr_mech.artifacts.atomic import atomic_file
from cwr_mech.artifacts.disk import require_file
from cwr_mech.errors import CorruptArtifact, SchemaMismatch

MOST_JSON_BYTES = 500_000_000
"""A larger JSON file is none of ours; it is refused before it is read."""
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
        content = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_refuse_constant)
        json.dumps(content, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise CorruptArtifact(f"{path} is not valid JSON: truncated or another kind of file", hint) from error
    if not isinstance(content, dict):
        raise CorruptArtifact(f"{path} holds no JSON object", hint)
    if schema is not None and content.get("schema") != schema:
        raise other_schema(path, content.get("schema"), schema, hint)
    return content


def other_schema(path: Path, found: object, wanted: str, hint: str | None) -> SchemaMismatch:
    """The error for a file of ours whose form this version does not know; `hint` says how to make it anew."""
    told = "the version of cwr-mech that wrote it reads it"
    return SchemaMismatch(
        f"{path} has schema {found!r}; this version reads {wanted!r}", f"{told}; or {hint}" if hint else told
    )


def provenance() -> dict[str, str]:
    """Versions of what computed a result: Python, the machine type and the packages that matter."""
    here = {"python": platform.python_version(), "machine": platform.machine()}
    return here | {name: _version(name) for name in PACKAGES}


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
