"""Decoded places of every city, layer by layer, prompt by prompt, checkpoint by checkpoint, as a Result."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from cwr_mech.activations.reader import ActivationStore
from cwr_mech.analysis.best import best
from cwr_mech.analysis.probing.probe import cross_decode, place_errors, random_folds, score
from cwr_mech.analysis.selection import layer_number, shared_ids
from cwr_mech.analysis.stats.ridge import fit_linear
from cwr_mech.analysis.study import each
from cwr_mech.errors import AnalysisError
from cwr_mech.render.grids import MOST_NUMBERED, matrix
from cwr_mech.render.lines import panels
from cwr_mech.render.markdown import paragraphs, table_of
from cwr_mech.render.numbers import layer_name, number
from cwr_mech.render.shown import plot
from cwr_mech.render.style import caption
from cwr_mech.results import Result, Row, groups


class State(NamedTuple):
    """A model as it was at one checkpoint, and its activation file."""

    run: str
    step: int
    store: ActivationStore


def places_result(
    states: Sequence[State],
    hooks: Sequence[str],
    tasks: Sequence[str],
    site: str,
    *,
    folds: int = 5,
    draws: int = 5,
    seed: int = 0,
) -> Result:
    """Decode every city from each state x task x layer by a ridge probe that was not fitted on it.

    Array `decoded` [state task layer city 2], float32: old cities by cross-fitted probes on the same folds
    everywhere, new ones by a probe fitted on the old. Table `scores` has a row for each probe, with the mean
    R2 of `draws` shuffles of the places as its control. Raises AnalysisError when the states are about
    different worlds, lack a layer or prompt, or have too few cities.
    """
    first = states[0].store
    for state in states[1:]:
        if missing := [*set(hooks) - set(state.store.hooks), *set(tasks) - set(state.store.tasks)]:
            told = f"{state.run} has no {missing[0]}, which {states[0].run} has"
            raise AnalysisError(told, "name what both have")
    ids = shared_ids([state.store for state in states], "all")
    rows = first.rows(ids)
    xy, is_new = first.xy[rows].astype(float), first.is_new[rows]
    old = xy[~is_new]
    rng = np.random.default_rng([seed, 0])
    fold = random_folds(len(old), rng, k=folds)
    places = np.stack([old, *(old[rng.permutation(len(old))] for _ in range(draws))])
    decoded = np.empty((len(states), len(tasks), len(hooks), len(ids), 2), dtype=np.float32)
    scores: list[Row] = []
    asked = product(enumerate(states), enumerate(tasks), enumerate(hooks))
    for (s, state), (t, task), (h, hook) in each(asked, "probes", "probes"):
        x = state.store.get(hook, task, site, ids)
        found = cross_decode(x[~is_new], places, fold)
        here = decoded[s, t, h]
        here[~is_new] = found[0]
        if is_new.any():
            here[is_new] = fit_linear(x[~is_new], old).predict(x[is_new])
        about = score(found[0], old)
        shuffled = [score(seen, true).r2 for seen, true in zip(found[1:], places[1:], strict=True)]
        scores.append(
            {
                "run": state.run,
                "step": state.step,
                "task": task,
                "layer": layer_number(hook, first.hooks),
                "hook": hook,
                "r2": about.r2,
                "r2_shuffled": float(np.mean(shuffled)),
                "error_mean": about.error_mean,
                "error_new": float(place_errors(here[is_new], xy[is_new]).mean()) if is_new.any() else None,
            }
        )
    return Result(
        kind="places",
        params={"runs": list(dict.fromkeys(state.run for state in states)), "site": site}
        | {"folds": folds, "draws": draws, "seed": seed},
        values={"n": len(old), "n_new": int(is_new.sum()), "r2_best": max(row["r2"] for row in scores)},
        tables={"scores": scores, "states": [{"run": state.run, "step": state.step} for state in states]},
        arrays={
            "decoded": decoded, "true": xy, "is_new": is_new, "ids": ids, "tasks": np.array(tasks),
            "hooks": np.array(hooks), "region": first.region[rows].astype(str),
            "names": first.names[rows].astype(str),
        },
        notes=[
            f"Each of {len(old)} old cities is decoded by a ridge probe fitted on the other {folds - 1} of "
            f"{folds} folds, new cities by a probe fitted on all old ones; control: {draws} shuffles.",
        ],
    )  # fmt: skip


@plot("The map by layer and checkpoint")
def states_figure(result: Result) -> Figure:
    """R2 of held-out cities, a row for each model and checkpoint, a column for each layer, a panel a prompt.

    Reads tables `scores` {run, step, task, layer, hook, r2, r2_shuffled}, `states` {run, step}.
    """
    scores = result.tables["scores"]
    states = [(row["run"], row["step"]) for row in result.tables["states"]]
    hooks = list(dict.fromkeys((row["layer"], row["hook"]) for row in scores))
    tasks = list(dict.fromkeys(row["task"] for row in scores))[:MOST_PANELS]
    figure, axes = panels(len(tasks), margin=1.1, line=0.9 + 0.24 * max(len(states), 2), most=2)
    found = {(row["run"], row["step"], row["task"], row["hook"]): row["r2"] for row in scores}
    for index, (ax, task) in enumerate(zip(axes, tasks, strict=True)):
        grid = np.array([[found[(*state, task, hook)] for _, hook in hooks] for state in states], dtype=float)
        labels = [f"{run}, step {step}" if index % 2 == 0 else "" for run, step in states]
        size = 6.5 if len(states) <= MOST_NUMBERED else None
        layers = [layer_name(*place) for place in hooks]
        matrix(ax, grid, labels, layers, ends=(0, 1), cmap="Greys", numbers=size, rotation=0)
        ax.set_title(f"{task} prompt")
    return caption(
        figure,
        f"R² of places decoded on {result.values['n']} held-out cities. Control, shuffled: at most "
        f"{number(max(row['r2_shuffled'] for row in scores))}.",
    )


MOST_PANELS = 8
HEADS = {
    "run": "model", "task": "prompt", "layer": "best layer", "r2_shuffled": "R², shuffled places",
    "error_mean": "mean error", "error_new": "new cities",
}  # fmt: skip


def text(result: Result) -> str:
    """Best layer of each state, and where the places can be seen."""
    rows = [best(mine, "r2") for mine in groups(result.tables["scores"], "run", "step").values()]
    last = rows[-1]
    return paragraphs(
        f"In {last['run']} at step {last['step']} held-out cities decode with an R² of "
        f"{number(last['r2'])}, {number(last['error_mean'])} from their true places on average.",
        table_of(rows, "run step task layer r2 r2_shuffled error_mean error_new", **HEADS),
    )
