"""Activation files: what is read is what was written, and every broken file says so."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paths import ROOT

from cwr_mech.activations.reader import (
    ActivationStore,
    activations_path,
    join,
    rebuild_command,
)
from cwr_mech.activations.site import Site
from cwr_mech.activations.texts import TokenRows
from cwr_mech.activations.writer import StoreWriter, store_writer, write_store
from cwr_mech.errors import (
    AnalysisError,
    ArtifactLocked,
    CorruptArtifact,
    MissingArtifact,
    SchemaMismatch,
    UnknownName,
    UserError,
)
from cwr_mech.world.cities import World, load_world

WORLD = load_world(source="uniform", n_cities=40, new="scattered", n_new=5)
HOOKS, TASKS, SITES = (
    ("hook_embed", "blocks.10.hook_resid_post"),
    ("distance", "angle"),
    ("last_digit", "delimiter"),
)
KEYS = [(hook, task, site) for hook in HOOKS for task in TASKS for site in SITES]
NAME = "demo-step12.h5"
REBUILD = "cwr-mech cache-acts demo --step 12"


def arrays(world: World = WORLD, seed: int = 0, width: int = 6) -> dict[tuple[str, str, str], np.ndarray]:
    rng = np.random.default_rng(seed)
    return {key: rng.normal(size=(world.n, width)).astype(np.float32) for key in KEYS}


def written(path: Path, world: World = WORLD, seed: int = 0) -> Path:
    write_store(path, world, arrays(world, seed), attrs={"run": "demo", "step": 12, "model_sha256": "abc"})
    return path


def part_of(world: World, rows: np.ndarray, shift: np.ndarray | int = 0) -> World:
    names = tuple(world.names[row] for row in rows)
    xy = world.xy[rows] + shift
    return World(world.ids[rows], names, xy, world.region[rows], world.is_new[rows], world.config)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    store = ActivationStore(written(tmp_path / NAME), world=WORLD, model_sha256="abc")
    assert (store.hooks, store.tasks, store.sites) == (HOOKS, TASKS, SITES)
    np.testing.assert_array_equal(store.city_ids, WORLD.ids)
    np.testing.assert_array_equal(store.xy, WORLD.xy)
    np.testing.assert_array_equal(store.is_new, WORLD.is_new)
    assert (tuple(store.names), tuple(store.region)) == (WORLD.names, tuple(WORLD.region))
    assert (store.attrs["run"], store.attrs["step"], len(store)) == ("demo", 12, WORLD.n)
    for key, values in arrays().items():
        found = store.get(*key)
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, values)


def test_places_side_by_side_and_layers_by_number(tmp_path: Path) -> None:
    store = ActivationStore(written(tmp_path / NAME))
    given_ = arrays()
    both = np.hstack([given_["hook_embed", "angle", site] for site in SITES])
    np.testing.assert_array_equal(store.get("embed", "angle", "last_digit+delimiter"), both)
    np.testing.assert_array_equal(
        store.get(10, "angle"), given_["blocks.10.hook_resid_post", "angle", "last_digit"]
    )
    assert [Site.parse(layer).hook for layer in ("embed", 3, "3", "final", "ln_final.hook_scale")] == [
        "hook_embed",
        "blocks.3.hook_resid_post",
        "blocks.3.hook_resid_post",
        "unembed.hook_in",
        "ln_final.hook_scale",
    ]
    assert store.width(10) == 6


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(rows=st.lists(st.integers(0, WORLD.n - 1), max_size=60))
def test_ids_pick_rows_in_their_order(tmp_path: Path, rows: list[int]) -> None:
    path = tmp_path / NAME
    store = ActivationStore(path if path.exists() else written(path))
    picked = WORLD.ids[np.array(rows, dtype=np.int64)]
    np.testing.assert_array_equal(
        store.get("embed", "distance", ids=picked), store.get("embed", "distance")[rows]
    )


def test_the_schema_page_is_true(tmp_path: Path) -> None:
    """The table of contents in activations/README.md names exactly what bare h5py finds."""
    page = (ROOT / "activations" / "README.md").read_text()
    rows = re.findall(r"^\| `(/[^`]+)` \| (\w+)", page, flags=re.MULTILINE)
    shown = {
        path.replace("HOOK/TASK/SITE", "/".join(KEYS[0])).replace("TASK", "angle"): kind
        for path, kind in rows
    }
    path = tmp_path / NAME
    partners = {"angle": WORLD.ids[:, None].repeat(2, axis=1)}
    with store_writer(
        path, WORLD, *([axis[0]] for axis in zip(*KEYS[:1], strict=True)), partners=partners
    ) as writer:
        writer.put(KEYS[0], 0, arrays()[KEYS[0]])
        ones = np.ones((WORLD.n, 2), dtype=np.int32)
        writer.put_texts(
            "angle", TokenRows(WORLD.names, ones, np.cumsum(ones, axis=1, dtype=np.int32) - 1, ones[:, 0])
        )
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                found.update({f"/{name}": _kind(item)}) if isinstance(item, h5py.Dataset) else None
            )
        )
        attrs = set(file.attrs)
    assert found == shown
    documented = set(re.findall(r"^\| `(\w+)` \| (?:text|whole number)", page, flags=re.MULTILINE))
    assert attrs <= documented


def _kind(item: h5py.Dataset) -> str:
    return "text" if h5py.check_string_dtype(item.dtype) else str(item.dtype)


def test_same_content_same_bytes(tmp_path: Path) -> None:
    first, second, other = (
        written(tmp_path / name, seed=seed).read_bytes() for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == second
    assert first != other


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


def next_version(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.attrs["schema"] = "cwr-mech/activations/99"


def lost_array(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["acts/hook_embed/angle/delimiter"]


def lost_cities(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["cities/x"]


def lost_attribute(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file.attrs["world_sha256"]


def broken_list(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.attrs["hooks"] = "not json"


def short_array(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["acts/hook_embed/angle/delimiter"]
        file["acts/hook_embed/angle/delimiter"] = np.zeros((3, 6), np.float32)


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
        del file["acts/hook_embed/angle/delimiter"]
        file["acts/hook_embed/angle/delimiter"] = h5py.ExternalLink("other.h5", "x")


def link_in_a_circle(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["cities"]
        file["cities"] = h5py.SoftLink("/cities")


def stored_outside(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["cities/id"]
        outside = [(str(path.with_name("raw")), 0, 8 * WORLD.n)]
        file.create_dataset("cities/id", (WORLD.n,), "<i8", external=outside)


def declared_huge(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["acts/hook_embed/angle/delimiter"]
        shape = (WORLD.n, 2**40)
        file.create_dataset("acts/hook_embed/angle/delimiter", shape, np.float32, chunks=(1, 1024))


def texts_for_numbers(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["cities/x"]
        file["cities/x"] = [b"1"] * WORLD.n


def list_of_attributes(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.attrs["hooks"] = np.arange(3)


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
    (next_version, SchemaMismatch, "'cwr-mech/activations/99'; this version reads 'cwr-mech/activations/1'"),
    (lost_array, CorruptArtifact, "has no array acts/hook_embed/angle/delimiter"),
    (lost_cities, CorruptArtifact, "has no array cities/x"),
    (lost_attribute, CorruptArtifact, "no attribute 'world_sha256'"),
    (broken_list, CorruptArtifact, "attribute 'hooks'"),
    (short_array, CorruptArtifact, "3 rows of acts/hook_embed/angle/delimiter for 45 cities"),
    (city_twice, CorruptArtifact, "a city twice"),
    (moved_city, CorruptArtifact, "holds other cities than its world_sha256 says"),
    (flipped_byte, CorruptArtifact, "was changed or damaged after it was written"),
    (link_outside, CorruptArtifact, "holds a link at acts/hook_embed/angle/delimiter"),
    (link_in_a_circle, CorruptArtifact, "holds a link at cities"),
    (stored_outside, CorruptArtifact, "keeps cities/id in another file"),
    (declared_huge, CorruptArtifact, "declares"),
    (texts_for_numbers, CorruptArtifact, "at cities/x"),
    (list_of_attributes, CorruptArtifact, "no attribute 'hooks'"),
    (zeros_among_texts, CorruptArtifact, "an object of 0 bytes among its texts"),
    (not_a_number, CorruptArtifact, "not finite in acts/hook_embed/distance/last_digit"),
]


@pytest.mark.parametrize(("fault", "error", "words"), FAULTS, ids=[fault[0].__name__ for fault in FAULTS])
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


def test_unknown_names_list_what_there_is(tmp_path: Path) -> None:
    store = ActivationStore(written(tmp_path / NAME))
    for arguments, words in (
        (("blocks.1.hook_resid_post", "angle"), "unknown hook in demo-step12.h5 'blocks.1.hook_resid_post'"),
        (("embed", "compass"), "unknown task in demo-step12.h5 'compass'"),
        (("embed", "angle", "last_digit+equals"), "unknown site in demo-step12.h5 'equals'"),
    ):
        with pytest.raises(UnknownName, match=re.escape(words)):
            store.get(*arguments)
    with pytest.raises(AnalysisError, match="holds no city 7"):
        store.get("embed", "angle", ids=np.array([int(WORLD.ids[0]), 7]))


def test_join_keeps_the_first_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    left, right = rng.permutation(WORLD.n)[:30], rng.permutation(WORLD.n)[:30]
    a = ActivationStore(written(tmp_path / "a.h5", part_of(WORLD, left)))
    b = ActivationStore(written(tmp_path / "b.h5", part_of(WORLD, right)))
    assert join(a, b).tolist() == [city for city in WORLD.ids[left].tolist() if city in WORLD.ids[right]]
    assert len(join(a, b)) > 0


def test_join_refuses_cities_that_moved(tmp_path: Path) -> None:
    common, extra = np.arange(20), np.arange(20, 25)
    a = ActivationStore(written(tmp_path / "a.h5", part_of(WORLD, common)))
    shift = np.zeros((25, 2), dtype=np.int64)
    shift[24] = 1  # a city that only one of them has: no harm
    b = ActivationStore(written(tmp_path / "b.h5", part_of(WORLD, np.concatenate([common, extra]), shift)))
    assert len(join(a, b)) == 20
    shift[4] = 1
    c = ActivationStore(written(tmp_path / "c.h5", part_of(WORLD, np.concatenate([common, extra]), shift)))
    with pytest.raises(AnalysisError, match=rf"city {WORLD.ids[4]} lies elsewhere in each \(1 of 20"):
        join(a, c)
    d = ActivationStore(written(tmp_path / "d.h5", part_of(WORLD, extra)))
    with pytest.raises(AnalysisError, match="no city in common"):
        join(a, d)


def half_write(writer: StoreWriter, error: type[BaseException] | None) -> None:
    writer.put(KEYS[0], 0, arrays()[KEYS[0]][:20])
    if error:
        raise error


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = written(tmp_path / NAME)
    before = path.read_bytes()
    for error in (KeyboardInterrupt, None):
        with (
            pytest.raises(
                error or AnalysisError, match=None if error else f"25 of {WORLD.n} rows of hook_embed"
            ),
            store_writer(path, WORLD, HOOKS[:1], TASKS[:1], SITES[:1]) as writer,
        ):
            half_write(writer, error)
    broken = arrays()
    broken[KEYS[3]][4, 4] = np.inf
    with pytest.raises(AnalysisError, match="not finite"):
        write_store(path, WORLD, broken)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [NAME]


FULL_DISK = """
import resource, signal, sys
import numpy as np
from cwr_mech.activations.writer import write_store
from cwr_mech.errors import NoSpace
from cwr_mech.world.cities import load_world
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
world = load_world(source="uniform", n_cities=3000)
values = {("hook_embed", "distance", "last_digit"): np.ones((world.n, 32))}
write_store(sys.argv[1], world, values)
whole = open(sys.argv[1], "rb").read()
for limit in (100, 5_000, 100_000, 300_000, len(whole) - 1, len(whole)):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_store(sys.argv[1], world, values)
        print("written")
    except NoSpace as error:
        print(error.message.partition(" to write ")[0])
    assert open(sys.argv[1], "rb").read() == whole
"""


def test_a_full_disk_is_one_line_and_no_crash(tmp_path: Path) -> None:
    """HDF5 itself ends the process with a segmentation fault here."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / NAME)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["no space left"] * 5 + ["written"], done.stderr
    assert (done.returncode, done.stderr) == (0, "")
    assert [file.name for file in tmp_path.iterdir()] == [NAME]


def test_names_of_files_tell_the_command() -> None:
    assert activations_path("a-step3-b", 7) == Path("activations/a-step3-b-step7.h5")
    assert rebuild_command(activations_path("a-step3-b", 7)) == "cwr-mech cache-acts a-step3-b --step 7"
    assert rebuild_command(activations_path("a", None)) == "cwr-mech cache-acts a --untrained"
    for run in ("runs of mine/a", "/tmp/a", "./a", "zoo:small", "tiny-ft-angle+inside"):
        path = activations_path(run, 7)
        assert path.parent == Path("activations")
        assert shlex.split(rebuild_command(path))[2:] == [run, "--step", "7"]
    assert rebuild_command("mine.h5") == "cwr-mech cache-acts RUN"


def test_three_names_take_training_cities_unless_another_group_is_said(tmp_path: Path) -> None:
    store = ActivationStore(written(tmp_path / NAME))
    hook, task, site = KEYS[0]
    both = store.get(hook, task, site)
    assert store.is_new.any()
    assert (store[hook, task, site] == both[~store.is_new]).all()
    assert (store[hook, task, site, "new"] == both[store.is_new]).all()
    assert (store[hook, task, site, "all"] == both).all()
    assert store.select("new").tolist() == store.city_ids[store.is_new].tolist()
    with pytest.raises(UnknownName, match="group of cities 'fresh'"):
        store[hook, task, site, "fresh"]
    table = store.to_pandas(hook, task, site)
    assert table.index.tolist() == store.select().tolist()
    assert not table["is_new"].any()
    assert (table[list(range(both.shape[1]))].to_numpy() == both[~store.is_new]).all()
    axes = f"{len(store.hooks)} hooks x {len(store.tasks)} prompts x {len(store.sites)} sites"
    assert repr(store) == (
        f"ActivationStore({str(store.path)!r}: {len(store)} cities ({store.is_new.sum()} new), {axes})"
    )


def test_a_block_keeps_the_file_open_and_reads_the_same(tmp_path: Path) -> None:
    store = ActivationStore(written(tmp_path / NAME))
    before = store[KEYS[0]]
    with store as opened:
        store.path.rename(tmp_path / "moved.h5")
        with store:
            assert (opened[KEYS[0]] == before).all()
        assert (opened[KEYS[0]] == before).all(), "the inner block does not close it"
    with pytest.raises(MissingArtifact):
        store[KEYS[0]]


def test_an_array_with_named_axes(tmp_path: Path) -> None:
    pytest.importorskip("xarray")
    store = ActivationStore(written(tmp_path / NAME))
    hook, task, site = KEYS[0]
    array = store.to_xarray([hook])
    assert array.dims == ("hook", "prompt", "site", "city", "width")
    assert array.sizes["city"] == (~store.is_new).sum()
    assert (array.sel(hook=hook, prompt=task, site=site).values == store[hook, task, site]).all()
    city = int(store.select()[3])
    assert array.sel(city=city)["name"].item() == store.names[store.rows([city])[0]]
    assert store.to_xarray([hook], "all")["is_new"].sum() == store.is_new.sum()
