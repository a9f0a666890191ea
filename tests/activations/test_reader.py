"""Activation files: what is read is what was written, and every broken file says so."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from activation_cases import HOOKS, KEYS, NAME, SITES, TASKS, WORLD, arrays, part_of, written
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
    MissingArtifact,
    UnknownName,
)


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
