"""All measures of likeness in one table, and what each gives between two representations with its
controls.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, Int

from cwr_mech.analysis import kernels, neighbours, shape, similarity
from cwr_mech.analysis.probes import random_folds
from cwr_mech.analysis.statistics import Interval, half_sampling
from cwr_mech.errors import AnalysisError, UnknownName

Function = Callable[[Float[np.ndarray, "city p"], Float[np.ndarray, "city q"]], float]


@dataclass(frozen=True)
class Measure:
    """`function(x, y)` over the same cities; `alike` is its value for equal representations. `source`:
    citation. `symmetric`: whether x and y may be exchanged. `needs_more_cities`: it is 1 whatever it is given
    unless cities outnumber features.
    """

    name: str
    function: Function
    alike: float
    source: str
    symmetric: bool = True
    needs_more_cities: bool = False

    def both_ways(
        self, x: Float[np.ndarray, "city p"], y: Float[np.ndarray, "city q"]
    ) -> tuple[float, float]:
        """The value from x to y and from y to x; their mean is what stands in a matrix."""
        there = self.function(x, y)
        return there, there if self.symmetric else self.function(y, x)

    def value(self, x: Float[np.ndarray, "city p"], y: Float[np.ndarray, "city q"]) -> float:
        """The mean of both ways."""
        return sum(self.both_ways(x, y)) / 2


def _predictivity(x: Float[np.ndarray, "city p"], y: Float[np.ndarray, "city q"]) -> float:
    """On folds that are always the same."""
    return shape.predictivity(x, y, random_folds(len(x), np.random.default_rng(0)))


def _biased(x: Float[np.ndarray, "city p"], y: Float[np.ndarray, "city q"]) -> float:
    return similarity.linear_cka(x, y, debiased=False)


def _procrustes_3(x: Float[np.ndarray, "city p"], y: Float[np.ndarray, "city q"]) -> float:
    return shape.procrustes_disparity(
        *(shape.first_components(side, min(3, side.shape[1])) for side in (x, y))
    )


ANGLES = 10
"""Leading components between whose spaces `angles` is taken."""


def _angles(x: Float[np.ndarray, "city p"], y: Float[np.ndarray, "city q"]) -> float:
    return float(shape.principal_angles(x, y, min(ANGLES, *x.shape, *y.shape)).mean())


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        measure.name: measure
        for measure in (
            Measure("cka", similarity.linear_cka, 1.0, "Kornblith 2019, debiased after Song 2012"),
            Measure("cka_biased", _biased, 1.0, "Kornblith 2019; the paper's"),
            Measure("cka_rbf", kernels.rbf_cka, 1.0, "Kornblith 2019, RBF at the median distance, debiased"),
            Measure("procrustes", shape.procrustes_disparity, 0.0, "squared Procrustes distance"),
            Measure("procrustes_3", _procrustes_3, 0.0, "the same on 3 principal components; the paper's"),
            Measure("angular", shape.angular_distance, 0.0, "Williams 2021, radians"),
            Measure("rsa", shape.rsa, 1.0, "Kriegeskorte 2008, Spearman of distances"),
            Measure("svcca", shape.svcca, 1.0, "Raghu 2017, 99 % of variance"),
            Measure("pwcca", shape.pwcca, 1.0, "Morcos 2018", symmetric=False, needs_more_cities=True),
            Measure("angles", _angles, 0.0, "mean principal angle of 10 components, radians"),
            Measure("predictivity", _predictivity, 1.0, "held-out R2 of a ridge map", symmetric=False),
            Measure(
                "mutual_knn", neighbours.mutual_knn, 1.0, "Huh 2024, k = 10; the paper's shared neighbours"
            ),
            Measure("cknna", neighbours.cknna, 1.0, "Huh 2024, k = 10"),
        )
    }
)


def choose_measures(names: Sequence[str] | None) -> list[Measure]:
    """The measures named, all when none is. Raises UnknownName."""
    for name in names or []:
        if name not in MEASURES:
            raise UnknownName("measure", name, MEASURES)
    return [MEASURES[name] for name in names or MEASURES]


@dataclass(frozen=True)
class Comparison:
    """One measure between two representations: value with interval over cities, and the value when cities are
    shuffled (mean and the 95 % quantile towards `alike`). `ways`: from the first to the second and back.
    `reason` says why the value, or its interval, is NaN.
    """

    measure: Measure
    interval: Interval
    ways: tuple[float, float]
    null: Float[np.ndarray, "draw"]
    reason: str | None

    @property
    def null_mean(self) -> float:
        """Mean over shuffles."""
        return float(self.null.mean())

    @property
    def null_best(self) -> float:
        """The shuffled value that 5 % of shuffles are more alike than."""
        return float(np.quantile(self.null, 0.95 if self.measure.alike else 0.05))


def compare(
    measure: Measure,
    x: Float[np.ndarray, "city p"],
    y: Float[np.ndarray, "city q"],
    rng: np.random.Generator,
    *,
    draws: int = 50,
    shuffles: int = 20,
) -> Comparison:
    """One measure with its interval and its null. Debiased CKA has the exact jackknife; the others half
    samples of the cities. A measure that refuses the data gives NaN and its message as the reason.
    """
    try:
        if measure.name == "cka":
            interval = similarity.linear_cka_interval(x, y)
        else:
            interval = half_sampling(lambda rows: measure.value(x[rows], y[rows]), len(x), rng, draws=draws)
        ways = measure.both_ways(x, y)
        null = np.array([measure.value(x, y[rng.permutation(len(y))]) for _ in range(shuffles)])
    except AnalysisError as error:
        nothing = Interval(np.nan, np.nan, np.nan, len(x), "city", "none", reason=error.message)
        return Comparison(measure, nothing, (np.nan, np.nan), np.full(1, np.nan), error.message)
    reason = None if np.isfinite(interval.value) else similarity.undefined_reason(x, y)
    if measure.needs_more_cities and len(x) // 2 <= x.shape[1] + y.shape[1]:
        reason = f"half of {len(x)} cities are too few for an interval with {x.shape[1]} features"
        interval = replace(interval, low=np.nan, high=np.nan, reason=reason)
    return Comparison(measure, interval, ways, null, reason)


def sample_cities(n: int, most: int, rng: np.random.Generator) -> Int[np.ndarray, "city"]:
    """Rows of at most `most` cities, in order: measures of pairs of cities cost n x n."""
    return np.arange(n) if n <= most else np.sort(rng.permutation(n)[:most])
