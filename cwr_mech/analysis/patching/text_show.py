"""How swapped entities are shown."""

from typing import Any

from matplotlib.figure import Figure

from cwr_mech.render.lines import layer_ticks, line
from cwr_mech.render.markdown import paragraphs, table_of
from cwr_mech.render.shown import plot
from cwr_mech.render.style import caption, new_figure
from cwr_mech.results import Result, Row, groups, where

MOST_ROWS = 12
LOOKS = {"span": ("#1f4e9e", "s", 8), "last_token": ("#e69f00", "o", 4), "text_end": ("#0b6e4f", "^", 5)}
"""Colour, marker and its size of each token position; the span's is open, since a name may be one token."""


def largest(result: Result) -> list[Row]:
    """The cells that recover most, beyond the unrelated entity."""
    rows = result.tables["cells"]
    return sorted(rows, key=lambda row: row["null"] - row["recovered"])[:MOST_ROWS]


def text(result: Result) -> str:
    """The cells that recover most as a table."""
    heads = {"interval": "95 % over pairs", "null": "third entity", "position": "token position"}
    heads |= {"flipped": "most probable token becomes the source's", "recovered": "recovered"}
    columns = "component layer position metric recovered interval null flipped"
    return paragraphs(*result.notes, table_of(largest(result), columns, **heads))


@plot("Effect of swapping an entity")
def figure(result: Result) -> Figure:
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
