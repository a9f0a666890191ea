"""Figures of answers after a swap (against the truth, over known steps, on the map) and of path patching."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, Normalize
from matplotlib.figure import Figure

from cwr_mech.analysis.patching.figures import followed, layers_axis
from cwr_mech.render.lines import line
from cwr_mech.render.shown import plot
from cwr_mech.render.style import BASELINE, caption, new_figure
from cwr_mech.results import Result, Row, groups, where
from cwr_mech.tasks.registry import get_task

READER_COLOURS = {"q": "#0072b2", "k": "#009e73", "v": "#d55e00", "mlp": "#000000", None: "#888888"}
SWAPPED, OUTRIGHT = "#0072b2", "#e69f00"
SMALL, MOST = 0.03, 30
"""Paths below this share are not drawn, and not more than this many."""


@plot("Decoded answers after the interchange", "answers", needs="interchange")
def answers_figure(result: Result) -> Figure:
    """Decoded answers after the swap: against the true ones, and the IIA by layer.

    Reads table `interchange` {direction, layer, span, n, iia, lo, hi}; for one model the arrays
    `swapped_given`, `swapped_source`, `swapped_base` [pair], `swapped_place`.
    """
    figure = new_figure(3.6)
    if "swapped_given" in result.arrays:
        left, right = figure.subplots(1, 2, width_ratios=[1.0, 1.25])
        _given(left, result)
    else:  # several models: their answers are not one cloud of points
        right = figure.subplots()
    rows = where(result.tables["interchange"], direction="noise")
    for number, (span, mine) in enumerate(groups(rows, "span").items()):
        followed(right, mine, span.replace("_", " "), number)
    layers_axis(right, rows, "IIA")
    right.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=3)
    unit = "pairs" if "swapped_given" in result.arrays else "models"
    n = max((row["n"] for row in rows), default=0)
    return caption(
        figure,
        f"{result.params['task']}: {n} {unit}. The residual stream after a layer is replaced by that of a "
        "question about another city, and the answer decoded. On the dashed line the answer is the true one; "
        f"labels are numbered and shaken a little. Bars: 95 % over {unit.replace('pairs', 'cities')}.",
    )


def _given(ax: Axes, result: Result) -> None:
    """Answers given after the swap against the true ones of the question asked and of the source's."""
    given, source, base = (result.arrays[f"swapped_{name}"] for name in ("given", "source", "base"))
    readable = np.isfinite(given)
    few = len(np.unique(source)) < 12  # labels: points would hide each other
    jitter = np.random.default_rng(0).uniform(-0.12, 0.12, (3, len(given))) * few
    looks = (("question asked", base, "x", "#bbbbbb"), ("question of the source", source, "o", "#0072b2"))
    for (name, true, mark, colour), shake in zip(looks, jitter[:2], strict=True):
        x, y = (true + shake)[readable], (given + jitter[2])[readable]
        ax.plot(x, y, mark, color=colour, mfc="none", label=name)
    ends = [min(source.min(), base.min()), max(source.max(), base.max())]
    ax.plot(ends, ends, "--", color=BASELINE, lw=0.8)
    ax.set_xlabel("true answer")
    ax.set_ylabel("answer given after the swap")
    ax.set_title(" ".join(str(part).replace("_", " ") for part in result.arrays["swapped_place"]))
    ax.legend(loc="best")


@plot("Sources moved by known steps", "steps", needs="steps")
def steps_figure(result: Result) -> Figure:
    """Sources at known distances: how often the answer goes with them, and for numbers how far.

    Reads table `steps` {layer, span, step, n, truth, slope, lo, hi}; arrays `steps_{true,given,own}`
    [pair], `swapped_place`.
    """
    rows = result.tables["steps"]
    span = str(result.arrays["swapped_place"][1])
    layer = int(str(result.arrays["swapped_place"][0]).removeprefix("layer "))
    own, best = where(rows, layer=None), where(rows, layer=layer, span=span)
    numbers = any(row["slope"] is not None for row in rows)
    figure = new_figure(3.4)
    panels = figure.subplots(1, 2 if numbers else 1, squeeze=False)[0]
    place = f"layer {layer}, {span.replace('_', ' ')}"
    looks = ((best, place, "o-", SWAPPED), (own, "asked outright", "x--", OUTRIGHT))
    for mine, label, style, colour in looks:
        steps = [row for row in mine if row["step"] is not None]
        line(panels[0], steps, "step", "truth", marker=style[0], ls=style[1:], color=colour, label=label)
    panels[0].set_xlabel("distance of the source, tenths of a degree")
    panels[0].set_ylabel("share of answers right for the source")
    panels[0].set_ylim(-0.03, 1.03)
    if numbers:
        true, given, outright = (result.arrays[f"steps_{name}"] for name in ("true", "given", "own"))
        panels[1].plot(true, given, "o", color=SWAPPED, mfc="none", label=f"{place}, {_slope(best)}")
        panels[1].plot(true, outright, "x", color=OUTRIGHT, label=f"asked outright, {_slope(own)}")
        ends = [float(true.min()), float(true.max())]
        panels[1].plot(ends, ends, "--", color=BASELINE, lw=0.8)
        panels[1].set_xlabel("true change of the answer")
        panels[1].set_ylabel("change of the answer given")
    for ax in panels:  # points fill the panel from corner to corner
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    n = next(row["n"] for row in own if row["step"] is None)
    slopes = " On the dashed line the answer changes as geometry says; slopes with 95 % over cities."
    return caption(
        figure,
        f"{result.params['task']}: {n} swaps; each question's city is replaced inside the model by real "
        f"cities at set distances from it.{slopes if numbers else ''}",
    )


def _slope(rows: list[Row]) -> str:
    whole = next(row for row in rows if row["step"] is None)
    return f"slope {whole['slope']:.2f} [{whole['lo']:.2f}, {whole['hi']:.2f}]"


@plot("Every city in one city's place", "map", needs="steps")
def swap_map_figure(result: Result) -> Figure:
    """One question, every old city in turn in the place of one of its cities: true and given answers.

    Reads arrays `map_xy` [city 2], `map_{true,given,own}` [city], `map_others` [k 2], `map_swapped` [1 2],
    `swapped_place`.
    """
    task, arrays = get_task(result.params["task"]), result.arrays
    xy = arrays["map_xy"]
    layer, span = (str(part).replace("_", " ") for part in result.arrays["swapped_place"])
    figure = new_figure(3.9)
    axes = figure.subplots(2, 2, sharex=True, sharey=True).ravel()
    true = result.arrays["map_true"]
    norm: Normalize = (
        BoundaryNorm(np.arange(len(task.labels) + 1) - 0.5, 256)
        if task.labels
        else Normalize(float(true.min()), float(true.max()))
    )
    panels = {"true": "true answers", "given": f"put in after {layer}, {span}", "own": "asked outright"}
    cmap, image = "twilight" if task.labels else "viridis", None
    axes[3].set_axis_off()
    for ax, (name, title) in zip(axes, panels.items(), strict=False):
        values = arrays[f"map_{name}"]
        told = np.isfinite(values)
        image = ax.scatter(*xy[told].T, c=values[told], s=9, norm=norm, cmap=cmap)
        ax.scatter(*xy[~told].T, marker="x", s=9, color="#bbbbbb")
        ax.scatter(*arrays["map_others"].T, marker="*", s=70, color=BASELINE, edgecolor="white", lw=0.5)
        ax.scatter(*arrays["map_swapped"].T, marker="s", s=36, color="none", edgecolor=BASELINE)
        ax.set_title(title)
        ax.set(aspect="equal", xticks=[], yticks=[])
    if image is not None:
        bar = figure.colorbar(image, cax=axes[3].inset_axes((0.05, 0.5, 0.9, 0.08)), orientation="horizontal")
        if task.labels:
            bar.set_ticks(range(len(task.labels)), labels=list(task.labels))
        else:
            bar.set_label(f"answer, {task.unit}")
    return caption(
        figure,
        f"{task.name}: one question about the cities marked by stars and the squared one; every other city "
        "takes the squared one's place inside the model. A dot is such a city, its colour the answer given; "
        "crosses: no readable answer.",
    )


@plot("Path patching: direct effects", "paths", needs="paths")
def paths_figure(result: Result) -> Figure:
    """Direct effects: the strongest paths from heads to later heads, MLPs and the answer.

    Reads table `paths` {sender, receiver, reader, n, recovered, lo, hi}; heads are named layer.head.
    """
    rows = [row for row in result.tables["paths"] if row["recovered"] is not None]
    sure = [row for row in rows if abs(row["recovered"]) >= SMALL and row["lo"] * row["hi"] > 0]
    drawn = sorted(sure, key=lambda row: -abs(row["recovered"]))[:MOST]
    heads = sorted({tuple(map(int, row["sender"].split("."))) for row in rows})
    n_layers, n_heads = max(head[0] for head in heads) + 1, max(head[1] for head in heads) + 1
    place = {f"{layer}.{head}": (float(layer), float(head)) for layer, head in heads}
    place |= {f"mlp {layer}": (layer + 0.5, (n_heads - 1) / 2) for layer in range(n_layers)}
    place["answer"] = (n_layers + 0.1, (n_heads - 1) / 2)
    figure = new_figure(1.3 + 0.5 * n_heads)
    ax = figure.subplots()
    ax.set_axis_off()
    top = max((abs(row["recovered"]) for row in drawn), default=1.0)
    for row in reversed(drawn):
        _arrow(ax, place[row["sender"]], place[row["receiver"]], row, top)
    busy = {name for row in drawn for name in (row["sender"], row["receiver"])}
    for name, (x, y) in place.items():
        edge = "#000000" if name in busy else "#cccccc"
        box = {"boxstyle": "round" if name[0].isdigit() else "square", "fc": "white", "ec": edge, "lw": 0.8}
        ax.text(x, y, name, ha="center", va="center", fontsize=7.5, color=edge, bbox=box, zorder=3)
    for reader, colour in READER_COLOURS.items():
        label = {"mlp": "into an MLP", None: "to the answer"}.get(reader, f"as {reader}")
        ax.plot([], [], color=colour, label=label)
    ax.legend(loc="upper center", ncols=len(READER_COLOURS))
    ax.set_xlim(-0.4, n_layers + 0.5)
    ax.set_ylim(-0.5, n_heads + 0.2)
    n = rows[0]["n"] if rows else 0
    return caption(
        figure,
        f"{result.params['task']}: {n} pairs. Share of the logit difference restored when a head's clean "
        "output, at all positions, reaches one receiver alone, as its query, key or value, or the answer; "
        f"heads as layer.head. Paths of at least {SMALL} whose 95 % interval over cities leaves 0 out, the "
        f"{MOST} strongest at most; dashed: negative.",
    )


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], row: Row, top: float) -> None:
    """One path as a line, as wide as its share, with the share near its end."""
    colour = READER_COLOURS[row["reader"]]
    share = row["recovered"]
    width = 0.6 + 5 * abs(share) / top
    ax.plot(*zip(start, end, strict=True), color=colour, lw=width, ls="-" if share > 0 else "--", alpha=0.8)
    x, y = (0.6 * a + 0.4 * b for a, b in zip(start, end, strict=True))
    look = {"fc": "white", "ec": "none", "pad": 0.4, "alpha": 0.8}
    ax.text(x, y, f"{share:.2f}", fontsize=6, color=colour, ha="center", va="center", bbox=look)
