"""Figures show the numbers of their results, say n and control, and keep to themselves."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import synthetic
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver
from PIL import Image

from cwr_mech.analysis.answers.lines import (
    eval_figure,
    learning_figure,
)
from cwr_mech.analysis.patching.grid import patch_figure
from cwr_mech.analysis.probing.figures import (
    probe_layers_figure,
)
from cwr_mech.analysis.probing.maps import map_figure, pca_figure
from cwr_mech.analysis.similarity.figures import (
    cka_figure,
    references_figure,
)
from cwr_mech.errors import CorruptArtifact
from cwr_mech.render.numbers import layer_name
from cwr_mech.render.style import (
    REGION_LOOKS,
    region_looks,
    task_look,
)
from cwr_mech.report.contents import all_shows
from cwr_mech.report.figures import draw, figure_names
from cwr_mech.results import Result
from cwr_mech.tasks.registry import PAPER_TASKS
from cwr_mech.world.cities import load_world
from cwr_mech.world.new_cities import NEW


def words(figure: Figure) -> str:
    figure.draw_without_rendering()
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


@pytest.mark.parametrize(
    ("alike", "said"), [(1.0, "Largest 95 % quantile with shuffled cities: .70"), (0.0, "Least 5 % quantile")]
)
def test_the_null_beside_references_is_the_one_most_alike(alike: float, said: str) -> None:
    """Of a distance the smallest, of a similarity the largest; a measure that refused a pair has none."""
    pairs = [
        {"measure": "m", "layer": 1, "alike": alike, "null_best": null} for null in (0.4, 0.7, None, np.nan)
    ]
    row = {"measure": "m", "layer": 1, "run": "a", "reference": "true map", "value": 0.3}
    result = Result(kind="similarity", values={"n": 9}, tables={"references": [row], "pairs": pairs})
    text = " ".join(words(references_figure(result)).split())
    assert said in text
    assert ("shuffled cities: .40" in text) == (alike == 0)


def test_settings_of_matplotlib_change_no_figure(tmp_path: Path) -> None:
    own = {
        "text.usetex": True,
        "savefig.bbox": "tight",
        "savefig.dpi": 30,
        "lines.linewidth": 9,
        "font.size": 3,
    }
    plain = draw(synthetic.ALL["cka"](), tmp_path, "plain")[0].read_bytes()
    with matplotlib.rc_context(own):
        assert draw(synthetic.ALL["cka"](), tmp_path, "own")[0].read_bytes() == plain


@pytest.mark.parametrize("name", synthetic.ALL)
def test_png_carries_its_source(name: str, tmp_path: Path) -> None:
    result = synthetic.ALL[name]()
    before = dict(matplotlib.rcParams)
    paths = draw(result, tmp_path, name)
    assert dict(matplotlib.rcParams) == before
    assert [path.name for path in paths] == [file for _, file in figure_names(result, name)] != []
    for path in paths:
        with Image.open(path) as image:
            assert image.info["Source"] == result.sha256
            assert image.size[0] == 1200
            assert len(np.unique(np.asarray(image.convert("L")))) > 20  # something is drawn


CAPTIONS = (
    (map_figure, synthetic.probe, ("n = 256 held-out cities", "16 new cities", "Controls")),
    (pca_figure, synthetic.probe, ("n = 272 cities", "16 new", "component 1 (41%)")),
    (probe_layers_figure, synthetic.probe, ("n = 256", "205 fitted", "shuffled places", "untrained model")),
    (cka_figure, synthetic.cka, ("n = 256 cities", "shuffled cities: mean .00, largest .02", ".61")),
    (patch_figure, synthetic.patch, ("n = 180 pairs", "self-patch", "unrelated city", "swapped last")),
    (eval_figure, synthetic.evaluation, ("n = 1000", "99.8%", "constant answer", "quick, new cities")),
    (learning_figure, synthetic.train, ("450,000 rows", "64 validation questions", "constant answer")),
)


@pytest.mark.parametrize(("function", "make", "expected"), CAPTIONS)
def test_captions_say_n_unit_and_control(
    function: Callable[[Result], Figure], make: Callable[[], Result], expected: tuple[str, ...]
) -> None:
    text = " ".join(words(function(make())).split())
    for phrase in expected:
        assert phrase in text


def test_map_shows_held_out_and_new_cities_where_they_were_decoded() -> None:
    result = synthetic.probe(n=60, n_new=5)
    is_test = np.arange(65) % 2 == 0
    result = replace(result, arrays={**result.arrays, "is_test": is_test})
    below = map_figure(result).axes[1]
    points = [shape for shape in below.collections if isinstance(shape, PathCollection)]
    drawn = np.concatenate([np.asarray(shape.get_offsets()) for shape in points])
    shown = is_test | result.arrays["is_new"]
    expected = result.arrays["decoded"][shown]
    assert sorted(map(tuple, drawn.round(6))) == sorted(map(tuple, expected.round(6)))
    arrows = [shape for shape in below.collections if isinstance(shape, Quiver)]
    starts = np.concatenate([shape.get_offsets() for shape in arrows])
    assert sorted(map(tuple, starts)) == sorted(map(tuple, result.arrays["true"][shown]))


def test_map_counts_cities_outside_the_frame() -> None:
    result = synthetic.probe(n=60, n_new=0)
    decoded = result.arrays["true"].astype(float)
    assert "outside the frame" not in words(
        map_figure(replace(result, arrays={**result.arrays, "decoded": decoded}))
    )
    decoded = decoded.copy()
    decoded[:3] = 1e5
    text = words(map_figure(replace(result, arrays={**result.arrays, "decoded": decoded})))
    assert "3 decoded cities" in " ".join(text.split())


def test_regions_and_tasks_can_be_told_apart_in_colour_and_in_grey() -> None:
    assert {*load_world().region.tolist(), NEW} <= set(REGION_LOOKS)
    assert len({look.colour for look in REGION_LOOKS.values()}) == len(REGION_LOOKS) - 1
    looks = {task_look(task) for task in PAPER_TASKS}
    assert len({look.marker for look in looks}) == len({look.colour for look in looks}) == len(PAPER_TASKS)
    assert task_look("no task") not in looks
    other = region_looks(["north", "Japan", "south"])
    assert list(other) == ["Japan", "north", "south"]
    assert other["north"] != other["south"]


def test_the_table_of_pairs_calls_the_last_norm_final_and_no_block_it_lacks() -> None:
    cells = [
        {"run_a": "quick", "task_a": "angle", "layer_a": -1, "run_b": "quick", "task_b": "angle"}
        | {"layer_b": layer, "cka": 0.1 * layer}
        for layer in range(5)
    ]
    result = synthetic.cka(runs=("quick",), n_layers=4)
    pairs = all_shows()["cka"].tables[0].of(replace(result, tables={"cells": cells}))
    named = {row[side].split()[-1] for row in pairs for side in "ab"}
    assert named == {"embed", "L0", "L1", "L2", "L3", "final"}


def test_new_cities_stand_in_the_order_of_the_table_above_them() -> None:
    known = {"site": "last_digit", "layer": 1, "r2": 0.9}
    layers = [known | {"task": task} for task in ("distance", "angle", "compass")]
    new = [row | {"error_mean": 1.0} for row in (*layers[::-1], layers[0] | {"layer": 2})]
    result = replace(synthetic.probe(), tables={"layers": layers, "new": new})
    best, held_out = (table.of(result) for table in all_shows()["probe"].tables)
    assert [row["task"] for row in held_out] == [row["task"] for row in best]
    assert [row["task"] for row in held_out] == ["distance", "angle", "compass"]
    assert {row["layer"] for row in held_out} == {1}


def test_cka_numbers_stand_in_their_cells_and_vanish_when_there_are_too_many() -> None:
    small = cka_figure(synthetic.cka(runs=("a",), n_layers=2)).axes[0]
    matrix = synthetic.cka(runs=("a",), n_layers=2).arrays["matrix"]
    assert len(small.texts) == matrix.size
    for text in small.texts:
        column, line = map(int, text.get_position())
        assert float(text.get_text()) == pytest.approx(matrix[line, column], abs=0.006)
    assert [label.get_text() for label in small.get_yticklabels()] == [
        "a, embed",
        "a, L0",
        "a, L1",
        "a, final",
    ]
    assert len(cka_figure(synthetic.cka(n_layers=8)).axes[0].texts) == 0


def test_undefined_values_are_marked_and_not_drawn() -> None:
    result = synthetic.cka(runs=("a",), n_layers=1)
    matrix = result.arrays["matrix"].copy()
    matrix[0, 1] = matrix[1, 0] = np.nan
    texts = cka_figure(replace(result, arrays={**result.arrays, "matrix": matrix})).axes[0].texts
    assert sum(text.get_text() == "·" for text in texts) == 2


def test_patch_panels_put_effects_at_their_layer_and_span() -> None:
    result = synthetic.patch()
    figure = patch_figure(result)
    spans = result.arrays["spans"].tolist()
    panel = figure.axes[0]
    for text in panel.texts:
        column, line = map(int, text.get_position())
        (cell,) = [
            row
            for row in result.tables["cells"]
            if (row["direction"], row["component"], row["layer"]) == ("denoise", "resid_post", line)
            and row["span"] == spans[column]
        ]
        assert float(text.get_text()) == pytest.approx(cell["recovered"], abs=0.006)
        assert (text.get_fontweight() == "bold") == (cell["p_adj"] < 0.05)


def test_patch_separates_subspaces_and_heads() -> None:
    result = synthetic.patch()
    rows = [row | {"subspace": "manifold", "head": 1} for row in result.tables["cells"]]
    table = [row | {"subspace": None} for row in result.tables["cells"]] + rows
    text = words(patch_figure(replace(result, tables={"cells": table})))
    assert "resid_post within manifold" in text
    assert "L3 head 1" in text


def test_huge_errors_do_not_flatten_the_others() -> None:
    result = synthetic.evaluation()
    rows = [dict(row) for row in result.tables["tasks"]]
    rows[0]["value_mean"] = 1e9
    panel = eval_figure(replace(result, tables={"tasks": rows})).axes[0]
    assert panel.get_xlim()[1] < 4 * rows[0]["baseline"]
    assert "1.0e+09" in [text.get_text() for text in panel.texts]


def test_one_task_and_no_new_cities_are_enough() -> None:
    eval_figure(synthetic.evaluation(runs=("quick-angle",)))
    learning_figure(synthetic.train(tasks=("angle",)))
    map_figure(synthetic.probe(n=30, n_new=0))
    pca_figure(synthetic.probe(n=30, n_new=0))


def test_a_result_that_lacks_something_is_named(tmp_path: Path) -> None:
    result = synthetic.cka()
    arrays = {name: array for name, array in result.arrays.items() if name != "layers"}
    with pytest.raises(CorruptArtifact, match=r"cka result 'x' lacks 'layers'.*cwr-mech cka"):
        draw(replace(result, arrays=arrays), tmp_path, "x")
    assert list(tmp_path.iterdir()) == []


LAYERS = (
    (-1, "hook_embed", "embed"), (0, "blocks.0.hook_resid_post", "L0"), (3, None, "L3"),
    (4, "unembed.hook_in", "final"),
)  # fmt: skip


@pytest.mark.parametrize(("layer", "hook", "name"), LAYERS)
def test_layer_names(layer: int, hook: str | None, name: str) -> None:
    assert layer_name(layer, hook) == name
