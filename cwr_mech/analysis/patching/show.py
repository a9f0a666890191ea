"""What a report says about patching: the sweep, decoded answers, known steps, estimates, parts of states."""

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.figure import Figure

from cwr_mech.analysis.patching import sentences
from cwr_mech.analysis.patching.figures import (
    PART_COLUMNS,
    digits_figure,
    parts_figure,
    sites_figure,
    subspaces_figure,
    tasks_figure,
)
from cwr_mech.analysis.patching.grid import grid_explorer, patch_figure
from cwr_mech.analysis.patching.summary import CITY, GROUPED, where_read
from cwr_mech.analysis.patching.swaps import answers_figure, paths_figure, steps_figure, swap_map_figure
from cwr_mech.render.lines import layer_ticks, line
from cwr_mech.render.markdown import paragraphs, table_of
from cwr_mech.render.numbers import number
from cwr_mech.render.shown import Show, Table, by_kind, plot
from cwr_mech.render.style import caption, new_figure
from cwr_mech.results import Result, Row, groups, where

MOST_CELLS = 12
HEARD = 0.2
"""Layers are shown at which a subspace moves at least this share of the answers."""
LINES = {
    "whole": None, "inside": "manifold", "pca": "pca", "matched": "covariance-matched", "random": "random",
    "outside": "not-manifold",
}  # fmt: skip
"""Column of `parts` -> the subspace it is about."""


def sites(result: Result) -> str:
    """Where each task reads its cities, then the IIA of every layer and token position."""
    rows = result.tables["sites"]
    positions = {row["position"]: row["position"].replace("_", " ") for row in rows}
    lines = [
        {"task": task, "city": slot + 1, "layer": layer} | {row["position"]: row["iia"] for row in mine}
        for (task, slot, layer), mine in groups(rows, "task", "slot", "layer").items()
    ]
    reading = [row | {"city": row["slot"] + 1} for row in result.tables["reading"]]
    columns = "task city layer position n iia interval slope weak"
    return paragraphs(
        "The site at which a task reads a city is the last layer and token position whose whole state, "
        "replaced by that of a question with another city, still moves the answers as much as any does. "
        "IIA (interchange intervention accuracy) is the share of answers that become the model's own "
        "answer to the other question; slope: change of the answer over change of the truth.",
        table_of(reading, columns, n="pairs", interval="95 % over pairs"),
        "IIA at every site; a site below one half is causally weak:",
        table_of(lines, f"task city layer {' '.join(positions)}", **positions),
    )


def patching(result: Result) -> str:
    """The strongest places, then each further part of the study that the result holds."""
    over = "models" if "n_models" in result.values else "cities"
    units = {"n": "models" if over == "models" else "pairs", "interval": f"95 % over {over}"}

    def part(
        name: str, opening: str, columns: str, keep: Callable[[Row], bool] = lambda row: True, **unnamed: str
    ) -> str:
        rows = [row for row in result.tables.get(name, []) if keep(row)]
        rows = [row | {key: row[key] or told for key, told in unnamed.items()} for row in rows]
        return paragraphs(opening, table_of(rows, columns, **units)) if rows else ""

    subspaces = result.tables.get("subspaces", [])
    heard = {row["layer"] for row in subspaces if (row["iia"] or 0.0) >= HEARD}
    unheard = (
        "Replacing only a part of the first city's state is not shown: at no layer does the whole state move "
        f"{HEARD:.0%} of the answers."
    )
    learned = next((row["layer"] for row in result.tables.get("das", [])), None)
    return paragraphs(
        _strongest(result, units),
        part(
            "interchange",
            "Answers decoded after the whole residual stream was replaced:",
            "layer span n iia interval truth unchanged neither error_to_source slope",
            lambda row: row["direction"] == "noise" and row["span"] in (*CITY, "equals"),
        ),
        part(
            "steps",
            "Sources moved by known steps on the map; slope of the answer's change against the true change:",
            "layer span n iia truth slope interval",
            lambda row: row["step"] is None,
            span="asked outright",
        ),
        part(
            "subspaces",
            "The same with only a part of the first city's state replaced, where the model reads it:",
            "layer subspace rank draws variance iia interval slope truth unchanged",
            lambda row: row["layer"] in heard,
            subspace="whole state",
        ),
        unheard if subspaces and not heard else "",
        part("das", f"A subspace learned for layer {learned}, and its controls:", "subspace rank n accuracy"),
        part(
            "attribution",
            "Gradient estimates against exact patching of the same cells:",
            "direction estimate rank_correlation missed false_alarms",
        ),
    )


def part_lines(result: Result) -> list[Row]:
    """One line a model, task, group and origin of the states, at the layer after which the city is read."""
    shown = []
    for rows in groups(result.tables["pooled"], *GROUPED).values():
        layer, at = where_read(rows)
        line = rows[0] | {"layer": layer, "cities": PART_COLUMNS[rows[0]["group"], rows[0]["direction"]]}
        for key, name in LINES.items():
            mine = at.get(name, {})
            line |= {key: mine.get("iia")} | {f"{key}_{end}": mine.get(end) for end in ("lo", "hi")}
        shown.append(line)
    return shown


def parts(result: Result) -> str:
    """The lines of `part_lines`, and the questions behind them."""
    shares = " ".join(f"{key}~" for key in LINES)
    return paragraphs(
        "IIA: share of decoded answers that become the source's (95 % over models, over cities where there "
        "is one model), at the last layer where the whole state carries as much as at any:",
        table_of(part_lines(result), f"training_tasks models task cities states_from layer {shares}"),
        sentences.weak_lines(part_lines(result)).strip(),
        "Question pairs: candidates, exclusions, and pairs kept:",
        table_of(result.tables["asked"], ASKED, group="cities"),
    )


ASKED = "run task group reading pairs tried left_out"
TASKS = "task n_kept city_held_until answer_from head head_recovered iia_at_equals"


def _strongest(result: Result, units: Mapping[str, str]) -> str:
    """The strongest places in both directions, with interval and null, and who was left out."""
    cells = _by_strength(result)
    text = f"{number(result.values['n_kept'])} of {number(result.values['n_pairs'])} pairs kept"
    reasons = [row for row in result.tables.get("attrition", []) if row["n"] and row["reason"] != "kept"]
    if reasons:
        text += " (left out: " + ", ".join(f"{row['reason']} {row['n']}" for row in reasons) + ")"
    columns = "direction component layer head span n recovered interval null p_adj"
    return paragraphs(
        f"{text}. The {min(MOST_CELLS, len(cells))} largest of {len(cells)} shares recovered, by "
        f"{result.params['metric']}:",
        table_of(cells[:MOST_CELLS], columns, **units, null="unrelated city, same place"),
    )


def _by_strength(result: Result) -> list[Row]:
    """Cells by the share of the leading metric that they recover, the largest first."""
    rows = where(result.tables["cells"], metric=result.params["metric"])
    given = [row for row in rows if row["recovered"] is not None]
    return sorted(given, key=lambda row: -abs(row["recovered"]))


def _read_subspaces(result: Result) -> list[Row]:
    """Subspaces at the layer after which the city is read."""
    rows = result.tables.get("subspaces")
    at = where_read(rows)[1] if rows else {}
    return [row | {"subspace": name or "whole state"} for name, row in at.items()]


LOOKS = {"span": ("#1f4e9e", "s", 8), "last_token": ("#e69f00", "o", 4), "text_end": ("#0b6e4f", "^", 5)}
"""Colour, marker and its size of each token position; the span's is open, since a name may be one token."""


def _largest(result: Result) -> list[Row]:
    """The cells that recover most, beyond the unrelated entity."""
    rows = result.tables["cells"]
    return sorted(rows, key=lambda row: row["null"] - row["recovered"])[:MOST_CELLS]


def texts(result: Result) -> str:
    """The cells that recover most as a table."""
    heads = {"interval": "95 % over pairs", "null": "third entity", "position": "token position"}
    heads |= {"flipped": "most probable token becomes the source's", "recovered": "recovered"}
    columns = "component layer position metric recovered interval null flipped"
    return paragraphs(*result.notes, table_of(_largest(result), columns, **heads))


@plot("Effect of swapping an entity")
def texts_figure(result: Result) -> Figure:
    """Recovered by layer, a panel a component, a line a token position; the third entity dashed.

    Reads table `cells`, metric kl.
    """
    rows = where(result.tables["cells"], metric="kl")
    components = groups(rows, "component")
    drawn = new_figure(3.2)
    axes = drawn.subplots(1, len(components), sharey=True, squeeze=False)[0]
    for ax, (component, of_component) in zip(axes, components.items(), strict=True):
        for position, (colour, marker, size) in LOOKS.items():
            mine = where(of_component, position=position)
            style: dict[str, Any] = {"marker": marker, "markersize": size}
            style["fillstyle"] = "none" if size > 6 else "full"
            line(ax, mine, "layer", "recovered", bars={"lw": 0.8}, color=colour, label=position, **style)
            line(ax, mine, "layer", "null", color=colour, ls="--", lw=0.8)
        for level in (0.0, 1.0):
            ax.axhline(level, color="#cccccc", lw=0.6, zorder=0)
        ax.set_title(component)
        ax.set_xlabel("layer")
        layers = sorted({row["layer"] for row in rows})
        layer_ticks(ax, layers[:: -(-len(layers) // 8)])
    axes[0].set_ylabel("recovered")
    handles, labels = axes[0].get_legend_handles_labels()
    drawn.legend(handles, [label.replace("_", " ") for label in labels], loc="outside right center")
    return caption(
        drawn,
        f"{result.params['runs'][0]}, prompt {result.params['task']}. n = {result.values['n']} pairs of "
        "entities with equally many tokens; bars: 95 % over pairs. 0: the next token as before, 1: as after "
        "the other entity. Dashed: the state of a third entity.",
    )


FOLLOWED = "subspace layer rank draws variance n iia lo hi slope truth unchanged"
SHOWS = by_kind(
    Show("sites", "Where a city is read",
        "Interchange interventions on the whole residual stream, layer by layer and token by token.",
        sites, (sites_figure,),
        (Table("where a city is read", "task slot layer position n iia lo hi slope weak", "reading"),),
        finding=sentences.read_at),
    Show("patch", "Where a city is carried to the answer",
        "Activation patching: one city is exchanged, one component and token position at a time.",
        patching,
        (patch_figure, answers_figure, steps_figure, swap_map_figure, subspaces_figure, digits_figure,
         paths_figure),
        (
            Table("largest shares of the score recovered",
                "direction component layer head span n effect recovered lo hi null p_adj",
                lambda result: _by_strength(result)[:MOST_CELLS]),
            Table("parts of the city's state", FOLLOWED, _read_subspaces),
        ), grid_explorer, sentences.strongest),
    Show("patch_texts", "Where an entity is carried to the next token",
        "One entity of a text is exchanged for another with equally many tokens, one component, layer and "
        "token position at a time.",
        texts, (texts_figure,),
        (Table("cells that recover most",
             "component layer position metric n recovered lo hi null flipped null_flipped",
             _largest),), finding=sentences.followed),
    Show("patch_tasks", "Patching, tasks beside each other",
        "Up to which layer the city can be exchanged where it is named, and from which layer '=' holds what "
        "the answer needs.",
        figures=(tasks_figure,), tables=(Table("tasks compared", TASKS, "tasks"),),
        finding=sentences.compared),
    Show("patch_parts", "Which part of a city's state do answers read?",
        "Interchange of the first city's state inside the manifold only, or outside of it only. New cities "
        "are those that a model met in fine-tuning.",
        parts, (parts_figure,), (Table("questions asked", ASKED, "asked"),),
        finding=lambda result: sentences.read_parts(part_lines(result))),
)  # fmt: skip
