"""Reports follow from their results, name their sources, and notice every change."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from PIL import Image

from cwr_mech.activations.reader import ActivationStore, digests
from cwr_mech.activations.writer import write_store
from cwr_mech.analysis.best import DECODED, best_of_each
from cwr_mech.config import WorldConfig
from cwr_mech.errors import CorruptArtifact, MissingArtifact
from cwr_mech.render.markdown import markdown_table
from cwr_mech.render.numbers import number
from cwr_mech.report.contents import all_shows
from cwr_mech.report.figures import figure_names
from cwr_mech.report.page import MOST_ROWS, report_text
from cwr_mech.report.write import check_report, other_floats, write_report
from cwr_mech.results import Result
from cwr_mech.world.cities import load_world


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "demo"
    for name, make in synthetic.ALL.items():
        make().save(folder / "results", name)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "small"
    synthetic.cka(runs=("quick",), n_layers=1).save(folder / "results", "cka")
    synthetic.evaluation(runs=("quick-angle",)).save(folder / "results", "eval")
    write_report(folder)
    return folder


@pytest.fixture
def folder(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "small"))


def test_everything_is_in_the_report(written: Path) -> None:
    text = (written / "report.md").read_text()
    kinds = {make().kind for make in synthetic.ALL.values()}
    for section in (row for row in all_shows().values() if row.opening):
        assert (f"## {section.title}" in text) == (section.kind in kinds)
    for name in synthetic.ALL:
        assert f"[{name}.json](results/{name}.json)" in text
    linked = {part.split(")")[0] for part in text.split("](")[1:]}
    assert all(link[0] == "#" or (written / link).exists() for link in linked)
    figures = {file for name, make in synthetic.ALL.items() for _, file in figure_names(make(), name)}
    assert {path.name for path in (written / "figures").iterdir()} == figures


def test_numbers_of_the_results_are_in_the_text(written: Path) -> None:
    text = (written / "report.md").read_text()
    scores = synthetic.evaluation().tables["tasks"]
    for row in (scores[0], scores[-1]):
        assert f"| {number(row['value_mean'])} |" in text
    best = best_of_each(synthetic.probe().tables["layers"], "task", DECODED)
    assert all(f"{number(row['lo'])} to {number(row['hi'])}" in text for row in best)
    assert "| distance | final | unembed.hook_in |" in text
    assert "180 of 256 pairs kept (left out: clean answer wrong 50)" in text


def test_a_report_checks_itself(written: Path) -> None:
    assert check_report(written) == []


def test_other_numbers_make_another_report() -> None:
    result = synthetic.evaluation()
    rows = [dict(row) for row in result.tables["tasks"]]
    rows[0]["value_mean"] *= 1.5
    other = replace(result, tables={"tasks": rows})
    assert report_text("r", {"eval": other}) != report_text("r", {"eval": result})


def swap_figures(folder: Path) -> None:
    shutil.copy(folder / "figures" / "cka.png", folder / "figures" / "eval.png")


def repaint(folder: Path) -> None:
    path = folder / "figures" / "cka.png"
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).copy()
        info = {key: str(value) for key, value in image.info.items()}
    pixels[200:400, 200:400] = 0
    from PIL.PngImagePlugin import PngInfo

    fields = PngInfo()
    for key, value in info.items():
        fields.add_text(key, value)
    Image.fromarray(pixels).save(path, pnginfo=fields)


def rewrite(folder: Path, old: str, new: str) -> None:
    path = folder / "report.md"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


DIFFERENCES: tuple[tuple[Any, str], ...] = (
    (lambda f: rewrite(f, "n = 256 cities", "n = 999 cities"), "report.md line"),
    (lambda f: rewrite(f, "Computed with", "Computed with care and"), "report.md line"),
    (lambda f: (f / "report.md").write_text((f / "report.md").read_text() + "more\n"), "lines, its results"),
    (lambda f: (f / "figures" / "cka.png").unlink(), "cka.png is missing"),
    (lambda f: (f / "figures" / "cka.png").write_bytes(b"no"), "cka.png is not a readable PNG"),
    (swap_figures, "eval.png was drawn from other results"),
    (repaint, "cka.png does not look like"),
    (lambda f: synthetic.cka(runs=("other",)).save(f / "results", "cka"), "report.md line"),
    (lambda f: synthetic.evaluation(runs=("quick-angle",)).save(f / "results", "more"), "report.md"),
)


@pytest.mark.parametrize(("change", "message"), DIFFERENCES)
def test_check_notices(change: Any, message: str, folder: Path) -> None:
    change(folder)
    problems = check_report(folder)
    assert any(message in problem for problem in problems), problems


def test_check_refuses_edited_results(folder: Path) -> None:
    path = folder / "results" / "cka.json"
    path.write_text(path.read_text().replace("0.0003", "0.0002"))
    with pytest.raises(CorruptArtifact, match=r"cka.json was changed.*cwr-mech cka quick"):
        check_report(folder)
    with pytest.raises(CorruptArtifact, match=r"cka.json was changed"):
        write_report(folder)


@pytest.mark.parametrize("linked", [False, True])
def test_check_hashes_inputs_that_are_here(tmp_path: Path, linked: bool) -> None:
    """They lie beside reports/, also where that is a link to another disk."""
    folder, source = tmp_path / "reports" / "r", "activations/quick-step0008000.h5"
    if linked:
        (tmp_path / "disk").mkdir()
        (tmp_path / "reports").symlink_to(tmp_path / "disk")
    synthetic.probe().save(folder / "results", "probe")
    write_report(folder)
    assert check_report(folder) == []
    (tmp_path / "activations").mkdir()
    (tmp_path / source).write_bytes(b"other")
    assert check_report(folder) == [f"{source} is not what results/probe.json was computed from"]


def test_activations_made_anew_on_another_processor_are_no_reason_to_doubt(tmp_path: Path) -> None:
    """The same model and world with other last digits is told; another model is a difference."""
    folder, path = tmp_path / "reports" / "r", tmp_path / "activations" / "one.h5"
    arrays = {("hook_embed", "distance", "last_digit"): np.ones((8, 4), dtype=np.float32)}

    def store(model: str, scale: float) -> dict[str, str]:
        world = load_world(WorldConfig(source="uniform", n_cities=8, new="none"))
        scaled = {key: scale * array for key, array in arrays.items()}
        write_store(path, world, scaled, attrs={"run": "one", "step": 1, "model_sha256": model})
        made = digests(ActivationStore(path))
        return {str(Path(key).relative_to(tmp_path)): value for key, value in made.items()}

    made_from = store("a" * 64, 1.0)
    replace(synthetic.probe(), inputs=made_from).save(folder / "results", "probe")
    write_report(folder)
    assert "#model+world" not in (folder / "report.md").read_text()
    store("a" * 64, 1.0 + 1e-6)
    assert check_report(folder) == []
    (told,) = other_floats(folder)
    assert "holds other floating point of the same model and world" in told
    store("b" * 64, 1.0)
    assert check_report(folder) == ["activations/one.h5 is not what results/probe.json was computed from"]
    assert other_floats(folder) == []


def test_the_page_begins_with_a_summary_and_links_to_every_section(written: Path) -> None:
    text = (written / "report.md").read_text()
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings[:2] == ["## Summary", "## Contents"]
    contents = text[text.index("## Contents") : text.index(headings[2])]
    for heading in headings[2:]:
        title = heading.removeprefix("## ")
        assert f"[{title}](#" in contents


def test_the_summary_says_what_was_found_and_lets_pooled_results_stand_for_models() -> None:
    results = {name: make() for name, make in synthetic.ALL.items() if name in ("eval", "patch-distance")}
    cells = results["patch-distance"].tables["cells"]
    for index, row in enumerate(cells):
        row |= {"null": 0.9, "recovered": 0.95 if index != 7 else 0.6, "lo": 0.5, "hi": 0.7}
    cells[7] |= {"null": 0.1, "direction": "denoise"}
    results["patch-distance-quick"] = results["patch-distance"]
    summary = report_text("demo", results, {})[0].split("## Contents")[0]
    assert "closed by quick in 7 of 7 tasks" in summary
    assert "quick-angle in 1 of 1 tasks (angle). n = 1000 questions a task." in summary
    best = cells[7]
    assert (
        f"{best['component']} at L{best['layer']}, {best['span'].replace('_', ' ')}, restores 0.600"
        in summary
    )
    assert "(95 % 0.500 to 0.700, n = 180 pairs); an unrelated city's there 0.100." in summary
    assert summary.count("Where a city is carried to the answer") == 1
    rows = results["eval"].tables["tasks"]
    for row in rows:
        row["value_mean"] = row["baseline"]
    assert "closed by quick in 0 of 7 tasks;" in report_text("demo", results, {})[0]


def test_figures_have_alternative_text_and_captions_as_text(written: Path) -> None:
    text = (written / "report.md").read_text()
    for name, make in synthetic.ALL.items():
        for plot, file in figure_names(make(), name):
            with Image.open(written / "figures" / file) as image:
                caption = image.info["Description"]
            line = next(line for line in text.splitlines() if f"(figures/{file})" in line)
            assert line.startswith(f"![{plot.title}.")
            assert f"*{plot.title}.* {caption}" in text


def test_long_tables_lie_beside_the_page_as_csv(tmp_path: Path) -> None:
    folder = tmp_path / "reports" / "r"
    rows = [{"run": f"a|b{k}", "x": k} for k in range(MOST_ROWS + 1)]
    long = Result("other", "cwr-mech other", {}, {}, tables={"long": rows, "short": rows[:MOST_ROWS]})
    long.save(folder / "results", "thing")
    write_report(folder)
    text = (folder / "report.md").read_text()
    assert f"{MOST_ROWS} of {MOST_ROWS + 1} rows; all: [tables/thing-1.csv](tables/thing-1.csv)" in text
    lines = (folder / "tables" / "thing-1.csv").read_text().splitlines()
    assert lines[0] == "run,x"
    assert lines[-1] == f"a|b{MOST_ROWS},{MOST_ROWS}"
    assert check_report(folder) == []
    (folder / "tables" / "thing-1.csv").write_text("run,x\n")
    assert any("thing-1.csv" in problem for problem in check_report(folder))
    # What a later report does not show goes; a picture of somebody else's stays.
    (folder / "figures").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "figures" / "mine.png")
    Result("other", "cwr-mech other", {}, {}, tables={"long": rows[:3]}).save(folder / "results", "thing")
    synthetic.cka().save(folder / "results", "cka")
    write_report(folder)
    assert not list((folder / "tables").iterdir())
    (folder / "results" / "cka.json").unlink()
    (folder / "results" / "cka.npz").unlink(missing_ok=True)
    write_report(folder)
    assert [path.name for path in (folder / "figures").iterdir()] == ["mine.png"]


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifact, match="there are no results"):
        write_report(tmp_path / "empty")
    synthetic.cka().save(tmp_path / "r" / "results", "cka")
    with pytest.raises(MissingArtifact, match=r"report.md.*cwr-mech report r"):
        check_report(tmp_path / "r")


def test_kinds_without_a_section_are_shown_as_they_are(tmp_path: Path) -> None:
    result = Result(
        kind="other",
        command="cwr-mech other",
        inputs={},
        params={},
        values={"x": 0.5},
        tables={"short": [{"a|b": "c|d"}], "long": [{"a": 1}] * 100},
        notes=["a note"],
    )
    text, _ = report_text("r", {"thing": result, "cka": synthetic.cka()})
    assert text.index("## Similarity") < text.index("## other")
    assert "| x | 0.500 |" in text
    assert "c\\|d" in text
    assert "Table `long` has 100 rows" in text
    assert "- a note" in text


def test_a_result_that_lacks_something_is_named() -> None:
    result = replace(synthetic.cka(), values={})
    with pytest.raises(CorruptArtifact, match=r"'x'.*lacks 'measure'.*cwr-mech cka quick"):
        report_text("r", {"x": result})


def test_a_result_without_values_of_one_kind_is_no_error() -> None:
    probe = synthetic.probe(n=40, n_new=0)
    assert "New cities" not in report_text("r", {"probe": probe})[0]
    assert (
        "Learning curves" in report_text("r", {"train": replace(synthetic.train(), tables={"tasks": []})})[0]
    )


def test_markdown_tables() -> None:
    rows = [{"a": "x|y", "b": 1.0}, {"a": None, "b": None}]
    lines = markdown_table(rows, {"a": "A", "b": "B"}).splitlines()
    assert lines == ["| A | B |", "| :-- | --: |", "| x\\|y | 1.00 |", "| - | - |"]
