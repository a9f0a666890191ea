"""What results of patching found, in a sentence each: the summary of a report."""

from cwr_mech.analysis.best import HALF
from cwr_mech.render.markdown import ends
from cwr_mech.render.numbers import layer_name, number
from cwr_mech.results import Result, Row, where

WORDS = {"swapped_reading": "where the city is read", "equals": "'='"}
"""Spans whose names are no words."""


def strongest(result: Result) -> str:
    """The cell that restores most beyond an unrelated city, by the leading metric."""
    metric = result.params["metric"]
    cells = [row for row in where(result.tables["cells"], metric=metric) if row["recovered"] is not None]
    cells = where(cells, direction="denoise") or cells
    if not cells:
        return f"No cell could be scored by {_words(metric)}."
    best = max(cells, key=lambda row: row["recovered"] - (row.get("null") or 0.0))
    of = f"{best['n']} models" if "n_models" in result.values else f"{best['n']} pairs"
    place = "" if best["layer"] is None else f" at {layer_name(best['layer'])}"
    head = "" if best["head"] is None else f", head {best['head']}"
    return (
        f"In {result.params['task']} the other city's {best['component']}{place}{head}, "
        f"{_words(best['span'])}, restores {number(best['recovered'])} of the {_words(metric)} "
        f"(95 % {ends(best)}, n = {of}); an unrelated city's there {number(best.get('null'))}."
    )


def compared(result: Result) -> str:
    """Until which layer a city is held where it is named, and from which '=' has what the answer needs."""
    told = [
        f"{row['task']}: exchangeable where it is named {_layers('up to', row['city_held_until'])}, at '=' "
        + _layers("from", row["answer_from"], " on")
        for row in result.tables["tasks"]
    ]
    return "; ".join(told) + "."


def read_parts(rows: list[Row]) -> str:
    """What moves answers, for the first kind of models and task: lines of the section's table."""
    first = rows[0]
    more = weak_lines(rows) + (f" {len(rows) - 1} more lines in the table." if len(rows) > 1 else "")
    return (
        f"Models {first['training_tasks']}, {first['task']}, {first['cities']}: {number(first['whole'])} of "
        f"answers follow the whole state, {number(first['inside'])} ({ends(first, 'inside')}) its part "
        f"inside the manifold's directions, {number(first['outside'])} ({ends(first, 'outside')}) its part "
        f"outside.{more}"
    )


def weak_lines(rows: list[Row]) -> str:
    """How many of the lines stand at a site that answers do not read; "" for none."""
    weak = [row for row in rows if row["whole"] is not None and row["whole"] < HALF]
    told = f" Causally weak, so no evidence about what answers read: {len(weak)} of {len(rows)} lines, where "
    return f"{told}fewer than half of the answers follow the whole state." if weak else ""


def read_at(result: Result) -> str:
    """The layer and token position at which each task reads its first city."""
    told = [
        f"in {row['task']} at {layer_name(row['layer'])}, {_words(row['position'])} "
        f"(IIA {number(row['iia'])}{', causally weak' * row['weak']})"
        for row in where(result.tables["reading"], slot=0)
    ]
    return f"A city is read, {'; '.join(told)}."


def followed(result: Result) -> str:
    """The cell of a text that recovers most beyond a third entity's state."""
    cells = [row for row in where(result.tables["cells"], metric="kl") if row["position"] != "text_end"]
    best = max(cells, key=lambda row: (row["recovered"] - row["null"], row["layer"]))
    return (
        f"The other entity's {best['component']} at {layer_name(best['layer'])}, {_words(best['position'])}, "
        f"carries {number(best['recovered'])} of the change of the next token (95 % {ends(best)}, n = "
        f"{best['n']} pairs); a third entity's {number(best['null'])}."
    )


def _words(name: str) -> str:
    return WORDS.get(name) or name.replace("_", " ").replace("+", " with ")


def _layers(before: str, layer: int | None, after: str = "") -> str:
    return "at no layer" if layer is None else f"{before} {layer_name(layer)}{after}"
