"""tools/freeze.py notices what changes, passes what is only renamed or added, and leaves out times."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT

from cwr_mech.results import Result

SPEC = importlib.util.spec_from_file_location("freeze", ROOT / "tools" / "freeze.py")
freeze = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(freeze)


def saved(
    folder: Path, table: str = "layers", column: str = "off", word: str = "none", **changed: object
) -> dict:
    rows = [{column: 0.1 + layer, "route": word, "seconds": folder.name} for layer in range(3)]
    arrays = {"xy": np.arange(4.0), "words": np.array(["a", "b"])}
    settings = {"values": {"r2": 0.5, "times": {"seconds": folder.name}}, "arrays": arrays} | changed
    path = Result("probe", f"command in {folder}", {}, {}, tables={table: rows}, **settings).save(
        folder, "probe"
    )
    return json.loads(json.dumps(dict(freeze.result(path, "results/probe"))))


@pytest.fixture(autouse=True)
def nothing_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freeze, "RENAMED", {})


@pytest.fixture
def before(tmp_path: Path) -> dict:
    return saved(tmp_path / "before")


def test_another_command_and_other_times_are_no_change(before: dict, tmp_path: Path) -> None:
    assert freeze.compare(before, saved(tmp_path / "after")) == ([], [])
    assert "results/probe/layers/off" in before


CHANGES = [
    ({"column": "off_manifold"}, "gone     results/probe/layers/off"),
    ({"word": "unprojected"}, "3 of 3 rows, first 'none' -> 'unprojected'"),
    ({"values": {"r2": 0.5 + 1e-12}}, "changed  results/probe/values/r2"),
    (
        {"arrays": {"xy": np.arange(4.0) + 1e-12, "words": np.array(["a", "b"])}},
        "changed  results/probe/arrays/xy",
    ),
    ({"arrays": {"xy": np.arange(4.0), "words": np.array(["a", "c"])}}, "1 of 2 rows, first 'b' -> 'c'"),
]


@pytest.mark.parametrize(("changed", "line"), CHANGES)
def test_what_changes_is_named(before: dict, tmp_path: Path, changed: dict, line: str) -> None:
    lines, _ = freeze.compare(before, saved(tmp_path / "after", **changed))
    assert line in "\n".join(lines)


def test_a_rename_is_proved_by_its_row(before: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    after = saved(tmp_path / "after", table="sites", column="off_manifold", word="unprojected")
    assert freeze.compare(before, after)[0]
    names = {"layers": "sites", "layers/off": "off_manifold", "route=none": "unprojected"}
    monkeypatch.setattr(freeze, "RENAMED", names)
    assert freeze.compare(before, after) == ([], [])
    assert freeze.new_name("layers") == "sites"
    monkeypatch.setitem(names, "*_low", "*_lo")
    assert [freeze.new_name(name) for name in ("r2_low", "lowest")] == ["r2_lo", "lowest"]
    monkeypatch.setitem(names, "layers/off", "on_manifold")
    assert freeze.compare(before, after)[0] == ["gone     results/probe/sites/on_manifold"]


def test_what_is_added_is_listed_apart(before: dict) -> None:
    assert freeze.compare(before, before | {"results/new/kind": "new"}) == ([], ["added    results/new/kind"])
