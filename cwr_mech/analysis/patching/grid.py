"""The grid of a patching sweep to explore: layers by tokens of a question, a control beside every effect."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from cwr_mech.analysis.patching.cells import span_positions
from cwr_mech.analysis.patching.forward import Tree
from cwr_mech.render.numbers import layer_name, number
from cwr_mech.render.shown import Explorer
from cwr_mech.results import Result, Row
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
    cells += [
        row | {"source": SOURCES.get(str(row["source"]), str(row["source"]))}
        for row in result.tables.get("controls", [])
    ]
    if not cells:
        return None
    spans = [str(span) for span in result.arrays["spans"]]
    axis, question = _tokens(str(result.params["task"]), spans)
    controls = {
        "Component": list(dict.fromkeys(_component(row) for row in cells)),
        "Direction": list(dict.fromkeys(str(row["direction"]) for row in cells)),
        "Score": list(dict.fromkeys(str(row["metric"]).replace("_", " ") for row in cells)),
        "Patched in": list(dict.fromkeys(str(row["source"]) for row in cells)),
    }
    keyed: dict[tuple[str, ...], list[Row]] = {}
    for row in cells:
        key = _component(row), str(row["direction"]), str(row["metric"]).replace("_", " "), str(row["source"])
        keyed.setdefault(key, []).append(row)
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


def _tokens(task: str, spans: Sequence[str]) -> tuple[list[str], str]:
    """What stands along the axis, tokens above the name of their span, and the question they are from."""
    if task not in TASKS:
        return [span.replace("_", " ") for span in spans], f"one of {task}"
    about = get_task(task)
    text = about.prompt(np.array([EXAMPLE[: about.n_min]]), ID_DIGITS)[0]
    tokens = [Tokenizer().decode([token]) for token in Tokenizer().encode_prompt(text)]
    tree = Tree(len(tokens), (about.max_answer_tokens,))
    places = span_positions(task, about.n_min, 0, ID_DIGITS, tree)
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
    names = [layer_name(layer) + ("" if head < 0 else f" head {head}") for layer, head in places]
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
    where = layer_name(row["layer"]) + ("" if row["head"] is None else f" head {row['head']}")
    parts = [f"<b>{where}, {row['span'].replace('_', ' ')}</b>", f"recovered {number(row['recovered'])}"]
    if row.get("lo") is not None:
        parts.append(f"95 % from {number(row['lo'])} to {number(row['hi'])}")
    if row.get("null") is not None:
        parts.append(f"unrelated city {number(row['null'])}")
    if row.get("p_adj") is not None:
        parts.append(f"p {number(row['p_adj'])}, corrected")
    return "<br>".join([*parts, f"n = {row['n']}"])
