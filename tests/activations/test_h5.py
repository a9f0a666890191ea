"""Activation files that are broken, foreign or in use: every fault is named with its remedy."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from activation_cases import NAME, REBUILD, WORLD, part_of, written

from cwr_mech.activations.reader import ActivationStore
from cwr_mech.errors import (
    AnalysisError,
    ArtifactLocked,
    CorruptArtifact,
    MissingArtifact,
    SchemaMismatch,
    UserError,
)

ARRAY = "acts/hook_embed/angle/delimiter"


def attribute(name: str, value: object = None) -> Callable[[Path], None]:
    """A fault: the attribute is lost, or has another value."""

    def fault(path: Path) -> None:
        with h5py.File(path, "a") as file:
            del file.attrs[name]
            if value is not None:
                file.attrs[name] = value

    return fault


def content(place: str, value: object = None) -> Callable[[Path], None]:
    """A fault: what stands at a place of the file is lost, or something else stands there."""

    def fault(path: Path) -> None:
        with h5py.File(path, "a") as file:
            del file[place]
            if value is not None:
                file[place] = value

    return fault


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:30])


def foreign(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["data"] = np.zeros(3)


def not_hdf5(path: Path) -> None:
    path.write_text("id,name,x,y\n")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def city_twice(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["cities/id"][1] = file["cities/id"][0]


def moved_city(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["cities/x"][3] += 1


def flipped_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def link_outside(path: Path) -> None:
    with h5py.File(path.with_name("other.h5"), "w") as other:
        other["x"] = np.zeros((WORLD.n, 6), np.float32)
    with h5py.File(path, "a") as file:
        del file[ARRAY]
        file[ARRAY] = h5py.ExternalLink("other.h5", "x")


def stored_outside(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["cities/id"]
        outside = [(str(path.with_name("raw")), 0, 8 * WORLD.n)]
        file.create_dataset("cities/id", (WORLD.n,), "<i8", external=outside)


def declared_huge(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file[ARRAY]
        shape = (WORLD.n, 2**40)
        file.create_dataset(ARRAY, shape, np.float32, chunks=(1, 1024))


def not_a_number(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["acts/hook_embed/distance/last_digit"][2, 3] = np.nan


def zeros_among_texts(path: Path) -> None:
    """An object of 0 bytes in a heap of texts, over which HDF5 itself never gets; no digest tells of it."""
    with h5py.File(path, "a"):
        pass
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    content[heap + 48 : heap + 112] = bytes(64)
    path.write_bytes(content)


FAULTS = [
    (Path.unlink, MissingArtifact, "no such activation file"),
    (cut, CorruptArtifact, "is a truncated or damaged HDF5 file"),
    (cut_short, CorruptArtifact, "is a truncated or damaged HDF5 file"),
    (foreign, CorruptArtifact, "another program"),
    (not_hdf5, CorruptArtifact, "not an HDF5 file"),
    (folder, CorruptArtifact, "is a folder"),
    (
        attribute("schema", "cwr-mech/activations/99"),
        SchemaMismatch,
        "'cwr-mech/activations/99'; this version reads 'cwr-mech/activations/1'",
    ),
    (content(ARRAY), CorruptArtifact, "has no array acts/hook_embed/angle/delimiter"),
    (content("cities/x"), CorruptArtifact, "has no array cities/x"),
    (attribute("world_sha256"), CorruptArtifact, "no attribute 'world_sha256'"),
    (attribute("hooks", "not json"), CorruptArtifact, "attribute 'hooks'"),
    (
        content(ARRAY, np.zeros((3, 6), np.float32)),
        CorruptArtifact,
        "3 rows of acts/hook_embed/angle/delimiter for 45 cities",
    ),
    (city_twice, CorruptArtifact, "a city twice"),
    (moved_city, CorruptArtifact, "holds other cities than its world_sha256 says"),
    (flipped_byte, CorruptArtifact, "was changed or damaged after it was written"),
    (link_outside, CorruptArtifact, "holds a link at acts/hook_embed/angle/delimiter"),
    (content("cities", h5py.SoftLink("/cities")), CorruptArtifact, "holds a link at cities"),
    (stored_outside, CorruptArtifact, "keeps cities/id in another file"),
    (declared_huge, CorruptArtifact, "declares"),
    (content("cities/x", [b"1"] * WORLD.n), CorruptArtifact, "at cities/x"),
    (attribute("hooks", np.arange(3)), CorruptArtifact, "no attribute 'hooks'"),
    (zeros_among_texts, CorruptArtifact, "an object of 0 bytes among its texts"),
    (not_a_number, CorruptArtifact, "not finite in acts/hook_embed/distance/last_digit"),
]


@pytest.mark.parametrize(("fault", "error", "words"), FAULTS, ids=[fault[2] for fault in FAULTS])
def test_every_fault_is_named_with_its_remedy(
    tmp_path: Path, fault: Callable[[Path], None], error: type[UserError], words: str
) -> None:
    path = written(tmp_path / NAME)
    ActivationStore(path).get("embed", "distance")
    fault(path)
    with pytest.raises(error) as caught:
        ActivationStore(path).get("embed", "distance")
    assert words in caught.value.message
    assert NAME in caught.value.message
    assert "\n" not in caught.value.message
    assert REBUILD in (caught.value.hint or "")


def as_other_programs_write(path: Path) -> None:
    """The same content in other types: fixed-length, big-endian, doubles, attributes of one item."""
    with h5py.File(path, "a") as file:
        for name, kind in (("id", ">i4"), ("x", ">f8"), ("y", "<f4"), ("is_new", "?"), ("name", "S40")):
            values = file[f"cities/{name}"]
            values = [text.encode() for text in values.asstr()[()]] if kind[0] == "S" else values[()]
            del file[f"cities/{name}"]
            file[f"cities/{name}"] = np.array(values, dtype=kind)
        place = "acts/hook_embed/angle/delimiter"
        values = file[place][()]
        del file[place]
        file.create_dataset(place, data=values.astype(">f8"), compression="gzip")
        file.attrs["schema"] = np.bytes_(b"cwr-mech/activations/1\0\0")
        file.attrs["step"] = np.array([12], dtype=">i2")
        file.attrs["hooks"] = np.array([file.attrs["hooks"]], dtype=h5py.string_dtype())
        file.attrs["extra"] = h5py.Empty("f4")
        del file.attrs["versions"]


def test_other_programs_write_the_same_in_other_types(tmp_path: Path) -> None:
    path = written(tmp_path / NAME)
    ours = ActivationStore(path)
    expected = ours.get("embed", "angle", "delimiter")
    as_other_programs_write(path)
    theirs = ActivationStore(path)
    np.testing.assert_array_equal(theirs.get("embed", "angle", "delimiter"), expected)
    np.testing.assert_array_equal(theirs.xy, ours.xy)
    assert theirs.attrs["step"] == 12
    assert theirs.hooks == ours.hooks
    assert list(theirs.names) == list(ours.names)


def test_a_file_that_another_program_writes_is_in_use_not_damaged(tmp_path: Path) -> None:
    path = written(tmp_path / NAME)
    with h5py.File(path, "a"), pytest.raises(ArtifactLocked, match="open for writing in another program"):
        ActivationStore(path)
    with h5py.File(path, "r"):
        assert len(ActivationStore(path)) == WORLD.n


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_truncation_is_seen_wherever_it_falls(tmp_path: Path, share: float) -> None:
    path = written(tmp_path / NAME)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CorruptArtifact):
        ActivationStore(path)


def test_another_world_or_model_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / NAME)
    with pytest.raises(AnalysisError, match="another world") as caught:
        ActivationStore(path, world=part_of(WORLD, np.arange(WORLD.n - 1)))
    assert REBUILD in (caught.value.hint or "")
    with pytest.raises(AnalysisError, match="another state of the model"):
        ActivationStore(path, model_sha256="abd")
