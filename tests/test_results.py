"""Results keep what they are given, say when they were changed, and refuse what JSON cannot hold."""

import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st

from cwr_mech.errors import AnalysisError, ArtifactError, CorruptArtifact, MissingArtifact, SchemaMismatch
from cwr_mech.results import Result, _digest, load_result, load_results, plain


def result(**changes: Any) -> Result:
    base = Result(
        kind="cka",
        command="cwr-mech cka a b",
        inputs={"activations/a.h5": "0" * 64},
        params={"runs": ["a", "b"], "seed": 1},
        values={"n": 12},
        tables={"t": [{"x": 1.5, "y": "a"}, {"x": None, "y": "b"}]},
        arrays={"m": np.eye(3), "names": np.array(["one", "three"])},
        notes=["a note"],
    )
    return replace(base, **changes)


CONVERTED = (
    (np.float64(0.1), 0.1),
    (np.float32(0.5), 0.5),
    (np.int64(3), 3),
    (np.bool_(True), True),
    (np.arange(3), [0, 1, 2]),
    (float("nan"), None),
    (np.array([1.0, np.nan]), [1.0, None]),
    ((1, (2, "a")), [1, [2, "a"]]),
    ({1: {"a": None}}, {"1": {"a": None}}),
    (Path("a/b"), "a/b"),
)


@pytest.mark.parametrize(("given_value", "stored"), CONVERTED)
def test_plain_converts(given_value: Any, stored: Any) -> None:
    found = plain(given_value, "here")
    assert found == stored
    assert type(found) is type(stored)


REFUSED = (float("inf"), -np.inf, np.array([np.inf]), {"a": [object()]}, b"bytes", 1j)


@pytest.mark.parametrize("value", REFUSED)
def test_plain_refuses_and_names_the_place(value: Any) -> None:
    with pytest.raises(AnalysisError, match=r"values\.a"):
        plain({"a": value}, "values")


cells = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_infinity=False)
rows = st.lists(st.fixed_dictionaries({"a": cells, "ü b": cells}), max_size=4)


@given(values=st.dictionaries(st.text(), cells), table=rows, notes=st.lists(st.text()))
def test_everything_comes_back(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any], table: list[Any], notes: list[str]
) -> None:
    before = result(values=values, tables={"t": table, "empty": []}, notes=notes)
    after = load_result(before.save(tmp_path_factory.mktemp("r"), "r"))
    assert after == before
    assert (after.values, after.tables, after.notes) == (before.values, before.tables, before.notes)


@pytest.mark.parametrize("name", synthetic.ALL)
def test_every_kind_comes_back(name: str, tmp_path: Path) -> None:
    before = synthetic.ALL[name]()
    after = load_result(before.save(tmp_path, name))
    assert after == before
    assert set(after.arrays) == set(before.arrays)
    for key, array in before.arrays.items():
        np.testing.assert_array_equal(after.arrays[key], array)
        assert after.arrays[key].dtype == array.dtype


def test_arrays_of_any_layout_are_the_same_result() -> None:
    square = np.arange(6.0).reshape(2, 3)
    same = (square, np.asfortranarray(square), square.astype(">f8"), np.tile(square, (2, 2))[:2, :3])
    assert len({result(arrays={"m": array}).sha256 for array in same}) == 1
    assert result(arrays={"m": square + 1e-12}) != result(arrays={"m": square})
    assert result(arrays={"m": square.T}) != result(arrays={"m": square})


def test_the_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        result().save(tmp_path / folder, "r")
    for file in ("r.json", "r.npz"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_files_can_be_read_without_this_package(tmp_path: Path) -> None:
    path = result().save(tmp_path, "r")
    content = json.loads(path.read_text())
    assert content["schema"] == "cwr-mech/result/1"
    assert content["tables"]["t"] == [{"x": 1.5, "y": "a"}, {"x": None, "y": "b"}]
    assert content["provenance"]["numpy"] == np.__version__
    np.testing.assert_array_equal(np.load(tmp_path / "r.npz")["m"], np.eye(3))
    lines = path.read_text().splitlines()
    assert '{"x": 1.5, "y": "a"}' in [line.strip().rstrip(",]") for line in lines]  # a line a row


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


DAMAGE = (
    (lambda p: edit(p, "1.5", "1.6"), CorruptArtifact, "was changed after it was written"),
    (lambda p: edit(p, '"a note"', '"another"'), CorruptArtifact, "was changed"),
    (lambda p: edit(p, "result/1", "result/0"), SchemaMismatch, "'cwr-mech/result/0'"),
    (lambda p: p.write_text(p.read_text()[:-40]), CorruptArtifact, "not valid JSON"),
    (lambda p: p.unlink(), MissingArtifact, "no such file"),
    (lambda p: p.with_suffix(".npz").unlink(), MissingArtifact, "no such file.*npz"),
    (lambda p: p.with_suffix(".npz").write_bytes(b"PK junk"), CorruptArtifact, "truncated or no npz"),
    (
        lambda p: p.with_suffix(".npz").write_bytes(p.with_suffix(".npz").read_bytes()[:-60]),
        CorruptArtifact,
        "truncated or no npz",
    ),
    (lambda p: np.savez(p.with_suffix(".npz"), m=np.zeros((3, 3))), CorruptArtifact, "not hold the arrays"),
)  # fmt: skip


@pytest.mark.parametrize(("damage", "error", "message"), DAMAGE)
def test_damage_is_noticed(damage: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    path = result().save(tmp_path, "r")
    damage(path)
    with pytest.raises(error, match=message) as caught:
        load_result(path)
    if path.exists() and error is not MissingArtifact and "JSON" not in message:
        assert "cwr-mech cka a b" in str(caught.value)


def test_saving_without_arrays_removes_old_ones(tmp_path: Path) -> None:
    result().save(tmp_path, "r")
    later = result(arrays={})
    assert load_result(later.save(tmp_path, "r")) == later
    assert not (tmp_path / "r.npz").exists()


def test_a_torn_pair_is_noticed(tmp_path: Path) -> None:
    result().save(tmp_path / "old", "r")
    path = result(arrays={"m": np.zeros(2)}).save(tmp_path / "new", "r")
    (tmp_path / "old" / "r.npz").replace(path.with_suffix(".npz"))
    with pytest.raises(CorruptArtifact, match="does not hold the arrays"):
        load_result(path)


REFUSED_RESULTS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"values": {"a": float("inf")}}, "values.a is infinite"),
    ({"tables": {"t": [{"a": 1}, {"a": 1, "b": 2}]}}, "table 't' differ in their columns: b"),
    ({"arrays": {"a": np.array([None, 1])}}, "array 'a'"),
)


@pytest.mark.parametrize(("changes", "message"), REFUSED_RESULTS)
def test_results_that_cannot_be_kept(changes: dict[str, Any], message: str) -> None:
    fields = {"kind": "k", "command": "", "inputs": {}, "params": {}} | changes
    with pytest.raises(AnalysisError, match=message):
        Result(**fields)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden"])
def test_names_stay_in_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="cannot name a result"):
        result().save(tmp_path, name)


def test_load_results_in_order(tmp_path: Path) -> None:
    for name in ("b", "a", "patch-distance"):
        result().save(tmp_path, name)
    assert list(load_results(tmp_path)) == ["a", "b", "patch-distance"]
    assert load_results(tmp_path / "nothing") == {}


def test_where_the_json_cannot_be_written_no_arrays_are_left(tmp_path: Path) -> None:
    (tmp_path / "r.json").mkdir()
    with pytest.raises(ArtifactError, match="is a folder"):
        result().save(tmp_path, "r")
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    (tmp_path / "r.json").rmdir()
    assert load_result(result().save(tmp_path, "r")) == result()  # control


def small(number: float) -> Result:
    return Result("cka", "cwr-mech cka", {}, {}, values={"number": number}, arrays={"x": np.full(4, number)})


@pytest.mark.parametrize("renames", range(4))
def test_json_and_arrays_are_one_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int) -> None:
    """Killed before the first rename, after it, ...: the old pair or the new one, and nothing left later."""
    old, new = small(1.0), small(2.0)
    path = old.save(tmp_path, "r")
    rename, done = os.replace, []

    def killed(source: Path, target: Path) -> None:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(target)
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt) if renames < 3 else nullcontext():
            new.save(tmp_path, "r")
    assert load_result(path) == (old if renames < 2 else new)
    third = small(3.0)
    third.save(tmp_path, "r")
    assert load_result(path) == third
    assert sorted(file.name for file in tmp_path.iterdir()) == ["r.json", "r.npz"]


def test_results_of_one_name_by_several_threads_are_whole(tmp_path: Path) -> None:
    results = [small(float(number)) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda result: [result.save(tmp_path, "r") for _ in range(5)], results))
    assert load_result(tmp_path / "r.json") in results
    assert sorted(file.name for file in tmp_path.iterdir()) == ["r.json", "r.npz"]


def forged(path: Path, **changes: object) -> None:
    """Change fields of a result, and give it the digest that it ought to have."""
    content = json.loads(path.read_text()) | changes
    content = {key: value for key, value in content.items() if key != "sha256"}
    path.write_text(json.dumps(content | {"sha256": _digest(content)}))


HUGE = {"x": {"shape": [2**40], "dtype": "<f8", "sha256": "0" * 64}}
FORGERIES = [
    {"tables": 3},
    {"tables": {"t": 3}},
    {"tables": {"t": [3]}},
    {"tables": {"t": [{"a": 1}, {"b": 1}]}},
    {"arrays": HUGE},
    {"arrays": {"x": 3}},
    {"arrays": [1]},
    {"notes": {"a": 1}},
    {"kind": None},
    {"command": ["cwr-mech"]},
]


@pytest.mark.parametrize("changes", FORGERIES, ids=str)
def test_forged_fields_are_one_line(tmp_path: Path, changes: dict[str, object]) -> None:
    path = small(1.0).save(tmp_path, "r")
    forged(path)
    assert load_result(path) == small(1.0), "control: the forger knows the digest"
    forged(path, **changes)
    with pytest.raises(CorruptArtifact) as error:
        load_result(path)
    assert "\n" not in str(error.value)


def test_an_array_that_declares_terabytes_is_not_made(tmp_path: Path) -> None:
    path = small(1.0).save(tmp_path, "r")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**40,)})
    with ZipFile(path.with_suffix(".npz"), "w") as packed:
        packed.writestr("x.npy", header.getvalue())
    forged(path, arrays=HUGE)
    with pytest.raises(CorruptArtifact, match="truncated or no npz"):
        load_result(path)
