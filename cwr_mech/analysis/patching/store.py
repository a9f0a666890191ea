"""Scores of an unfinished sweep on disk, so that a stopped one goes on where it was.

FOLDER/KEY/NAME.npy    scores of one layer's cells in one layout, written whole or not at all

KEY begins the digest of all that the scores depend on: sweeps of other pairs, cells or weights lie beside
each other, and one leaves the others alone.
"""

import io
import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from cwr_mech.analysis.patching.cells import Cell
from cwr_mech.analysis.patching.pairs import Pairs
from cwr_mech.artifacts import atomic_file, disk_errors, sha256_bytes
from cwr_mech.errors import ArtifactError
from cwr_mech.training.folders import RUNS

SWEEPS = RUNS / ".sweeps"


def sweep_key(
    model_sha256: str, pairs: Pairs, cells: Sequence[Cell], metrics: Sequence[str], conditions: Sequence[str]
) -> str:
    """Digest of what a sweep's scores depend on."""
    about = [pairs.task, pairs.id_digits, pairs.reading]
    settings = json.dumps([[asdict(cell) for cell in cells], list(metrics), list(conditions), about])
    arrays = [getattr(pairs, field.name) for field in fields(pairs)]
    chunks = [np.ascontiguousarray(array).tobytes() for array in arrays if isinstance(array, np.ndarray)]
    return sha256_bytes(model_sha256.encode(), settings.encode(), *chunks)


class SweepStore:
    """Parts of one sweep, in a folder of its own in `folder`. With `resume`, parts that an equal sweep left
    there are kept.
    """

    def __init__(self, folder: Path, key: str, *, resume: bool) -> None:
        """A sweep has its folder from the first moment: one killed before its first part is known again."""
        self.folder = folder / key[:16]
        if not resume:
            shutil.rmtree(self.folder, ignore_errors=True)
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def known(folder: Path, key: str) -> bool:
        """Whether an equal sweep was begun in `folder`."""
        return (folder / key[:16]).is_dir()

    @property
    def parts(self) -> int:
        """How many parts are kept."""
        return len(list(self.folder.glob("*.npy")))

    def load(self, name: str) -> Float64[np.ndarray, "condition cell metric pair"] | None:
        """The scores of a part, or None when it is not there or broken (zeros after a power cut, say)."""
        with suppress(OSError, EOFError, ValueError):
            return np.load(self.folder / f"{name}.npy", allow_pickle=False)
        return None

    def save(self, name: str, values: Float64[np.ndarray, "condition cell metric pair"]) -> None:
        """Keep the scores of a part."""
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        with atomic_file(self.folder / f"{name}.npy") as part:
            part.write_bytes(buffer.getvalue())

    def remove(self) -> None:
        """Delete the parts: the sweep is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # sweeps that were stopped lie beside it
            self.folder.parent.rmdir()


class Sweeps:
    """The sweeps of one command, one for each model. A block that ends well deletes their parts; one that is
    left by an error or a kill keeps them, those of models that were done, too.
    """

    def __init__(self, folder: Path, *, resume: bool = False) -> None:
        self.folder, self.resume = folder, resume
        self._stores: list[SweepStore] = []

    def __enter__(self) -> "Sweeps":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            return
        for store in self._stores:
            store.remove()
        with suppress(OSError):
            self.folder.rmdir()

    def open(self, name: str, key: str) -> SweepStore:
        """The parts of a sweep. Raises ArtifactError when the command is to go on and its first sweep finds
        only parts of different ones; later ones of the same command need not have begun.
        """
        folder = self.folder / name
        own = SweepStore.known(folder, key)
        if self.resume and not self._stores and not own and any(folder.glob("*/*.npy")):
            raise ArtifactError(
                f"what was stopped in {folder} are different sweeps: of another model, other pairs or cells",
                "start it anew without --resume",
            )
        self._stores.append(SweepStore(folder, key, resume=self.resume))
        return self._stores[-1]
