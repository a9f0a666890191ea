"""Linear probes from activations to the map, scored on cities they have not seen.

Every number is about held-out cities: the cities are dealt into folds (at random, or whole regions at a
time), and each city is decoded by a probe fitted on the other folds. Errors are Euclidean, in tenths of a
degree. Controls: places shuffled among cities, and random but fixed places (Hewitt and Liang 2019, arXiv
1909.03368); a probe of the same kind and size must do no better than chance on both.
Reference for the design: Gurnee and Tegmark 2023 (arXiv 2310.02207); the paper's probe is `method="ols"`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float, Int

from cwr_mech.activations.reader import ActivationStore
from cwr_mech.analysis.selection import shared_ids
from cwr_mech.analysis.stats.intervals import Interval, bootstrap
from cwr_mech.analysis.stats.ridge import PENALTIES, Decomposed, Method
from cwr_mech.errors import AnalysisError
from cwr_mech.results import Row


@dataclass(frozen=True)
class ProbeScore:
    """How well places were decoded. R2 is 1 - squared error / squared distance from the mean place;
    `r2` pools both coordinates. Errors in tenths of a degree.
    """

    r2: float
    r2_x: float
    r2_y: float
    error_mean: float
    error_median: float


def score(decoded: Float[np.ndarray, "city 2"], xy: Float[np.ndarray, "city 2"]) -> ProbeScore:
    """Score decoded places. R2 is NaN where all true coordinates are the same."""
    both, x, y = slice(None), slice(1), slice(1, None)
    r2, r2_x, r2_y = (r_squared(decoded[:, axes], xy[:, axes]) for axes in (both, x, y))
    if not np.isfinite(r2_x + r2_y):
        r2 = r2_x = r2_y = float("nan")
    errors = place_errors(decoded, xy)
    return ProbeScore(r2, r2_x, r2_y, float(errors.mean()), float(np.median(errors)))


def r2_interval(
    decoded: Float[np.ndarray, "city 2"],
    xy: Float[np.ndarray, "city 2"],
    rng: np.random.Generator,
    *,
    draws: int = 400,
) -> Interval:
    """R2 with an interval over cities (bootstrap); it says nothing about other seeds."""
    left, places = np.sum((decoded - xy) ** 2, axis=1), xy - xy.mean(axis=0)
    lengths = np.sum(places**2, axis=1)

    def r2(rows: Int[np.ndarray, "*draw city"]) -> Float[np.ndarray, "*draw"]:
        # 1 - sum |error|^2 / sum |place - m|^2, m the mean of those drawn: sum |place|^2 - |sum place|^2 / n.
        centre = np.stack([places[:, axis][rows].sum(axis=-1) for axis in (0, 1)])
        total = lengths[rows].sum(axis=-1) - np.sum(centre**2, axis=0) / len(xy)
        varies = total > 1e-12 * lengths.max()  # else all draws are of one place
        return np.where(varies, 1 - left[rows].sum(axis=-1) / np.where(varies, total, 1), np.nan)

    return bootstrap(r2, len(xy), rng, draws=draws, together=True)


def r_squared(decoded: Float[np.ndarray, "city axis"], xy: Float[np.ndarray, "city axis"]) -> float:
    """Share of the variance of places, all coordinates together, that is decoded; NaN without variance."""
    places = xy - xy.sum(axis=0) / len(xy)
    left, total = decoded - xy, np.vdot(places, places)
    return float(1 - np.vdot(left, left) / total) if total > 0 else float("nan")


def place_errors(
    decoded: Float[np.ndarray, "city 2"], xy: Float[np.ndarray, "city 2"]
) -> Float[np.ndarray, "city"]:
    """Distance of each city from decoded to true coordinates, in tenths of a degree."""
    return np.linalg.norm(decoded - xy, axis=1)


@dataclass(frozen=True)
class TrainingCities:
    """The training cities that some files share, their coordinates, and the fold in which each is held out.

    Probes of one seed have the same folds.
    """

    ids: Int[np.ndarray, " city"]
    xy: Float[np.ndarray, "city 2"]
    fold: Int[np.ndarray, " city"]
    params: dict[str, int]
    """Number of folds and seed, as a result records them."""

    @classmethod
    def of(cls, stores: Sequence[ActivationStore], *, folds: int = 5, seed: int = 0) -> "TrainingCities":
        """Raises what `shared_ids` and `random_folds` raise."""
        ids = shared_ids(stores, "old")
        fold = random_folds(len(ids), np.random.default_rng([seed, 0]), k=folds)
        return cls(ids, stores[0].xy[stores[0].rows(ids)], fold, {"folds": folds, "seed": seed})


def random_folds(n: int, rng: np.random.Generator, *, k: int = 5) -> Int[np.ndarray, "city"]:
    """Deal n cities into k folds of equal size (to within one). AnalysisError for fewer than 2 k cities."""
    if n < 2 * k:
        raise AnalysisError(f"{n} cities are too few for {k} folds", f"at least {2 * k} are needed")
    return rng.permutation(np.arange(n) % k)


def region_folds(region: np.ndarray) -> Int[np.ndarray, "city"]:
    """One fold for each region, so that no neighbour of a held-out city is in the training set."""
    names, fold = np.unique(region, return_inverse=True)
    if names.size < 2:
        raise AnalysisError(f"all cities are in one region ('{names[0]}')", "region hold-outs need two")
    return fold.astype(np.int64)


def training_folds(x: Float[np.ndarray, "city p"], fold: Int[np.ndarray, "city"]) -> dict[int, Decomposed]:
    """For each fold the cities of all others, decomposed. Raises as `cross_decode` does."""
    return {int(held): Decomposed(x[fold != held]) for held in np.unique(fold)}


def cross_decode(
    x: Float[np.ndarray, "city p"],
    places: Float[np.ndarray, "draw city 2"],
    fold: Int[np.ndarray, "city"],
    *,
    method: Method = "ridge",
    decomposed: Mapping[int, Decomposed] | None = None,
) -> Float[np.ndarray, "draw city 2"]:
    """Decode every city by a probe fitted on the other folds, for several sets of places at once.

    The penalty is chosen inside the training folds, for each set of places by itself. decomposed: the
    training cities of each fold, where the caller has them (`training_folds`). Raises AnalysisError when a
    training set has fewer than 3 cities or a feature is NaN or infinite.
    """
    decoded = np.empty(places.shape)
    targets = np.concatenate(list(places), axis=1)
    for held, features in (decomposed or training_folds(x, fold)).items():
        test = fold == held
        penalties = np.zeros(len(places))
        if method == "ridge":
            errors = features.leave_one_out(targets[~test]).reshape(PENALTIES.size, len(places), 2)
            penalties = PENALTIES[errors.sum(axis=2).argmin(axis=0)]
        for penalty in np.unique(penalties):
            draws = np.flatnonzero(penalties == penalty)
            maps = features.fit(np.concatenate(list(places[draws][:, ~test]), axis=1), float(penalty))
            seen = maps.predict(x[test]).reshape(-1, draws.size, 2)
            decoded[np.ix_(draws, test)] = seen.transpose(1, 0, 2)
    return decoded


def probe(
    x: Float[np.ndarray, "city p"],
    xy: Float[np.ndarray, "city 2"],
    fold: Int[np.ndarray, "city"],
    rng: np.random.Generator,
    *,
    draws: int,
    method: Method = "ridge",
) -> tuple[Float[np.ndarray, "city 2"], Row]:
    """Held-out places by a cross-fitted probe, and a row of its score and controls. Raises as `cross_decode`
    does.

    `control_r2_shuffled`, `control_r2_shuffled_max`: mean and highest R2 of `draws` shuffles of the places.
    `control_r2_random`, `control_r2_random_fitted`: R2 on random but fixed places, on held-out cities and on
    the probe's own (`fitted_r2`: its R2 there on the map); the second is what it can memorise.
    `selectivity`: R2 on the map minus R2 on random but fixed places, both held out.
    """
    shuffled = [xy[rng.permutation(len(xy))] for _ in range(draws)]
    random = rng.uniform(xy.min(axis=0), xy.max(axis=0), xy.shape)
    decomposed = training_folds(x, fold)
    decoded = cross_decode(x, np.stack([xy, random, *shuffled]), fold, method=method, decomposed=decomposed)
    held, features = next(iter(decomposed.items()))
    train, fitted = fold != held, []
    for places in (xy[train], random[train]):
        fitted.append(score(features.map(places, method).predict(x[train]), places).r2)
    by_chance = [score(seen, places).r2 for seen, places in zip(decoded[2:], shuffled, strict=True)]
    found, held_out = score(decoded[0], xy), score(decoded[1], random).r2
    return decoded[0], {
        **asdict(found),
        "fitted_r2": fitted[0],
        "control_r2_shuffled": float(np.mean(by_chance)),
        "control_r2_shuffled_max": float(np.max(by_chance)),
        "control_r2_random": held_out,
        "control_r2_random_fitted": fitted[1],
        "selectivity": found.r2 - held_out,
        "n_train": int(train.sum()),
    }
