"""Figures of patching beside the heat map: decoded answers, digits, paths between heads, subspaces."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cwr_mech.figures_style import BASELINE, caption, floats, new_figure
from cwr_mech.results import Result, Row

SHADES = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#888888")
SMALL = 0.02
"""Shares below this are not drawn."""

MARKS = ("o", "s", "^", "v", "D", "X", "P", "*")


def answers_figure(result: Result) -> Figure:
    """Decoded answers after the swap: against the true ones, and how many follow the donor, by layer.

    Reads table `interchange` {direction, layer, span, n, follow, ci_lo, ci_hi}; arrays `swapped_given`,
    `swapped_donor`, `swapped_base` [pair], `swapped_place`.
    """
    figure = new_figure(3.6)
    left, right = figure.subplots(1, 2, width_ratios=[1.0, 1.25])
    given, donor, base = (result.arrays[f"swapped_{name}"] for name in ("given", "donor", "base"))
    readable = np.isfinite(given)
    few = len(np.unique(donor)) < 12  # labels: points would hide each other
    jitter = np.random.default_rng(0).uniform(-0.12, 0.12, (3, len(given))) * few
    looks = (("question asked", base, "x", "#bbbbbb"), ("question of the donor", donor, "o", "#0072b2"))
    for (name, true, mark, colour), shake in zip(looks, jitter[:2], strict=True):
        x, y = (true + shake)[readable], (given + jitter[2])[readable]
        left.plot(x, y, mark, color=colour, mfc="none", label=name)
    ends = [min(donor.min(), base.min()), max(donor.max(), base.max())]
    left.plot(ends, ends, "--", color=BASELINE, lw=0.8)
    left.set_xlabel("true answer")
    left.set_ylabel("answer given after the swap")
    left.set_title(" ".join(str(part).replace("_", " ") for part in result.arrays["swapped_place"]))
    left.legend(loc="best")
    rows = [row for row in result.tables["interchange"] if row["direction"] == "noise"]
    for number, span in enumerate(dict.fromkeys(row["span"] for row in rows)):
        _line(right, [row for row in rows if row["span"] == span], span.replace("_", " "), number)
    _layers(right, rows, "share of answers that follow the donor")
    n = max((row["n"] for row in rows), default=0)
    caption(
        figure,
        f"{result.params['task']}: {n} pairs. The residual stream after a layer is replaced by that of a "
        "question about another city, and the answer decoded. On the dashed line the answer is the true one; "
        "labels are numbered and shaken a little. Bars: 95 % over cities.",
    )
    return figure


def subspaces_figure(result: Result) -> Figure:
    """Share of answers that follow the donor when only a part of the first city's state is replaced.

    Reads table `subspaces` {layer, span, subspace, rank, n, follow, ci_lo, ci_hi}; one panel for the
    subspaces, one for their complements.
    """
    rows = result.tables["subspaces"]
    figure = new_figure(3.3)
    panels = figure.subplots(1, 2, sharey=True)
    kinds = dict.fromkeys(row["subspace"] for row in rows if row["subspace"])
    names = [name for name in kinds if not name.startswith("not-")]
    sides = ((panels[0], "", "inside the subspace"), (panels[1], "not-", "everything but it"))
    for ax, prefix, title in sides:
        _line(ax, [row for row in rows if row["subspace"] is None], "whole state", 0)
        for number, name in enumerate(names, start=1):
            mine = [row for row in rows if row["subspace"] == prefix + name]
            ranks = sorted({row["rank"] for row in mine})
            size = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}"
            _line(ax, mine, f"{name}, {size} dim.", number)
        _layers(ax, rows, "share of answers that follow the donor" if not prefix else "")
        ax.set_title(title)
        ax.legend(loc="best")
    n = max((row["n"] for row in rows), default=0)
    caption(
        figure,
        f"{result.params['task']}: {n} pairs, the first city's last digit. random: directions drawn evenly; "
        "random-like: with the activations' own covariance; both with the rank of the first subspace. Bars: "
        "95 % over cities.",
    )
    return figure


def digits_figure(result: Result) -> Figure:
    """Share of each answer token's part of the log-probability difference, by layer, at '=' and after it.

    Reads table `digits` {direction, layer, span, metric, recovered}.
    """
    rows = [row for row in result.tables["digits"] if row["direction"] == "denoise"]
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    active = {row["span"] for row in rows if abs(row["recovered"] or 0.0) > SMALL}
    spans = [span for span in dict.fromkeys(row["span"] for row in rows) if span in active]
    layers = sorted({row["layer"] for row in rows})
    figure = new_figure(1.2 + 0.3 * len(layers))
    image = None
    for ax, metric in zip(np.atleast_1d(figure.subplots(1, len(metrics), sharey=True)), metrics, strict=True):
        grid = np.full((len(layers), len(spans)), np.nan)
        for row in rows:
            if row["metric"] == metric and row["span"] in active and row["recovered"] is not None:
                grid[layers.index(row["layer"]), spans.index(row["span"])] = row["recovered"]
        image = ax.imshow(grid, cmap="RdBu_r", vmin=-1, vmax=1, origin="lower", aspect="auto")
        ax.set_xticks(range(len(spans)), [span.replace("_", " ") for span in spans], rotation=60, ha="right")
        ax.set_yticks(range(len(layers)), [f"L{layer}" for layer in layers])
        ax.set_title(metric.replace("digit", "token "))
        ax.tick_params(labelsize=7, length=0)
    if image is not None:
        figure.colorbar(image, ax=figure.axes, shrink=0.8, label="share recovered")
    caption(
        figure,
        f"{result.params['task']}, clean into corrupt, residual stream: the N-th answer token's part of the "
        "log-probability difference, each answer after its own beginning. Only places with an effect.",
    )
    return figure


def paths_figure(result: Result) -> Figure:
    """What the strongest heads tell later heads and the answer: lines as wide as the share recovered.

    Reads table `paths` {sender, span, receiver, reader, recovered}; heads are named layer.head.
    """
    rows = [row for row in result.tables["paths"] if row["recovered"] is not None]
    senders = list(dict.fromkeys((row["sender"], row["span"]) for row in rows))
    told = [row for row in rows if abs(row["recovered"]) > SMALL]
    strongest = sorted(told, key=lambda row: -abs(row["recovered"]))[:12]
    receivers = sorted({row["receiver"] for row in strongest}, key=lambda name: (name == "answer", name))
    figure = new_figure(0.9 + 0.42 * max(len(senders), len(receivers)))
    ax = figure.subplots()
    ax.set_axis_off()
    height = {name: i / max(1, len(receivers) - 1) for i, name in enumerate(receivers)}
    start = {pair: i / max(1, len(senders) - 1) for i, pair in enumerate(senders)}
    largest = max((abs(row["recovered"]) for row in strongest), default=1.0) or 1.0
    for row in strongest:
        y, z = start[row["sender"], row["span"]], height[row["receiver"]]
        colour = "#0072b2" if row["recovered"] > 0 else BASELINE
        width = 6 * abs(row["recovered"]) / largest
        ax.plot((0.3, 0.72), (y, z), color=colour, lw=width, solid_capstyle="butt")
        middle, y_middle = 0.3 + 0.42 * 0.8, y + 0.8 * (z - y)
        ax.text(middle, y_middle, f"{row['reader'] or ''} {row['recovered']:.2f}", fontsize=7)
    for (name, span), y in start.items():
        ax.text(0.29, y, f"head {name} at {span.replace('_', ' ')}", ha="right", va="center")
    for name, y in height.items():
        ax.text(0.73, y, f"head {name}" if name[0].isdigit() else name, va="center")
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.15, 1.15)
    caption(
        figure,
        f"{result.params['task']}: share of the {result.params['metric'].replace('_', ' ')} restored when "
        "the sender's clean output reaches one receiver alone (q, k, v: what a head computes from it), "
        "or the answer directly. The strongest paths of the strongest heads, above 0.02.",
    )
    return figure


def _line(ax: Axes, rows: list[Row], label: str, number: int) -> None:
    """One line over layers with its intervals."""
    rows = sorted(rows, key=lambda row: row["layer"])
    x, colour = [row["layer"] for row in rows], SHADES[number % len(SHADES)]
    low, high, follow = (floats([row[name] for row in rows]) for name in ("ci_lo", "ci_hi", "follow"))
    ax.vlines(x, low, high, color=colour, lw=0.7)
    ax.plot(x, follow, color=colour, marker=MARKS[number % len(MARKS)], label=label)


def _layers(ax: Axes, rows: list[Row], label: str) -> None:
    layers = sorted({row["layer"] for row in rows})
    ax.set_xticks(layers, [f"L{layer}" for layer in layers])
    ax.set_ylim(-0.03, 1.03)
    ax.set_ylabel(label)
    ax.legend(loc="best")
