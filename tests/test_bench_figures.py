"""The table of benchmarks compares with the figures that are kept."""

import importlib.util
from pathlib import Path

SPEC = importlib.util.spec_from_file_location("bench_run", Path(__file__).parent / "benchmarks" / "run.py")
assert SPEC is not None
assert SPEC.loader is not None
bench = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(bench)

ROWS = [{"case": "a", "seconds": 2.0, "ratio": 4.0}, {"case": "b", "seconds": 0.5}]


def test_a_figure_stands_beside_the_one_kept() -> None:
    faster = {"case": "a", "seconds": 9.0, "ratio": 5.0}
    assert bench.beside(faster, ROWS) == "4x (+25%)"  # the ratio, not the seconds of another machine
    assert bench.beside({"case": "b", "seconds": 0.25}, ROWS) == "0.5s (-50%)"
    assert bench.beside({"case": "c", "seconds": 1.0}, ROWS) == ""


def test_only_what_was_run_is_kept_anew(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    assert bench.kept_figures(path) == {}
    bench.keep({"x": ROWS[:1], "y": ROWS}, path)
    bench.keep({"x": ROWS[1:]}, path)
    kept = bench.kept_figures(path)
    assert [row["case"] for row in kept["x"]["rows"]] == ["b"]
    assert kept["y"]["rows"] == ROWS
    assert kept["x"]["processor"] == bench.processor() != ""


def test_the_figures_of_the_repository_are_of_benchmarks_that_are_there() -> None:
    names = {path.stem.removeprefix("bench_") for path in bench.HERE.glob("bench_*.py")}
    kept = bench.kept_figures()
    assert kept
    assert set(kept) <= names
    for entry in kept.values():
        assert all(row["seconds"] is None or row["seconds"] > 0 for row in entry["rows"] if "seconds" in row)
