"""Probes at every layer, prompt and site of an activation file, with their controls, as a Result."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from cwr_mech.activations.reader import ActivationStore
from cwr_mech.analysis.probing.controls import new_city_errors
from cwr_mech.analysis.probing.probe import (
    TrainingCities,
    cross_decode,
    place_errors,
    probe,
    r2_interval,
    score,
)
from cwr_mech.analysis.selection import Item, run_label, token_features
from cwr_mech.analysis.stats.ridge import Method, fit_linear
from cwr_mech.analysis.study import each
from cwr_mech.results import Result, Row


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
) -> Result:
    """Probe each hook x task x site: held-out score with interval, and its controls.

    `untrained` is the activation file of the same model before training. The folds are the same for all of
    them. Raises AnalysisError for too few cities.
    """
    known = TrainingCities.of([store], folds=folds, seed=seed)
    ids, xy, fold = known.ids, known.xy, known.fold

    def r2(x: Float[np.ndarray, "city p"]) -> float:
        return score(cross_decode(x, xy[None], fold, method=method)[0], xy).r2

    by_tokens = r2([*token_features(store, ids).values()][-1])
    layers: list[Row] = []
    new: list[Row] = []
    best: tuple[Row, Item, Float[np.ndarray, "city 2"]] | None = None
    items = [Item(store, hook, task, site) for hook in hooks for task in tasks for site in sites]
    for index, item in enumerate(each(items, "probes", "probes")):
        rng = np.random.default_rng([seed, 1, index])
        before = replace(item, store=untrained) if untrained else None
        decoded, found = probe(item.get(ids), xy, fold, rng, draws=draws, method=method)
        interval = r2_interval(decoded, xy, rng)
        layers.append(
            {
                **item.columns,
                **found,
                **interval.ends,
                f"control_r2_{'tokens' if store.reads_text else 'digits'}": by_tokens,
                "control_r2_untrained": r2(before.get(ids)) if before else None,
                "n_test": len(ids),
            }
        )
        if store.is_new.any():
            errors = new_city_errors(item.get(), store.xy, store.is_new, rng, method=method)
            new.append({**item.columns, **errors, "error_old": found["error_mean"]})
        if best is None or found["r2"] > best[0]["r2"]:
            best = (found, item, decoded)
    assert best is not None  # hooks, tasks and sites come from the file, which holds at least one of each
    arrays, at_best = _map(*best[1:], ids, method)
    return Result(
        kind="probe",
        params={"runs": [run_label(store)], "method": method, "draws": draws, "map": best[1].columns}
        | known.params,
        values={"r2_best": best[0]["r2"], "error_test": best[0]["error_mean"], **at_best},
        tables={"layers": layers, **({"new": new} if new else {})},
        arrays=arrays,
        notes=[
            f"Each of {len(ids)} {'entities' if store.reads_text else 'training cities'} is decoded by a "
            f"{method} probe fitted on the other {folds - 1} of {folds} folds; errors in tenths of a degree.",
            f"Controls on the same folds: {draws} shuffles of the places, random but fixed places, and a "
            + ("probe on the tokens of the name." if store.reads_text else "probe on the digits of the id."),
            "Intervals: 95 %, bootstrap over cities; they say nothing about other seeds.",
            *([] if untrained else ["No activation file of the untrained model: its control is left out."]),
        ],
    )


def _map(
    item: Item, held_out: Float[np.ndarray, "city 2"], ids: Int[np.ndarray, "city"], method: Method
) -> tuple[dict[str, np.ndarray], dict[str, float | None]]:
    """Decoded places of all cities at the best place, and its first principal components. `held_out`: places
    of the cities `ids`.
    """
    store = item.store
    x, is_new = item.get(), store.is_new
    decoded = np.empty((len(store), 2))
    decoded[store.rows(ids)] = held_out
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
