"""What a report says about patching: the sweep, decoded answers, estimates, subspaces."""

from cwr_mech import report_sections
from cwr_mech.figures_style import layer_name
from cwr_mech.report_text import interval, markdown_table
from cwr_mech.results import Result

ANSWERS = {
    "place": "layer",
    "span": "span",
    "n": "pairs",
    "follow": "follow the donor",
    "interval": "95 % over cities",
    "stay": "stay",
    "neither": "neither",
    "error_to_donor": "error to the donor's truth",
    "slope": "slope",
}
ESTIMATES = {
    "direction": "direction",
    "estimate": "attribution",
    "rank_correlation": "rank correlation with exact",
    "missed": "missed",
    "false_alarms": "false alarms",
}
SUBSPACES = {
    "place": "layer",
    "subspace": "replaced",
    "rank": "dimensions",
    "variance": "share of variance",
    "follow": "follow the donor",
    "interval": "95 % over cities",
    "stay": "stay",
}
LEARNED = {
    "subspace": "subspace",
    "rank": "dimensions",
    "n": "held-out pairs",
    "accuracy": "first token right",
}
TASKS = {
    "task": "task",
    "n_kept": "pairs",
    "city_held_until": "city held until layer",
    "answer_from": "answer at '=' from layer",
    "head": "strongest head at '='",
    "head_recovered": "its share",
    "follow_at_equals": "answers that follow at '='",
}


def patching(result: Result) -> str:
    """The strongest places, then each further part of the study that the result holds."""
    parts = [report_sections.patching(result)]
    if rows := result.tables.get("interchange"):
        shown = [
            row | {"place": layer_name(row["layer"]), "interval": interval(row)}
            for row in rows
            if row["direction"] == "noise" and row["span"] in ("swapped_last", "equals")
        ]
        columns = {key: head for key, head in ANSWERS.items() if any(row[key] is not None for row in shown)}
        parts += [
            "Answers decoded after the whole residual stream was replaced:",
            markdown_table(shown, columns),
        ]
    if rows := result.tables.get("subspaces"):
        parts.append("The same with only a part of the first city's state replaced, at its last digit:")
        heard = {row["layer"] for row in rows if (row["follow"] or 0.0) >= 0.2}
        shown = [
            row
            | {"place": layer_name(row["layer"]), "interval": interval(row)}
            | {"subspace": row["subspace"] or "whole state"}
            for row in rows
            if row["layer"] in heard
        ]
        parts.append(markdown_table(shown, SUBSPACES))
    if rows := result.tables.get("das"):
        parts += [
            f"A subspace learned for layer {rows[0]['layer']}, and its controls:",
            markdown_table(rows, LEARNED),
        ]
    if rows := result.tables.get("attribution"):
        parts += [
            "Gradient estimates against exact patching of the same cells:",
            markdown_table(rows, ESTIMATES),
        ]
    return "\n\n".join(parts)


def tasks(result: Result) -> str:
    """One row a task."""
    return markdown_table(result.tables["tasks"], TASKS)
