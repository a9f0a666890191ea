"""The grid of a patching sweep, drawn and to explore: layers by tokens of a question, beside controls."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from cwr_mech.render.grids import grid_of, matrix
from cwr_mech.render.numbers import layer_name, number
from cwr_mech.render.shown import Explorer, plot
from cwr_mech.render.style import caption, floats, new_figure
from cwr_mech.results import Result, Row, groups, where
from cwr_mech.tasks.registry import TASKS, get_task
from cwr_mech.tasks.tokenizer import Tokenizer

EXAMPLE = (1234, 5678, 2468, 1357, 9753, 8642)
"""Ids of the question whose tokens stand along the axis; the first city is the one that is swapped."""
ID_DIGITS = 4
EFFECT = "the other question's state"
SOURCES = {
    "unrelated": "control: an unrelated city",
    "self": "control: the question's own state",
    "equal": "control: a city with the same answer",
    "order": "control: the same cities in another order",
}


def grid_explorer(result: Result) -> Explorer | None:
    """Share of the effect recovered by each cell, for a component, direction, score and source chosen.

    Reads tables `cells` and, where there, `controls` {source}; array `spans`; param `task`. None without
    cells.
    """
    cells = [row | {"source": EFFECT} for row in result.tables["cells"]]
    cells += [row | {"source": SOURCES[row["source"]]} for row in result.tables.get("controls", [])]
    if not cells:
        return None
    spans = [str(span) for span in result.arrays["spans"]]
    reading = next(iter(result.params.get("reading", {}).values()), "last_digit")
    axis, question = _tokens(str(result.params["task"]), spans, reading)
    named = [row | {"shown": _component(row), "score": row["metric"].replace("_", " ")} for row in cells]
    keyed = groups(named, "shown", "direction", "score", "source")
    labels = ("Component", "Direction", "Score", "Patched in")
    controls = {name: list(dict.fromkeys(key[k] for key in keyed)) for k, name in enumerate(labels)}
    panels = {}
    for place in product(*(range(len(options)) for options in controls.values())):
        chosen = tuple(options[index] for options, index in zip(controls.values(), place, strict=True))
        if chosen in keyed:
            panels[place] = _panel(keyed[chosen], spans, axis)
    note = (
        f"Columns are tokens of a question such as {question}, whose first city is swapped; 0: the patch "
        "does nothing, 1: it does what replacing the whole question does. Stars: p < 0.05, corrected over "
        "the grid."
    )
    return Explorer("Patching, cell by cell", controls, panels, note)


def _component(row: Row) -> str:
    return f"{row['component']} within {row['subspace']}" if row.get("subspace") else str(row["component"])


def _tokens(task: str, spans: Sequence[str], reading: str) -> tuple[list[str], str]:
    """What stands along the axis, tokens above the name of their span, and the question they are from."""
    if task not in TASKS:
        return [span.replace("_", " ") for span in spans], f"one of {task}"
    about = get_task(task)
    text = about.prompt(np.array([EXAMPLE[: about.n_min]]), ID_DIGITS)[0]
    tokens = [Tokenizer().decode([token]) for token in Tokenizer().encode_prompt(text)]
    # The only use of the sweep's arithmetic, and of torch, when results are shown.
    from cwr_mech.analysis.patching.cells import span_positions
    from cwr_mech.analysis.patching.forward import Tree

    tree = Tree(len(tokens), (about.max_answer_tokens,))
    places = span_positions(task, about.n_min, 0, ID_DIGITS, tree, reading)
    found = []
    for span in spans:
        letters = "".join(tokens[place] for place in places.get(span, ()) if place < len(tokens))
        name = f"token {span[3:]}" if span.startswith("pos") else span.replace("_", " ")
        found.append(f"<b>{letters}</b> {name}" if letters else name)
    return found, text


def _panel(rows: Sequence[Row], spans: Sequence[str], axis: Sequence[str]) -> dict[str, Any]:
    places = sorted({(row["layer"], -1 if row["head"] is None else row["head"]) for row in rows})
    grid: list[list[float | None]] = [[None] * len(spans) for _ in places]
    text = [[""] * len(spans) for _ in places]
    hover = [["not patched"] * len(spans) for _ in places]
    for row in rows:
        line = places.index((row["layer"], -1 if row["head"] is None else row["head"]))
        column = spans.index(row["span"])
        if row["recovered"] is None:
            continue
        sure = row.get("p_adj") is not None and row["p_adj"] < 0.05
        grid[line][column] = round(row["recovered"], 4)
        text[line][column] = f"{row['recovered']:.2f}{'*' if sure else ''}".replace("-0.00", "0.00")
        hover[line][column] = _hover(row)
    names = [_place_name(layer, None if head < 0 else head) for layer, head in places]
    trace = {
        "type": "heatmap", "z": grid, "x": list(range(len(spans))), "y": list(range(len(places))),
        "text": text, "texttemplate": "%{text}", "customdata": hover, "hoverongaps": False,
        "hovertemplate": "%{customdata}<extra></extra>", "zmin": -1, "zmax": 1, "colorscale": SHADES,
        "colorbar": {"thickness": 10, "len": 0.9, "title": {"text": "share<br>recovered"}},
    }  # fmt: skip
    ticks = {"tickmode": "array", "tickvals": list(range(len(spans))), "ticktext": list(axis)}
    lines = {"tickmode": "array", "tickvals": list(range(len(places))), "ticktext": names}
    layout = {"height": 190 + 30 * len(places), "xaxis": ticks, "yaxis": lines}
    return {"data": [trace], "layout": layout}


SHADES = [
    [0.0, "#2166ac"], [0.25, "#92c5de"], [0.5, "#ffffff"], [0.75, "#f4a582"], [1.0, "#b2182b"],
]  # fmt: skip
"""Red for recovered, blue for the opposite, as in the report; the numbers say it in grey."""


def _hover(row: Row) -> str:
    at = _place_name(row["layer"], row["head"])
    parts = [f"<b>{at}, {row['span'].replace('_', ' ')}</b>", f"recovered {number(row['recovered'])}"]
    if row.get("lo") is not None:
        parts.append(f"95 % from {number(row['lo'])} to {number(row['hi'])}")
    if row.get("null") is not None:
        parts.append(f"unrelated city {number(row['null'])}")
    if row.get("p_adj") is not None:
        parts.append(f"p {number(row['p_adj'])}, corrected")
    return "<br>".join([*parts, f"n = {row['n']}"])


DIRECTIONS = {"denoise": "denoise: clean into corrupt", "noise": "noise: corrupt into clean"}


@plot("Effect of patching")
def patch_figure(result: Result) -> Figure:
    """Share of the effect recovered by patching one place: layers (and heads) by spans, a panel a direction.

    Reads table `cells` {direction, component, layer, head, span, metric, n, recovered, p_adj}; array `spans`
    (their order); values `n_kept`, `self_patch_max`, `null_recovered`. One row of panels a component.
    """
    metric = result.params.get("metric") or result.tables["cells"][0]["metric"]
    cells = where(result.tables["cells"], metric=metric)
    components = list(dict.fromkeys(_component(row) for row in cells))
    directions = list(dict.fromkeys(row["direction"] for row in cells))
    spans = [str(span) for span in result.arrays["spans"] if any(row["span"] == span for row in cells)]
    heights = [len(_places(cells, component)) for component in components]
    figure = new_figure(1.3 + sum(0.75 + 0.2 * height for height in heights))
    axes = figure.subplots(
        len(components), len(directions), squeeze=False, height_ratios=[height + 2 for height in heights]
    )
    top = max(1.0, float(np.nanmax(floats([row["recovered"] for row in cells]))))
    image: AxesImage | None = None
    for line, component in enumerate(components):
        for column, direction in enumerate(directions):
            ax = axes[line, column]
            mine = [row for row in cells if (_component(row), row["direction"]) == (component, direction)]
            places = _places(cells, component)
            rows = [row | {"place": (row["layer"], row["head"])} for row in mine]
            grid, p = (grid_of(rows, name, place=places, span=spans) for name in ("recovered", "p_adj"))
            names = [_place_name(*place) for place in places]
            look: dict[str, Any] = {"ends": (-top, top), "cmap": "RdBu_r", "bold": p < 0.05}
            image = matrix(ax, grid, names, spans, upwards=True, **look)
            ax.set_title(f"{component}, {DIRECTIONS.get(direction, direction)}" if line == 0 else component)
            if line < len(components) - 1:
                ax.set_xticklabels([])
            if column:
                ax.set_yticklabels([])
    if image is not None:
        figure.colorbar(image, ax=axes, shrink=0.5, pad=0.01, label="share of the effect recovered")
    return caption(figure, _patch_caption(result, str(metric)))


def _places(cells: list[Row], component: str) -> list[tuple[int, int | None]]:
    found = {(row["layer"], row["head"]) for row in cells if _component(row) == component}
    return sorted(found, key=lambda place: (place[0], -1 if place[1] is None else place[1]))


def _place_name(layer: int, head: int | None) -> str:
    return layer_name(layer) if head is None else f"{layer_name(layer)} head {head}"


def _patch_caption(result: Result, metric: str) -> str:
    most, null = (result.values.get(name) for name in ("self_patch_max", "null_recovered"))
    unrelated = "" if null is None else f", an unrelated city recovers at most {number(float(null))}"
    controls = "" if most is None else f" Controls: a self-patch changes at most {most:.1g}{unrelated}."
    return (
        f"{result.params.get('task', '')}: n = {result.values.get('n_kept')} pairs answered correctly both "
        f"ways; {metric.replace('_', ' ')}. 0: the patch does nothing, 1: it does what replacing the whole "
        f"prompt does. Bold: p < 0.05 after correction over the grid.{controls}"
    )
