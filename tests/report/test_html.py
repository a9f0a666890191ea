"""The page to explore: whole, small, without a network; in a browser its controls do what they say."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import synthetic
from browser import CHROMIUM, Page, browser
from paths import ROOT

from cwr_mech.errors import MissingArtifact
from cwr_mech.report.figures import drawn
from cwr_mech.report.html import html_page, write_html
from cwr_mech.report.maps import STEPS
from cwr_mech.results import Result, load_result

MOST_BYTES = 10_000_000
in_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium; on Debian: apt-get install chromium"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "demo"
    for name, make in synthetic.ALL.items():
        make().save(folder / "results", name)
    return write_html(folder)


@pytest.fixture(scope="module")
def shown() -> Iterator[Page]:
    with browser() as one:
        yield one


def test_the_page_is_whole_and_small(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert page.stat().st_size < MOST_BYTES
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)  # plotly's own text names web addresses
    assert not re.search(r"(src|href)=\"(https?:)?//", own)
    for name, make in synthetic.ALL.items():
        assert f'id="{name}"' in own
        for file, _ in drawn(make(), name):
            assert f'data-figure="{file}"' in own
    anchors = set(re.findall(r' id="([^"]+)"', own))
    assert set(re.findall(r'href="#([^"]+)"', own)) <= anchors


def test_words_of_results_cannot_become_markup() -> None:
    from dataclasses import replace

    result = replace(synthetic.evaluation(), notes=["<script>alert(1)</script>"], command="x </script> y")
    text = html_page("demo", {"eval": result})
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_a_report_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifact, match="no results"):
        write_html(tmp_path / "nothing")


SORT = """
const numbers = (table, column) => [...table.tBodies[0].rows].filter((row) => !row.hidden)
  .map((row) => parseFloat(row.cells[column].textContent.replace(/,/g, "")));
const [table, column] = [...document.querySelectorAll("main table")].flatMap(
  (table) => [...[...table.tHead.rows[0].cells].keys()].map((column) => [table, column])
).find(([table, column]) => table.closest(".table").querySelector("input")
  && new Set(numbers(table, column).filter((value) => !isNaN(value))).size > 4);
const read = () => numbers(table, column);
const button = table.tHead.rows[0].cells[column].querySelector("button");
const before = read();
button.focus();
const focused = document.activeElement === button;
button.click();
const up = [read(), table.tHead.rows[0].cells[column].getAttribute("aria-sort")];
button.click();
const down = [read(), table.tHead.rows[0].cells[column].getAttribute("aria-sort")];
const field = table.closest(".table").querySelector("input");
const word = table.tBodies[0].rows[0].cells[0].textContent.trim();
field.value = word; field.dispatchEvent(new Event("input"));
const kept = [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.textContent);
const said = table.closest(".table").querySelector("output").textContent;
field.value = "no such word anywhere"; field.dispatchEvent(new Event("input"));
return { before, focused, up, down, word, kept, said, none: read().length };
"""


@in_browser
def test_tables_sort_and_filter(page: Path, shown: Page) -> None:
    shown.open(page)
    found = shown.run(SORT)
    assert shown.faults == []
    assert found["focused"]
    assert found["up"] == [sorted(found["before"]), "ascending"]
    assert found["down"] == [sorted(found["before"], reverse=True), "descending"]
    assert found["up"][0] != found["down"][0]
    assert found["kept"]
    assert all(found["word"].lower() in row.lower() for row in found["kept"])
    assert found["said"].startswith(str(len(found["kept"])))
    assert found["none"] == 0


DRAWN = """
const wanted = document.querySelectorAll(".plot").length;
const plots = [...document.querySelectorAll(".plot")];
const missing = () => plots.find((plot) => !plot.data && !plot.textContent.includes("WebGL"));
for (let turn = 0; turn < 300 && missing(); turn++) { missing().scrollIntoView(); await pause(100); }
const names = plots.map((plot) => plot.data ? plot.data.flatMap((trace) => (trace.customdata || [])
  .flat().filter((word) => typeof word === "string")) : []).flat();
return { wanted, left: missing() ? missing().innerHTML : null, names,
         wide: document.documentElement.scrollWidth, screen: window.innerWidth,
         open: document.getElementById("contents").open };
"""


@in_browser
@pytest.mark.parametrize("width", [1300, 390])
def test_figures_are_drawn_and_nothing_runs_off_the_screen(page: Path, shown: Page, width: int) -> None:
    shown.open(page, width)
    found = shown.run(DRAWN)
    assert shown.faults == []
    assert found["left"] is None
    assert found["wanted"] > 20
    assert found["wide"] == found["screen"] == width
    assert found["open"] is (width > 1120)  # on a phone the contents wait to be opened
    runs = [str(run) for run in synthetic.cka().arrays["runs"]]
    assert any(runs[0] in name for name in found["names"])  # matrices name their rows and columns


CONTROL = """
const box = document.getElementById("map-in-motion");
const control = (label) => [...box.querySelectorAll("label")]
  .find((one) => one.textContent.startsWith(label)).querySelector("select, input");
const choose = (label, words) => {
  const node = control(label);
  const option = [...node.options].find((one) => one.textContent === words);
  node.value = option.value; node.dispatchEvent(new Event("change", { bubbles: true }));
};
const cities = () => box.querySelector(".plot").data.filter((one) => one.text && one.name !== "true place");
const places = () => Object.fromEntries(cities().flatMap((trace) => trace.text.map((word, index) =>
  [word.match(/\\((\\d+)\\)/)[1], [trace.x[index], trace.y[index]]])));
const said = () => box.querySelector("output").textContent;
const settled = async () => {
  do await pause(100); while (box.querySelector(".plot").getAttribute("aria-busy") !== "false");
  return places();
};
box.scrollIntoView();
while (!box.querySelector(".plot").data) await pause(50);
"""


def near(found: dict[str, list[float]], result: Result, decoded: np.ndarray) -> bool:
    """Whether the page's points are those of a result, to half a step of its grid and rounding."""
    step = 3 * float(np.ptp(result.arrays["true"], axis=0).max()) / STEPS
    there = np.array([found[str(city)] for city in result.arrays["ids"].tolist()], dtype=float)
    return bool(np.abs(there - decoded).max() < 0.51 * step)


@in_browser
def test_the_map_shows_what_is_chosen(page: Path, shown: Page) -> None:
    result = synthetic.places()
    decoded = result.arrays["decoded"].astype(float)  # states 0 to 2: quick at 0, 100, 8000
    shown.open(page)
    assert near(shown.run(CONTROL + "return await settled();"), result, decoded[2, 0, 2])
    assert not near(shown.run(CONTROL + "return places();"), result, decoded[0, 0, 1])  # control
    shown.run(CONTROL + "choose('Model', 'other'); choose('Prompt', 'compass'); control('Layer').focus();")
    shown.press("Home")  # a slider answers to the keyboard
    assert near(shown.run(CONTROL + "return await settled();"), result, decoded[5, 1, 0])
    assert "other, L0, compass prompt, step 8000" in shown.run(CONTROL + "return said();")
    shown.run(CONTROL + "control('Checkpoint').focus();")
    shown.press("ArrowLeft")
    assert near(shown.run(CONTROL + "return await settled();"), result, decoded[4, 1, 0])
    shown.run(CONTROL + "choose('Places', 'true'); await settled();")
    assert near(shown.run(CONTROL + "return places();"), result, result.arrays["true"])
    shown.run(CONTROL + "choose('Places', 'decoded'); await settled();")
    played = shown.run(
        CONTROL
        + """
const button = [...box.querySelectorAll("button")].find((one) => one.textContent === "Play layers");
button.click();
const seen = new Set();
for (let turn = 0; turn < 300 && button.textContent === "Stop"; turn++) {
  seen.add(said());
  await pause(100);
}
return { seen: [...seen].map((words) => words.split(",")[1].trim()), button: button.textContent };
"""
    )
    assert played == {"seen": ["L0", "L1", "L2"], "button": "Play layers"}
    assert shown.faults == []


@in_browser
def test_implied_places_are_those_of_the_task(shown: Page, tmp_path: Path) -> None:
    result = load_result(ROOT / "reports/routing/results/locate.json")
    result.save(tmp_path / "implied" / "results", "locate")
    shown.open(write_html(tmp_path / "implied"), 390)
    run, task = 3, 1
    names = (str(result.arrays["runs"][run]), str(result.arrays["tasks"][task]))
    chosen = f"choose('Model', '{names[0]}'); choose('Places', 'implied by answers: {names[1]}');"
    found = shown.run(CONTROL + chosen + "return { places: places(), said: said() };")
    assert near(found["places"], result, result.arrays["implied"][run, task])
    assert not near(found["places"], result, result.arrays["implied"][run, 0])  # control
    assert all(name in found["said"] for name in names)
    assert shown.faults == []


GRID = """
const box = document.querySelector("[data-explorer=patch-distance]");
box.scrollIntoView();
while (!box.querySelector(".plot").data) await pause(50);
const [first] = box.querySelectorAll("select");
const read = () => ({ said: box.querySelector("output").textContent, z: box.querySelector(".plot").data[0].z,
  hover: box.querySelector(".plot").data[0].customdata.flat(),
  words: box.querySelector(".plot").layout.xaxis.ticktext });
const before = read();
first.focus();
first.value = "1"; first.dispatchEvent(new Event("change", { bubbles: true }));
await pause(300);
return { before, after: read(), names: [...first.options].map((option) => option.textContent) };
"""


@in_browser
def test_the_patching_grid_shows_the_component_chosen(page: Path, shown: Page) -> None:
    result = synthetic.patch()
    shown.open(page)
    found = shown.run(GRID)
    spans = [str(span) for span in result.arrays["spans"]]
    for at, component in (("before", found["names"][0]), ("after", found["names"][1])):
        assert component in found[at]["said"]
        wanted = [
            row
            for row in result.tables["cells"]
            if (row["component"], row["direction"], row["metric"])
            == (component, result.tables["cells"][0]["direction"], result.tables["cells"][0]["metric"])
        ]
        values = sorted(value for line in found[at]["z"] for value in line if value is not None)
        assert values == sorted(round(row["recovered"], 4) for row in wanted if row["recovered"] is not None)
    assert found["before"]["z"] != found["after"]["z"]
    assert any("1234" in word for word in found["before"]["words"])  # tokens of a question
    assert len(found["before"]["words"]) == len(spans)
    assert any("recovered" in word and "n = " in word for word in found["before"]["hover"])
    assert shown.faults == []


@in_browser
def test_a_fault_of_a_page_is_seen(tmp_path: Path) -> None:
    """Control of the other tests: errors, and a request to a network, do reach them."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<script>console.error('planted'); fetch('https://example.invalid/x'); nothing.here;</script>"
    )
    with browser() as one:
        one.open(bad)
        one.run("await pause(200); return missing_name;")
        faults = "\n".join(one.faults)
    for word in ("planted", "example.invalid", "nothing is not defined", "missing_name"):
        assert word in faults
