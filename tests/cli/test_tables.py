"""Tables in terminals of any width: golden screens, and what holds for every table and every width.

`UPDATE_SCREENS=1 python -m pytest tests/cli/test_tables.py` writes the golden screens anew: look at them.
"""

import io
import os
from collections.abc import Sequence

import pytest
from cwr_mech_cli.common import rows_of, say
from cwr_mech_cli.main import one_line
from cwr_mech_cli.tables import Table, visible
from hypothesis import given
from hypothesis import strategies as st
from paths import GOLDEN
from rich.console import Console
from synthetic import cka, evaluation, patch, probe

from cwr_mech.analysis.best import DECODED, best_of_each
from cwr_mech.render.columns import COLUMNS, column
from cwr_mech.render.numbers import number
from cwr_mech.tasks.registry import PAPER_TASKS

SCREENS = GOLDEN / "screens"
MODELS = ("zoo:small", "zoo:small-seed2", "zoo:small-distance+trianglearea")


def printed(table: Table, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def of(title: str, columns: Sequence[str], records: Sequence[dict[str, object]]) -> Table:
    return Table(title, columns, rows_of(records, columns))


def screens() -> dict[str, Table]:
    """The tables that commands print, with names as long as those of the zoo."""
    layers = best_of_each(probe().tables["layers"], "task", DECODED)
    columns = ["task", "layer", "r2", "lo", "hi", "error_mean", "error_median"]
    columns += [f"control_r2_{name}" for name in ("shuffled", "digits", "untrained")]
    found = {"probe": of("best layer for each prompt, held-out cities", columns, layers)}
    matrix = cka(runs=MODELS).arrays["matrix"][:12, :12]
    names = [f"{MODELS[i // 4]} distance L{i % 4}" for i in range(12)]
    rows = [[name, *map(float, row)] for name, row in zip(names, matrix, strict=True)]
    found["cka"] = Table("debiased linear CKA", ["", *map(str, range(1, 13))], rows)
    pairs: list[dict[str, object]] = [
        {"measure": measure, "run_a": MODELS[0], "run_b": other, "layer": 2, "value": 0.123 * k}
        | {"lo": 0.01, "hi": 0.987, "null_mean": 0.001, "null_best": 0.25, "ceiling": 0.9}
        for k, measure in enumerate(("procrustes", "procrustes-no-scale", "nearest-neighbours"), 1)
        for other in MODELS[1:]
    ]
    found["similarity"] = of("pairs of models", list(pairs[0]), pairs)
    sizes: list[dict[str, object]] = [
        {"n_tasks": 7, "k": k, "variance": 0.514, "r2": 0.87, "r2_lo": 0.852, "r2_hi": 0.897}
        | {"r2_shuffled": -0.01, "alignment": 0.081}
        for k in (2, 4, 16)
    ]
    found["surfacing"] = of("coordinates in the first components", list(sizes[0]), sizes)
    cells = patch().tables["cells"][:8]
    columns = ["direction", "component", "layer", "head", "span", "n", "recovered", "lo", "hi", "null"]
    found["patch"] = of("distance, logit difference", [*columns, "p_adj"], cells)
    columns = ["task", "group", "n", "parse_rate", "value_mean", "value_median", "baseline", "metric", "unit"]
    found["eval"] = of("zoo:small, step 8000, test questions", columns, evaluation().tables["tasks"][:7])
    found["zoo"] = Table(
        "fine-tuned on 1 task, on-manifold",
        ["model", "steps", "learned", "least of its tasks"],
        [[f"zoo:small-ft-{task}-random-complement", 696, 0.912, f"{task} 0.812"] for task in PAPER_TASKS],
    )
    return found


@pytest.mark.parametrize("width", [120, 80, 40])
@pytest.mark.parametrize("name", list(screens()))
def test_screens(name: str, width: int) -> None:
    text, path = printed(screens()[name], width), SCREENS / f"{name}-{width}.txt"
    if "UPDATE_SCREENS" in os.environ:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= width


WORDS = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="-+:"), min_size=1)
VALUES = st.none() | st.integers(-(10**9), 10**9) | st.floats(-1e6, 1e6)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    n, words, values = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 8))
    names = draw(st.lists(st.sampled_from(list(COLUMNS)), min_size=values, max_size=values, unique=True))
    rows = [
        [f"row{index}", *(draw(WORDS) for _ in range(words - 1)), *(draw(VALUES) for _ in names)]
        for index in range(n)
    ]
    return Table("", [*(f"label {i}" for i in range(words)), *names], rows)


@given(tables(), st.integers(20, 160))
def test_nothing_is_cut_at_any_width(table: Table, width: int) -> None:
    """Every number stands whole somewhere, every label is whole when its line breaks are taken out."""
    text = printed(table, width)
    words = text.split()
    for row, cells in zip(table.rows, table.cells, strict=True):
        for value, cell in zip(row, cells, strict=True):
            if isinstance(value, int | float) and len(cell) <= width - 4:
                assert cell in words
    assert "…" not in text
    blocks = table.blocks(width)
    if blocks != [[]]:
        labels = list(range(table.labels()))
        assert all(block[: len(labels)] == labels for block in blocks)
        shown = {index for block in blocks for index in block}
        assert shown == set(range(len(table.columns)))


def test_labels_are_the_columns_that_tell_rows_apart() -> None:
    table = Table("", ["a", "b", "value"], [["x", 1, 0.5], ["x", 2, 0.5], ["y", 1, 0.5]])
    assert table.labels() == 2
    assert Table("", ["a", "b", "value"], [["x", 1, 0.5], ["y", 1, 0.5]]).labels() == 1
    alike = Table("", ["a", "value", "b"], [["x", 0.5, 1], ["x", 0.6, 2]])
    assert alike.labels() == 1  # a measured number is no label


def test_a_row_becomes_a_paragraph_where_nothing_fits_beside_it() -> None:
    table = Table("", ["model", "r2", "lo"], [["zoo:small-distance+trianglearea-seed2", 0.5, 0.25]])
    assert printed(table, 20).splitlines()[-2:] == ["  R² 0.500", "  95% low 0.250"]


HEADINGS = (
    ("lo", "95% low"),
    ("hi", "95% high"),
    ("r2_lo", "R², 95% low"),
    ("r_hi", "correlation, 95% high"),
    ("never_heard_of", "never heard of"),
    ("iia", "IIA"),
    ("alignment", "share of the probe inside"),
)


@pytest.mark.parametrize(("name", "heading"), HEADINGS)
def test_headings_are_words(name: str, heading: str) -> None:
    assert column(name).heading == heading


def test_layers_have_names() -> None:
    rows: list[dict[str, object]] = [
        {"layer": layer, "hook": hook}
        for layer, hook in ((-1, "hook_embed"), (0, "blocks.0.hook_resid_post"), (4, "unembed.hook_in"))
    ]
    assert rows_of(rows, ["layer"]) == [["embed"], ["L0"], ["final"]]
    assert rows_of([{"layer_a": -1, "layer_b": 2}], ["layer_a", "layer_b"]) == [["embed", "L2"]]


def test_no_heading_is_code() -> None:
    for about in COLUMNS.values():
        assert "_" not in about.heading
        assert about.heading[0].isalpha()


def test_numbers_have_the_digits_of_their_column() -> None:
    assert column("r2").digits == 3
    assert Table("", ["", "r2"], [["a", 0.98765]]).cells == [["a", number(0.98765, 3)]]


def test_names_cannot_give_orders_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[31m\u202eb\nc"
    shown = printed(Table("", ("run", "value"), [(name, 1.0)]), 80)
    assert r"a\x1b[31m\u202eb\nc" in shown
    say(name)
    one_line(f"no such run: {name}", name)
    out, errors = capsys.readouterr()
    assert out == "a\\x1b[31m\\u202eb\nc\n"  # what we say may have several lines
    assert errors == "".join(f"{head}a\\x1b[31m\\u202eb\\nc\n" for head in ("error: no such run: ", "hint: "))
    assert visible("Łódź 東京 –") == "Łódź 東京 –"  # control: letters of any script stay
