"""What one probe score hides, at the best layer of each prompt, as a Result."""

from collections.abc import Sequence

import numpy as np

from cwr_mech.activations.reader import ActivationStore
from cwr_mech.analysis.best import DECODED, best_of_each
from cwr_mech.analysis.probing.controls import (
    code_length,
    learning_curve,
    new_city_errors,
    nonlinear_decode,
    prompt_transfer,
    region_scores,
)
from cwr_mech.analysis.probing.probe import (
    TrainingCities,
    cross_decode,
    place_errors,
    score,
    training_folds,
)
from cwr_mech.analysis.published import content
from cwr_mech.analysis.selection import Item, run_label, token_features
from cwr_mech.analysis.stats.ridge import Decomposed
from cwr_mech.results import Result, Row


def best_sites(
    store: ActivationStore,
    hooks: Sequence[str],
    tasks: Sequence[str],
    sites: Sequence[str],
    *,
    folds: int = 5,
    seed: int = 0,
) -> dict[str, tuple[str, str]]:
    """Prompt -> (hook, site) with the highest held-out R2 of a ridge probe: the best-decodable site.

    The folds are those of `probe_result` for the same seed.
    """
    known = TrainingCities.of([store], folds=folds, seed=seed)

    def r2(item: Item) -> float:
        return score(cross_decode(item.get(known.ids), known.xy[None], known.fold)[0], known.xy).r2

    items = [Item(store, hook, task, site) for task in tasks for hook in hooks for site in sites]
    rows = [item.columns | {DECODED: r2(item)} for item in items]
    return {row["task"]: (row["hook"], row["site"]) for row in best_of_each(rows, "task", DECODED)}


def readout_result(
    store: ActivationStore, places: dict[str, tuple[str, str]], *, folds: int = 5, seed: int = 0
) -> Result:
    """`places`: prompt -> (hook, site). The folds are those of `probe_result` for the same seed.

    Tables: `prompts` (ridge, least squares, nonlinear, whole regions held out; code length in bits a city
    beside shuffled places and digits), `regions`, `learning`, `new` (spread over prompts), `published`.
    Arrays: `transfer` [fitted read] at the place of the first prompt, `prompts`.
    """
    known = TrainingCities.of([store], folds=folds, seed=seed)
    ids, xy, fold = known.ids, known.xy, known.fold
    region = np.asarray(store.region)[store.rows(ids)]
    rng = np.random.default_rng([seed, 2])
    shuffled = rng.permutation(xy)
    digits, _ = code_length([*token_features(store, ids).values()][-1], xy, rng)
    prompts: list[Row] = []
    regions: list[Row] = []
    learning: list[Row] = []
    new: list[Row] = []
    for task, (hook, site) in places.items():
        item = Item(store, hook, task, site)
        x = item.get(ids)
        decomposed = training_folds(x, fold)
        decoded = cross_decode(x, xy[None], fold, decomposed=decomposed)[0]
        ols = cross_decode(x, xy[None], fold, method="ols", decomposed=decomposed)[0]
        bent, chance = nonlinear_decode(x, np.stack([xy, shuffled]), fold, seed=seed)
        bits, uniform = code_length(x, xy, rng)
        held_out, r2_regions = region_scores(x, xy, region, decoded)
        prompts.append(
            item.columns
            | {"r2": score(decoded, xy).r2, "r2_ols": score(ols, xy).r2}
            | {"r2_nonlinear": score(bent, xy).r2, "r2_nonlinear_shuffled": score(chance, shuffled).r2}
            | {"r2_regions_held_out": r2_regions, "bits": bits, "bits_uniform": uniform}
            | {"bits_shuffled": code_length(x, shuffled, rng)[0], "bits_digits": digits, "n": len(ids)}
        )
        regions += [{"task": task, **row} for row in held_out]
        learning += [{"task": task, **row} for row in learning_curve(x, xy, rng)]
        if store.is_new.any():
            everything = store.get(hook, task, site)
            old = Decomposed(everything[~store.is_new])
            least_squares = old.map(store.xy[~store.is_new], "ols").predict(everything[store.is_new])
            new.append(
                {"task": task}
                | new_city_errors(everything, store.xy, store.is_new, rng, decomposed=old)
                | {"error_ols": float(place_errors(least_squares, store.xy[store.is_new]).mean())}
                | {"error_old": score(decoded, xy).error_mean}
            )
    hook, site = next(iter(places.values()))
    transfer = prompt_transfer({task: store.get(hook, task, site, ids) for task in places}, xy, fold)
    means = [row["error_mean"] for row in new]
    return Result(
        kind="readout",
        params={"runs": [run_label(store)], "transfer_hook": hook, "site": site} | known.params,
        values={
            "n": len(ids),
            "new_error": float(np.mean(means)) if means else None,
            "new_error_deviation": float(np.std(means, ddof=1)) if len(means) > 1 else None,
            "new_error_lowest": min(means, default=None),
            "new_error_highest": max(means, default=None),
        },
        tables={
            "prompts": prompts,
            "regions": regions,
            "learning": learning,
            "published": content()["probes"]["rows"],
        }
        | ({"new": new} if new else {}),
        arrays={"transfer": transfer, "prompts": np.array(list(places))},
        notes=[
            "Code length: bits for both coordinates of a city to a tenth of a degree, sent in doubling "
            "blocks with a probe fitted on all earlier cities; controls: shuffled places, digits of the id.",
            "Whole regions held out: no neighbour of a decoded city is in the training set, so the probe has "
            "to extrapolate; the constant is the mean place of the other regions.",
            "Nonlinear: RBF kernel ridge regression, its width and penalty chosen inside the training folds.",
        ],
    )
