"""What a report says about patching: the sweep, decoded answers, known steps, estimates, parts of states."""

from cwr_mech.analysis.patching import text_study
from cwr_mech.analysis.patching.figures import PART_COLUMNS as PART_CITIES
from cwr_mech.analysis.patching.figures import (
    digits_figure,
    parts_figure,
    sites_figure,
    subspaces_figure,
    tasks_figure,
)
from cwr_mech.analysis.patching.grid import grid_explorer
from cwr_mech.analysis.patching.summary import best_layer, grouped
from cwr_mech.analysis.patching.swaps import answers_figure, paths_figure, steps_figure, swap_map_figure
from cwr_mech.render.grids import patch_figure
from cwr_mech.render.markdown import interval, markdown_table
from cwr_mech.render.numbers import layer_name, number
from cwr_mech.render.shown import Plot, Section, Show, Table
from cwr_mech.results import Result, Row

MOST_CELLS = 12
ANSWERS = {
    "place": "layer",
    "span": "span",
    "n": "pairs",
    "iia": "IIA",
    "interval": "95 % over cities",
    "truth": "right for the source",
    "unchanged": "unchanged",
    "neither": "neither",
    "error_to_source": "error to the source's truth",
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
    "draws": "draws",
    "variance": "share of variance",
    "iia": "IIA",
    "interval": "95 % over cities",
    "slope": "slope",
    "truth": "right for the source",
    "unchanged": "unchanged",
}
PARTS = {
    "training_tasks": "models",
    "models": "how many",
    "task": "asked",
    "asked": "cities",
    "states_from": "sources",
    "place": "layer",
    "whole": "whole state",
    "inside": "manifold",
    "pca": "PCA of its rank",
    "matched": "covariance-matched",
    "random": "random",
    "outside": "its complement",
}
PART_COLUMNS = {
    "whole": None,
    "inside": "manifold",
    "pca": "pca",
    "matched": "covariance-matched",
    "random": "random",
    "outside": "not-manifold",
}
ASKED = {
    "run": "model",
    "task": "task",
    "group": "cities",
    "pairs": "pairs",
    "tried": "tried",
    "left_out": "left out",
}
STEPS = {
    "place": "layer",
    "span": "span",
    "n": "swaps",
    "iia": "IIA",
    "truth": "right for the source",
    "slope": "slope",
    "interval": "95 % over cities",
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
    "iia_at_equals": "IIA at '='",
}


READING = {
    "task": "task",
    "city": "city of the question",
    "where": "read at layer",
    "at": "token position",
    "n": "pairs",
    "iia": "IIA",
    "interval": "95 % over pairs",
    "slope": "slope",
    "weak": "causally weak",
}


def sites(result: Result) -> str:
    """Where each task reads its cities, then the IIA of every layer and token position."""
    shown = [
        row
        | {
            "city": row["slot"] + 1,
            "where": layer_name(row["layer"]),
            "at": row["position"].replace("_", " "),
        }
        | {"interval": f"{number(row['lo'])} to {number(row['hi'])}", "weak": "yes" if row["weak"] else "no"}
        for row in result.tables["reading"]
    ]
    rows = result.tables["sites"]
    positions = list(dict.fromkeys(row["position"] for row in rows))
    lines: dict[tuple[str, int, int], Row] = {}
    for row in rows:
        key = row["task"], row["slot"], row["layer"]
        line = {"task": row["task"], "city": row["slot"] + 1, "where": layer_name(row["layer"])}
        lines.setdefault(key, line)[row["position"]] = row["iia"]
    heads = {"task": "task", "city": "city", "where": "layer"}
    heads |= {position: position.replace("_", " ") for position in positions}
    return "\n\n".join(
        [
            "The site at which a task reads a city is the last layer and token position whose whole state, "
            "replaced by that of a question with another city, still moves the answers as much as any does. "
            "IIA (interchange intervention accuracy) is the share of answers that become the model's own "
            "answer to the other question; slope: change of the answer over change of the truth.",
            markdown_table(shown, READING),
            "IIA at every site; a site below one half is causally weak:",
            markdown_table(list(lines.values()), heads),
        ]
    )


def patching(result: Result) -> str:
    """The strongest places, then each further part of the study that the result holds."""
    parts = [_strongest(result)]
    units = {"n": "models", "interval": "95 % over models"} if "n_models" in result.values else {}
    if rows := result.tables.get("interchange"):
        shown = [
            row | {"place": layer_name(row["layer"]), "interval": interval(row)}
            for row in rows
            if row["direction"] == "noise" and row["span"] in ("swapped_last", "equals")
        ]
        known = ANSWERS | units
        columns = {key: head for key, head in known.items() if any(row[key] is not None for row in shown)}
        parts += [
            "Answers decoded after the whole residual stream was replaced:",
            markdown_table(shown, columns),
        ]
    if rows := result.tables.get("steps"):
        shown = [
            row
            | {"place": "-" if row["layer"] is None else layer_name(row["layer"]), "interval": interval(row)}
            | {"span": row["span"] or "asked outright"}
            for row in rows
            if row["step"] is None
        ]
        numbers = any(row["slope"] is not None for row in rows)
        columns = {key: head for key, head in STEPS.items() if numbers or key not in ("slope", "interval")}
        parts += [
            "Sources moved by known steps on the map; slope of the answer's change against the true change:",
            markdown_table(shown, columns),
        ]
    if rows := result.tables.get("subspaces"):
        parts.append("The same with only a part of the first city's state replaced, at its last digit:")
        heard = {row["layer"] for row in rows if (row["iia"] or 0.0) >= 0.2}
        shown = [
            row
            | {"place": layer_name(row["layer"]), "interval": interval(row)}
            | {"subspace": row["subspace"] or "whole state"}
            for row in rows
            if row["layer"] in heard
        ]
        parts.append(markdown_table(shown, SUBSPACES | {k: v for k, v in units.items() if k in SUBSPACES}))
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


def parts(result: Result) -> str:
    """One line a model, task, group of cities and origin of the states, at the layer that carries most."""
    shown = []
    for rows in grouped(result.tables["pooled"]).values():
        layer = best_layer(rows)
        at = {row["subspace"]: row for row in rows if row["layer"] == layer}
        cities = PART_CITIES[rows[0]["group"], rows[0]["direction"]]
        shares = {
            key: f"{number(at[name]['iia'])} ({interval(at[name])})" if name in at else None
            for key, name in PART_COLUMNS.items()
        }
        shown.append(rows[0] | {"place": layer_name(layer), "asked": cities} | shares)
    return "\n\n".join(
        [
            "IIA: share of decoded answers that become the source's (95 % over models, over cities where "
            "there is one model), at the layer where the whole state carries most:",
            markdown_table(shown, PARTS),
            "Who was asked what, and what became of the candidates:",
            markdown_table(result.tables["asked"], ASKED),
        ]
    )


def tasks(result: Result) -> str:
    """One row a task."""
    return markdown_table(result.tables["tasks"], TASKS)


def _strongest(result: Result) -> str:
    """The strongest places in both directions, with interval and null, and who was left out."""
    metric = result.params.get("metric")
    unit = "models" if "n_models" in result.values else "cities"
    cells = [
        row for row in result.tables["cells"] if row["metric"] == metric and row["recovered"] is not None
    ]
    strongest = sorted(cells, key=lambda row: -abs(row["recovered"]))[:12]
    shown = [
        row
        | {"place": layer_name(row["layer"]) + ("" if row["head"] is None else f" head {row['head']}")}
        | {"interval": interval(row)}
        for row in strongest
    ]
    columns = {
        "direction": "direction",
        "component": "component",
        "place": "layer",
        "span": "span",
        "n": "pairs" if unit == "cities" else "models",
        "recovered": "share recovered",
        "interval": f"95 % over {unit}",
        "null": "unrelated city, same place",
        "p_adj": "adjusted p",
    }
    text = f"{number(result.values['n_kept'])} of {number(result.values['n_pairs'])} pairs kept"
    reasons = [row for row in result.tables.get("attrition", []) if row["n"] and row["reason"] != "kept"]
    if reasons:
        text += " (left out: " + ", ".join(f"{row['reason']} {row['n']}" for row in reasons) + ")"
    parts = [f"{text}. The {len(shown)} largest of {len(cells)} shares recovered, by {metric}:"]
    parts.append(
        markdown_table(
            shown,
            {key: head for key, head in columns.items() if any(row.get(key) is not None for row in shown)},
        )
    )
    return "\n\n".join(parts)


def _largest(result: Result) -> list[Row]:
    """The cells that recover most of the leading metric."""
    rows = [row for row in result.tables["cells"] if row["metric"] == result.params["metric"]]
    return sorted(
        (row for row in rows if row["recovered"] is not None), key=lambda row: -abs(row["recovered"])
    )[:MOST_CELLS]


def _read_subspaces(result: Result) -> list[Row]:
    """Subspaces at the layer where the whole state moves most answers."""
    rows = result.tables.get("subspaces", [])
    layer = best_layer(rows) if rows else None
    return [row | {"subspace": row["subspace"] or "whole state"} for row in rows if row["layer"] == layer]


FOLLOWED = ("rank", "draws", "variance", "n", "iia", "lo", "hi", "slope", "truth", "unchanged")
SHOWS = {
    "sites": Show(
        Section(
            "sites",
            "Where a city is read",
            "Interchange interventions on the whole residual stream, layer by layer and token by token.",
            sites,
        ),
        (Plot("", "Where a city is read", sites_figure),),
        (
            Table(
                "where a city is read",
                ("task", "slot", "layer", "position", "n", "iia", "lo", "hi", "slope", "weak"),
                lambda result: result.tables["reading"],
            ),
        ),
    ),
    "patch": Show(
        Section(
            "patch",
            "Where a city is carried to the answer",
            "Activation patching: one city is exchanged, one component and token position at a time.",
            patching,
        ),
        (
            Plot("", "Effect of patching", patch_figure),
            Plot("answers", "Decoded answers after the interchange", answers_figure, "interchange"),
            Plot("steps", "Sources moved by known steps", steps_figure, "steps"),
            Plot("map", "Every city in one city's place", swap_map_figure, "steps"),
            Plot("subspaces", "Interchange of a part of the state", subspaces_figure, "subspaces"),
            Plot("digits", "Effect on each answer token", digits_figure, "digits"),
            Plot("paths", "Path patching: direct effects", paths_figure, "paths"),
        ),
        (
            Table(
                "largest shares of the score recovered",
                (
                    *("direction", "component", "layer", "head", "span", "n", "effect", "recovered"),
                    *("lo", "hi", "null", "p_adj"),
                ),
                _largest,
            ),
            Table("parts of the city's state", ("subspace", "layer", *FOLLOWED), _read_subspaces),
        ),
        grid_explorer,
    ),
    "patch_texts": Show(
        Section(
            "patch_texts",
            "Where an entity is carried to the next token",
            "One entity of a text is exchanged for another with equally many tokens, one component, layer "
            "and token position at a time.",
            text_study.text,
        ),
        (Plot("", "Effect of swapping an entity", text_study.figure),),
        (
            Table(
                "cells that recover most",
                (
                    *("component", "layer", "position", "metric", "n", "recovered", "lo", "hi"),
                    *("null", "flipped", "null_flipped"),
                ),
                text_study.largest,
            ),
        ),
    ),
    "patch_tasks": Show(
        Section(
            "patch_tasks",
            "Patching, tasks beside each other",
            "Up to which layer the city can be exchanged where it is named, and from which layer '=' holds "
            "what the answer needs.",
            tasks,
        ),
        (Plot("", "Tasks beside each other", tasks_figure),),
        (Table("tasks compared", tuple(TASKS), lambda result: result.tables["tasks"]),),
    ),
    "patch_parts": Show(
        Section(
            "patch_parts",
            "Which part of a city's state do answers read?",
            "Interchange of the first city's state inside the manifold only, or outside of it only. New "
            "cities are those that a model met in fine-tuning.",
            parts,
        ),
        (Plot("", "Interchange inside and outside of the manifold", parts_figure),),
        (Table("questions asked", tuple(ASKED), lambda result: result.tables["asked"]),),
    ),
}
