"""All measures of representational similarity in one table, and what each gives between representations with
its controls.

Most of what a measure costs is done to one representation (its distances, its neighbours, its components), so
a measure is two functions: `prepare` for one side and `between` for two prepared ones. Many models are then
prepared once each, not once a pair, and a shuffle of the cities only reorders what was prepared.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from types import MappingProxyType
from typing import Any

import numpy as np
import sklearn.neighbors  # noqa: F401  what is not loaded yet keeps its threads when those are limited to one
from jaxtyping import Float, Int
from scipy.spatial.distance import squareform

from cwr_mech.analysis.probing.probe import random_folds
from cwr_mech.analysis.similarity import cka as similarity
from cwr_mech.analysis.similarity import kernels, neighbours, shape
from cwr_mech.analysis.similarity.feature_products import Features, prepare
from cwr_mech.analysis.similarity.predictivity import Folded, predicted
from cwr_mech.analysis.stats.intervals import Interval, half_interval, halves
from cwr_mech.errors import AnalysisError, UnknownName
from cwr_mech.results import Row

Side = Float[np.ndarray, "city _"]
Order = Int[np.ndarray, "city"]
Prepared = Any
"""What `Measure.prepare` makes of one representation."""


@dataclass(frozen=True)
class Measure:
    """`between(prepare(x), prepare(y))` over the same cities; `alike` is its value for equal representations.
    `reorder(prepare(x), order)` is `prepare(x[order])`. `source`: citation. `symmetric`: whether x and y may
    be exchanged; where they may not, `between` gives both ways. `needs_more_cities`: it is 1 whatever it is
    given unless cities outnumber features.
    """

    name: str
    between: Callable[[Prepared, Prepared], Any]
    alike: float
    source: str
    prepare: Callable[[Side], Prepared] = lambda x: x
    reorder: Callable[[Prepared, Order], Prepared] = lambda x, order: x[order]
    symmetric: bool = True
    needs_more_cities: bool = False

    def both_ways(self, first: Prepared, second: Prepared) -> tuple[float, float]:
        """The value from one prepared side to the other and back; their mean is what stands in a matrix."""
        found = self.between(first, second)
        there, back = (found, found) if self.symmetric else found
        return float(there), float(back)

    def value(self, x: Side, y: Side) -> float:
        """The mean of both ways, of representations that are not prepared."""
        shape.same_cities(len(x), len(y))
        return sum(self.both_ways(self.prepare(x), self.prepare(y))) / 2

    def told(
        self, first: Prepared | AnalysisError, second: Prepared | AnalysisError
    ) -> tuple[tuple[float, float], str | None]:
        """Both ways of sides from `prepared`; NaN, with the reason, where a side or the measure refused."""
        try:
            for side in (first, second):
                if isinstance(side, AnalysisError):
                    raise side
            return self.both_ways(first, second), None
        except AnalysisError as error:
            return (np.nan, np.nan), error.message


def _folded(x: Side) -> Folded:
    """On folds that are always the same."""
    return Folded(shape.centre(x), random_folds(len(x), np.random.default_rng(0)))


def _predictivity(first: Folded, second: Folded) -> tuple[float, float]:
    return predicted(first, second), predicted(second, first)


def _reordered_features(side: Features, order: Order) -> Features:
    return Features(side.x[order], side.norms[order], side.reason)


def _reordered_ranks(ranks: Float[np.ndarray, "pair"], order: Order) -> Float[np.ndarray, "pair"]:
    return squareform(squareform(ranks)[np.ix_(order, order)], checks=False)


NEIGHBOURS = 10
"""Neighbours whose overlap `mutual_knn` is."""
ANGLES = 10
"""Leading components between whose spaces `angles` is taken."""


def _angles(first: Side, second: Side) -> float:
    k = min(first.shape[1], second.shape[1])
    return float(
        np.arccos(shape.correlations(*(shape.there(side[:, :k]) for side in (first, second)))).mean()
    )


_MEASURES = (
    Measure("cka", similarity.cka_of, 1.0, "Kornblith 2019, debiased after Song 2012",
        prepare=prepare, reorder=_reordered_features),
    Measure("cka_biased", partial(similarity.cka_of, debiased=False), 1.0, "Kornblith 2019; the paper's",
        prepare=prepare, reorder=_reordered_features),
    Measure("cka_rbf", kernels.cka_of, 1.0, "Kornblith 2019, RBF at the median distance, debiased",
        prepare=lambda x: kernels.with_itself(kernels.rbf_kernel(x)), reorder=kernels.reordered),
    Measure("procrustes", shape.disparity, 0.0, "squared Procrustes distance", prepare=shape.to_norm_one),
    Measure("procrustes_3", shape.disparity, 0.0, "the same on 3 principal components; the paper's",
        prepare=lambda x: shape.to_norm_one(shape.first_components(x, min(3, x.shape[1])))),
    Measure("angular", shape.angle, 0.0, "Williams 2021, radians", prepare=shape.to_norm_one),
    Measure("rsa", np.dot, 1.0, "Kriegeskorte 2008, Spearman of distances",
        prepare=shape.distance_ranks, reorder=_reordered_ranks),
    Measure("svcca", shape.mean_correlation, 1.0, "Raghu 2017, 99 % of variance",
        prepare=shape.leading_basis),
    Measure("pwcca", shape.weighted_correlations, 1.0, "Morcos 2018", prepare=shape.with_basis,
        reorder=lambda side, order: (side[0][order], side[1][order]),
        symmetric=False, needs_more_cities=True),
    Measure("angles", _angles, 0.0, "mean principal angle of 10 components, radians",
        prepare=lambda x: shape.component_basis(x, min(ANGLES, *x.shape))),
    Measure("predictivity", _predictivity, 1.0, "held-out R2 of a ridge map", symmetric=False,
        prepare=_folded, reorder=lambda side, order: Folded(side.x[order], side.fold)),
    Measure("mutual_knn", neighbours.overlap, 1.0, "Huh 2024, k = 10; the paper's shared neighbours",
        prepare=lambda x: neighbours.nearest(shape.centre(x), NEIGHBOURS),
        reorder=lambda rows, order: np.argsort(order)[rows[order]]),
    Measure("cknna", neighbours.local_cka, 1.0, "Huh 2024, k = 10",
        prepare=neighbours.near, reorder=neighbours.reordered),
)  # fmt: skip
MEASURES: Mapping[str, Measure] = MappingProxyType({measure.name: measure for measure in _MEASURES})


def choose_measures(names: Sequence[str] | None) -> list[Measure]:
    """The measures named, all when none is. Raises UnknownName."""
    for name in names or []:
        if name not in MEASURES:
            raise UnknownName("measure", name, MEASURES)
    return [MEASURES[name] for name in names or MEASURES]


def compare_all(
    measure: Measure,
    sides: Sequence[Side],
    rng: np.random.Generator,
    *,
    draws: int = 50,
    shuffles: int = 20,
    whole: Sequence[Prepared | AnalysisError] | None = None,
) -> dict[tuple[int, int], Row]:
    """One measure between all pairs of representations of the same cities, by their numbers (i < j): rows
    {measure, value, lo, hi, there, back, null_mean, null_best, alike, reason}.

    `lo`, `hi`: over cities, for debiased CKA by the exact jackknife, for the others by half samples of the
    cities, the same ones for every pair. `there`, `back`: from the first to the second and back, where that
    differs. `null_mean`, `null_best`: mean and the 95 % quantile towards `alike` of shuffles, each of which
    reorders the cities of every representation on its own. `reason` says why the value, or its interval, is
    NaN: a measure that refuses a side or a pair gives NaN there and its message. `whole`: the sides as
    `prepared` gives them, where they are known.
    """
    n = len(sides[0])
    pairs = list(combinations(range(len(sides)), 2))
    refusals: dict[tuple[int, int], str] = {}

    def of_pairs(
        prepared: Sequence[Prepared], some: Sequence[tuple[int, int]]
    ) -> Float[np.ndarray, "pair way"]:
        found = [measure.told(prepared[i], prepared[j]) for i, j in some]
        for pair, (_, reason) in zip(some, found, strict=True):
            if reason:
                refusals.setdefault(pair, reason)
        return np.array([both for both, _ in found]).reshape(-1, 2)

    if whole is None:
        whole = [prepared(measure, side, n) for side in sides]
    ways = of_pairs(whole, pairs)
    orders = [[rng.permutation(n) for _ in sides] for _ in range(shuffles)]
    null = np.array([of_pairs(list(map(partial(_moved, measure), whole, order)), pairs) for order in orders])
    few = [pair for pair in pairs if _too_few(measure, n, sides, pair)]
    if measure.name == "cka":
        intervals = _jackknifed(sides, [pair for pair in pairs if pair not in refusals])
    else:
        chosen, enough = halves(n, rng, draws), [pair for pair in pairs if pair not in few]
        needed = {side for pair in enough for side in pair}
        halved = [
            of_pairs(
                [
                    prepared(measure, side[rows], len(rows)) if k in needed else None
                    for k, side in enumerate(sides)
                ],
                enough,
            ).mean(axis=-1)
            for rows in chosen
        ]
        of_halves = dict(zip(enough, np.transpose(halved), strict=True))
        intervals = {
            pair: half_interval(float(ways[k].mean()), of_halves.get(pair, np.full(draws, np.nan)), n)
            for k, pair in enumerate(pairs)
        }
    nothing = Interval(np.nan, np.nan, np.nan, n), np.full(2, np.nan), np.full(1, np.nan)
    found = {}
    for k, (i, j) in enumerate(pairs):
        if (i, j) in refusals:
            found[i, j] = _row(measure, *nothing, refusals[i, j])
            continue
        interval, reason = intervals[i, j], None
        if not np.isfinite(interval.value):
            reason = similarity.undefined_reason(sides[i], sides[j])
        if (i, j) in few:
            features = sides[i].shape[1] + sides[j].shape[1]
            reason = f"half of {n} cities are too few for an interval with {features} features"
        found[i, j] = _row(measure, interval, ways[k], null[:, k].mean(axis=-1), reason)
    return found


def _row(
    measure: Measure,
    interval: Interval,
    ways: Float[np.ndarray, "way"],
    null: Float[np.ndarray, "draw"],
    reason: str | None,
) -> Row:
    there, back = (None, None) if measure.symmetric else map(float, ways)
    return {
        "measure": measure.name,
        "value": interval.value,
        **interval.ends,
        "there": there,
        "back": back,
        "null_mean": float(null.mean()),
        "null_best": float(np.quantile(null, 0.95 if measure.alike else 0.05)),
        "alike": measure.alike,
        "reason": reason,
    }


def _too_few(measure: Measure, n: int, sides: Sequence[Side], pair: tuple[int, int]) -> bool:
    """Whether half of the cities would give 1 whatever the measure is given."""
    return measure.needs_more_cities and n // 2 <= sum(sides[k].shape[1] for k in pair)


def prepared(measure: Measure, side: Side, n: int) -> Prepared | AnalysisError:
    """One representation of n cities as the measure needs it, or why the measure refuses it."""
    try:
        shape.same_cities(n, len(side))
        return measure.prepare(side)
    except AnalysisError as error:
        return error


def _moved(measure: Measure, side: Prepared | AnalysisError, order: Order) -> Prepared | AnalysisError:
    return side if isinstance(side, AnalysisError) else measure.reorder(side, order)


def _jackknifed(sides: Sequence[Side], pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Interval]:
    """Debiased CKA of these pairs; one matrix of all representations in them."""
    used = sorted({k for pair in pairs for k in pair})
    if not used:
        return {}
    matrix = similarity.linear_cka_matrix([sides[k] for k in used])
    return {(i, j): similarity.cka_interval(matrix, used.index(i), used.index(j)) for i, j in pairs}


def sample_cities(n: int, most: int, rng: np.random.Generator) -> Int[np.ndarray, "city"]:
    """Rows of at most `most` cities, in order: measures of pairs of cities cost n x n."""
    return np.arange(n) if n <= most else np.sort(rng.permutation(n)[:most])
