"""Probes at every layer, prompt and site of an activation file, with their controls, as a Result."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cwr_mech.activations.reader import ActivationStore
from cwr_mech.analysis.probing.controls import new_city_errors
from cwr_mech.analysis.probing.probe import (
    Probe,
    cross_decode,
    place_errors,
    probe,
    r2_interval,
    random_folds,
    score,
)
from cwr_mech.analysis.selection import (
    Item,
    run_label,
    shared_ids,
    token_features,
)
from cwr_mech.analysis.stats.ridge import Method, fit_linear
from cwr_mech.results import Result


def probe_result(
    store: ActivationStore,
    hooks: Sequence[str],
    tasks: Sequence[str],
    sites: Sequence[str],
    *,
    untrained: ActivationStore | None = None,
    method: Method = "ridge",
    folds: int = 5,
    draws: int = 10,
    seed: int = 0,
    advance: Callable[[int], object] = lambda n: None,
) -> Result:
    """Probe each hook x task x site: held-out score with interval, and its controls.

    `untrained` is the activation file of the same model before training. `advance(1)` is called after each
    probe. The folds are the same for all of them. Raises AnalysisError for too few cities.
    """
    ids = shared_ids([store], "old")
    rows_of = store.rows(ids)
    xy = store.xy[rows_of]
    fold = random_folds(len(ids), np.random.default_rng([seed, 0]), k=folds)
    tokens = [*token_features(store, ids).values()][-1]
    by_tokens = score(cross_decode(tokens, xy[None], fold, method=method)[0], xy)
    layers: list[dict[str, Any]] = []
    new: list[dict[str, Any]] = []
    best: tuple[float, Item, Probe] | None = None
    for index, item in enumerate(Item(store, h, t, s) for h in hooks for t in tasks for s in sites):
        rng = np.random.default_rng([seed, 1, index])
        found = probe(item.get(ids), xy, fold, rng, draws=draws, method=method)
        place = {
            "run": item.run,
            "layer": item.layer,
            "hook": item.hook,
            "task": item.task,
            "site": item.site,
        }
        interval = r2_interval(found.decoded, xy, rng)
        layers.append(
            {
                **place,
                "r2": found.score.r2,
                "lo": interval.lo,
                "hi": interval.hi,
                "r2_x": found.score.r2_x,
                "r2_y": found.score.r2_y,
                "error_mean": found.score.error_mean,
                "error_median": found.score.error_median,
                "fitted_r2": found.fitted,
                "control_r2_shuffled": float(found.shuffled.mean()),
                "control_r2_shuffled_max": float(found.shuffled.max()),
                "control_r2_random": found.random_held_out,
                "control_r2_random_fitted": found.random_fitted,
                f"control_r2_{'tokens' if store.reads_text else 'digits'}": by_tokens.r2,
                "selectivity": found.selectivity,
                "control_r2_untrained": _untrained(untrained, item, ids, xy, fold, method),
                "n_train": found.n_train,
                "n_test": len(ids),
            }
        )
        if store.is_new.any():
            errors = new_city_errors(store.get(*_key(item)), store.xy, store.is_new, rng, method=method)
            new.append({**place, **errors, "error_old": found.score.error_mean})
        if best is None or found.score.r2 > best[0]:
            best = (found.score.r2, item, found)
        advance(1)
    assert best is not None  # hooks, tasks and sites come from the file, which holds at least one of each
    arrays, at_best = _map(best[1], best[2], ids, method)
    return Result(
        kind="probe",
        params={
            "runs": [run_label(store)],
            "method": method,
            "folds": folds,
            "draws": draws,
            "seed": seed,
            "map": {
                "run": best[1].run,
                "layer": best[1].layer,
                "task": best[1].task,
                "site": best[1].site,
            },
        },
        values={"r2_best": best[0], "error_test": best[2].score.error_mean, **at_best},
        tables={"layers": layers, **({"new": new} if new else {})},
        arrays=arrays,
        notes=[
            f"Each of {len(ids)} old cities is decoded by a {method} probe fitted on the other "
            f"{folds - 1} of {folds} folds; errors in tenths of a degree.",
            f"Controls on the same folds: {draws} shuffles of the places, random but fixed places, and a "
            + ("probe on the tokens of the name." if store.reads_text else "probe on the digits of the id."),
            "Intervals: 95 %, bootstrap over cities; they say nothing about other seeds.",
            *([] if untrained else ["No activation file of the untrained model: its control is left out."]),
        ],
    )


def _key(item: Item) -> tuple[str, str, str]:
    return item.hook, item.task, item.site


def _untrained(
    untrained: ActivationStore | None,
    item: Item,
    ids: Int[np.ndarray, "city"],
    xy: Float[np.ndarray, "city 2"],
    fold: Int[np.ndarray, "city"],
    method: Method,
) -> float | None:
    if untrained is None:
        return None
    return score(cross_decode(untrained.get(*_key(item), ids), xy[None], fold, method=method)[0], xy).r2


def _map(
    item: Item, found: Probe, ids: Int[np.ndarray, "city"], method: Method
) -> tuple[dict[str, np.ndarray], dict[str, float | None]]:
    """Decoded places of all cities at the best place, and its first principal components."""
    store = item.store
    x, is_new = store.get(*_key(item)), store.is_new
    decoded = np.empty((len(store), 2))
    decoded[store.rows(ids)] = found.decoded
    error_new = None
    if is_new.any():
        decoded[is_new] = fit_linear(x[~is_new], store.xy[~is_new], method=method).predict(x[is_new])
        error_new = float(place_errors(decoded[is_new], store.xy[is_new]).mean())
    old = x[~is_new]
    _, s, vt = np.linalg.svd(old - old.mean(axis=0), full_matrices=False)
    arrays = {
        "decoded": decoded,
        "true": store.xy,
        "is_new": is_new,
        "is_test": np.ones(len(store), dtype=bool),
        "region": np.asarray(store.region, dtype=str),
        "components": (x - old.mean(axis=0)) @ vt[:3].T,
        "explained": s[:3] ** 2 / np.sum(s**2),
    }
    return arrays, {"error_new": error_new}
