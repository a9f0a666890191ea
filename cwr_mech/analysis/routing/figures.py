"""Figures of where updates go: shares in the manifold's directions, movement towards the true coordinates."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cwr_mech.analysis.best import LEAST_MAP
from cwr_mech.render.grids import matrix
from cwr_mech.render.lines import BARS, layer_ticks, line
from cwr_mech.render.shown import plot
from cwr_mech.render.style import BASELINE, caption, new_figure, task_look
from cwr_mech.results import Result, Row, groups, where

UPDATE_TITLES = {"gradient": "gradient at the city", "adam": "one Adam step", "plain": "one plain step"}
GAINS = {"cosine": "cosine with the target", "gain_on": "gain, on-manifold", "gain_off": "gain, off-manifold"}
SITE_NAMES = {"last_digit": "last digit", "delimiter": "delimiter"}


@plot("Updates inside the manifold's directions", "shares")
def subspace_figure(result: Result) -> Figure:
    """Share of new cities' updates inside the manifold's directions, by layer and task, with both nulls.

    Reads tables `shares` {task, update, group, site, layer, basis, share, lo, hi, null, null_hi, like,
    like_hi, n} and `spaces`; params `updates`, `sites`.
    """
    table = where(_on_a_map(result, "shares"), basis="manifold")
    layers = sorted({row["layer"] for row in result.tables["shares"]})
    updates = [name for name in UPDATE_TITLES if name in result.params["updates"]]
    sites = list(result.params["sites"])
    figure = new_figure(1.0 + 2.1 * len(sites))
    grid = figure.subplots(len(sites), len(updates), squeeze=False, sharey=True)
    for i, site in enumerate(sites):
        for j, update in enumerate(updates):
            rows = where(table, site=site, update=update)
            ax = grid[i, j]
            _by_layer(ax, rows, layers, "share", ends=True)
            _random(ax, rows, layers)
            ax.set_ylim(0, 1)
            ax.set_title(UPDATE_TITLES[update] if i == 0 else "")
            if j == 0:
                ax.set_ylabel(f"share of energy\n{SITE_NAMES.get(site, site)}")
    _legend(figure, grid[0, 0])
    return caption(
        figure,
        f"{_new_cities(result, table)}, inside directions of the map fitted on training cities; bars 95 % "
        "over cities. Red: random directions of equal rank (band: 95 %), and directions drawn with the "
        "activations' own covariance (dashed, its 97.5 % point dotted), mean over tasks. Shown where "
        f"coordinates explain at least {LEAST_MAP} of the activations' variance.",
    )


def _on_a_map(result: Result, table: str) -> list[Row]:
    """Rows about new cities at prompts, sites and layers where there is a map."""
    mapped = [row for row in result.tables["spaces"] if row["map_variance"] >= LEAST_MAP]
    clear = groups(mapped, "task", "site", "layer")
    rows = where(result.tables[table], group="new")
    return [row for row in rows if (row["task"], row["site"], row["layer"]) in clear]


def _new_cities(result: Result, rows: list[Row]) -> str:
    """The run and how many new cities the rows are about."""
    return f"{result.params['runs'][0]}: {max((row['n'] for row in rows), default=0)} new cities"


def _legend(figure: Figure, ax: Axes) -> None:
    """The legend of one panel beside all of them."""
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right center")


def _by_layer(ax: Axes, rows: list[Row], layers: list[int], column: str, *, ends: bool = False) -> None:
    """A line a task over layers, with its intervals from columns lo and hi where `ends`."""
    for task, mine in groups(sorted(rows, key=lambda row: row["layer"]), "task").items():
        x = [layers.index(row["layer"]) for row in mine]
        line(ax, mine, x, column, bars=BARS if ends else None, label=task, **task_look(task).drawn)
    layer_ticks(ax, layers, range(len(layers)))
    ax.set_xlim(-0.3, len(layers) - 0.7)


def _means(rows: list[Row], layers: list[int], column: str) -> tuple[list[int], list[float]]:
    """Places of the layers that have rows, and the mean of a column there."""
    means = {k: float(np.mean([row[column] for row in mine])) for k, mine in groups(rows, "layer").items()}
    here = sorted(means)
    return [layers.index(layer) for layer in here], [means[layer] for layer in here]


def _random(ax: Axes, rows: list[Row], layers: list[int]) -> None:
    """Random directions of equal rank, and those drawn with the activations' own covariance."""
    x, low = _means(rows, layers, "null_lo")
    high = _means(rows, layers, "null_hi")[1]
    ax.fill_between(x, low, high, color=BASELINE, alpha=0.2, lw=0, label="random")
    ax.plot(*_means(rows, layers, "like"), color=BASELINE, ls="--", lw=1.2, label="covariance-matched")
    ax.plot(*_means(rows, layers, "like_hi"), color=BASELINE, ls=":", lw=1)


@plot("Movement towards the true coordinates", "ways")
def directions_figure(result: Result) -> Figure:
    """Distance gained by one Adam step towards the true coordinates, split into the parts on and off the
    manifold.

    Reads tables `directions` {task, update, group, site, layer, gain, gain_on, gain_off, cosine, lo, hi,
    cosine_shuffled, n} and `spaces`; params `sites`, `lr`.
    """
    table = where(_on_a_map(result, "directions"), update="adam")
    sites = list(result.params["sites"])
    layers = sorted({row["layer"] for row in result.tables["directions"]})
    figure = new_figure(1.0 + 2.1 * len(sites))
    grid = figure.subplots(len(sites), 3, squeeze=False)
    for i, site in enumerate(sites):
        rows = where(table, site=site)
        for ax, (column, title) in zip(grid[i], GAINS.items(), strict=True):
            cosine = column == "cosine"
            _by_layer(ax, rows, layers, column, ends=cosine)
            if cosine:
                shuffled = _means(rows, layers, "cosine_shuffled")
                ax.plot(*shuffled, color=BASELINE, ls="--", lw=1.2, label="shuffled targets")
                ax.set_ylim(-1.05, 1.05)
                ax.set_ylabel(SITE_NAMES.get(site, site))
            ax.axhline(0, color="#888888", lw=0.6)
            ax.set_title(title if i == 0 else "")
    _legend(figure, grid[0, 0])
    return caption(
        figure,
        f"{_new_cities(result, table)}. Cosine between the movement of the decoded coordinates and the "
        "target displacement (bars: 95 % over cities; red: targets of cities shuffled). Gain: error "
        f"reduction, tenths of a degree a step at rate {result.params['lr']:g}. Shown where coordinates "
        f"explain at least {LEAST_MAP} of the activations' variance.",
    )


@plot("Do tasks pull the weights the same way?")
def conflict_figure(result: Result) -> Figure:
    """Cosines between tasks' expected parameter gradients, all weight matrices together.

    Reads arrays `cosine` [task task] and `tasks`; params `group`, `batches`, `batch`.
    """
    tasks = [str(task) for task in result.arrays["tasks"]]
    grid = result.arrays["cosine"]
    figure = new_figure(3.6, width=5.2)
    ax = figure.subplots()
    matrix(ax, grid, tasks, tasks, ends=(-1, 1), cmap="RdBu_r", numbers=7, labels=9, rotation=60)
    return caption(
        figure,
        f"{result.params['runs'][0]}: cosine of expected gradients over {result.params['batches']} batches "
        f"of {result.params['batch']} questions about {result.params['group']} cities a task.",
    )
