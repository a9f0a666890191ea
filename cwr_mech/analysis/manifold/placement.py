"""On-manifold and off-manifold error: two numbers for a city, read beside training cities.

`place_all` puts every training city on a map fitted on the other folds (what error along the manifold and
what distance off it a city shows that is where it should be) and every new city on the same maps, so that
both groups meet maps of equal quality. `excess` compares them: noise adds to squared distances, so the
difference of mean squares is what displacement added, and its root is the typical displacement.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from cwr_mech.analysis.manifold.manifold import Manifold, Metric, fit_manifold
from cwr_mech.analysis.probing.probe import place_errors
from cwr_mech.analysis.stats.intervals import LEVEL, Interval
from cwr_mech.analysis.study import each
from cwr_mech.errors import AnalysisError


@dataclass(frozen=True)
class Placement:
    """Where cities stand with respect to a map they took no part in.

    `place` [city 2] nearest point of the map, `along` [city] its distance from the true coordinates in
    tenths of a degree, `off` [city] distance of the activation from the map, in units of the activation
    (with metric "residual": in standard deviations of what is left of training cities).
    """

    place: Float[np.ndarray, "city 2"]
    along: Float[np.ndarray, "city"]
    off: Float[np.ndarray, "city"]

    @property
    def n(self) -> int:
        """Number of cities."""
        return len(self.along)


def place_cities(
    manifold: Manifold, x: Float[np.ndarray, "city p"], xy: Float[np.ndarray, "city 2"]
) -> Placement:
    """Place cities on a map that was fitted without them."""
    place, off = manifold.nearest(x)
    return Placement(place, place_errors(place, xy), off)


@dataclass(frozen=True)
class Displacement:
    """New cities beside training ones.

    `ordinary`: each training city on the map of the other folds. `new`: one Placement of all new cities for
    each of those maps (none without new cities).
    """

    ordinary: Placement
    new: tuple[Placement, ...]

    def along(self) -> Float[np.ndarray, "new"]:
        """On-manifold error of each new city, root mean square over the maps, in tenths of a degree."""
        return np.sqrt(np.mean([found.along**2 for found in self.new], axis=0))

    def off(self) -> Float[np.ndarray, "new"]:
        """Distance off the manifold of each new city, root mean square over the maps."""
        return np.sqrt(np.mean([found.off**2 for found in self.new], axis=0))

    def off_ratio(self) -> Float[np.ndarray, "new"]:
        """Distance off the manifold in units of the median training city."""
        return self.off() / float(np.median(self.ordinary.off))

    def excess_along(self, rng: np.random.Generator) -> Interval:
        """Typical on-manifold displacement, in tenths of a degree, beyond that of training cities."""
        return excess([found.along for found in self.new], self.ordinary.along, rng)

    def excess_off(self, rng: np.random.Generator) -> Interval:
        """Typical off-manifold displacement, in units of the activation, beyond that of training cities."""
        return excess([found.off for found in self.new], self.ordinary.off, rng)


def place_all(
    x: Float[np.ndarray, "city p"],
    xy: Float[np.ndarray, "city 2"],
    is_new: np.ndarray,
    fold: Int[np.ndarray, "old"],
    *,
    seed: int = 0,
    metric: Metric = "euclidean",
) -> Displacement:
    """Place ordinary and new cities. `fold` deals the ordinary (old) cities, in their order in `x`.

    Folds of whole regions are the stricter reference for new cities that stand where no training city is
    near. Raises AnalysisError as `fit_manifold` does.
    """
    return place_each([x], xy, is_new, fold, seed=seed, metric=metric)[0]


def place_each(
    layers: Sequence[Float[np.ndarray, "city p"]],
    xy: Float[np.ndarray, "city 2"],
    is_new: np.ndarray,
    fold: Int[np.ndarray, "old"],
    *,
    seed: int = 0,
    metric: Metric = "euclidean",
) -> list[Displacement]:
    """`place_all` of several layers (or prompts, or models) of the same cities, fold by fold: what depends on
    the places alone is computed once a fold, which is most of the work.
    """
    old = ~np.asarray(is_new, dtype=bool)
    xy_old = xy[old]
    place = [np.empty((len(xy_old), 2)) for _ in layers]
    off = [np.empty(len(xy_old)) for _ in layers]
    new: list[list[Placement]] = [[] for _ in layers]
    for held in each(np.unique(fold), "maps", "folds"):
        test = fold == held
        for i, x in enumerate(layers):
            x_old = x[old]
            manifold = fit_manifold(x_old[~test], xy_old[~test], seed=seed, metric=metric)
            place[i][test], off[i][test] = manifold.nearest(x_old[test])
            if not old.all():
                new[i].append(place_cities(manifold, x[~old], xy[~old]))
    return [
        Displacement(Placement(place[i], place_errors(place[i], xy_old), off[i]), tuple(new[i]))
        for i in range(len(layers))
    ]


DRAWS = 1000


def excess(
    groups: list[Float[np.ndarray, "city"]], ordinary: Float[np.ndarray, "other"], rng: np.random.Generator
) -> Interval:
    """Typical displacement of a group beyond training cities, with an interval.

    `groups`: the distances of the same cities by each fold's map. The value is the signed root of
    mean(group^2) - mean(ordinary^2), negative when the group is closer than training cities. Its variance is
    that of both samples of cities plus that of the map itself, which all cities share: the delete-one-fold
    jackknife of the group's mean. The shape is that of the studentised bootstrap (Efron and Tibshirani 1993,
    ch. 12), because squared distances are skewed. Raises AnalysisError for fewer than 2 cities or maps.
    """
    if len(groups) < 2 or min(groups[0].size, ordinary.size) < 2:
        raise AnalysisError("an excess needs at least 2 maps, 2 new cities and 2 training ones")

    def root(difference: np.ndarray | float) -> np.ndarray:
        return np.asarray(np.sign(difference) * np.sqrt(np.abs(difference)))

    def variance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(a.var(axis=-1, ddof=1) / a.shape[-1] + b.var(axis=-1, ddof=1) / b.shape[-1])

    squares = np.stack(groups) ** 2
    by_map = squares.mean(axis=1)
    shared = (len(groups) - 1) * by_map.var()
    one, two = squares.mean(axis=0), ordinary**2
    value = one.mean() - two.mean()
    again_one = one[rng.integers(0, one.size, (DRAWS, one.size))]
    again_two = two[rng.integers(0, two.size, (DRAWS, two.size))]
    spread = np.sqrt(np.maximum(variance(again_one, again_two), np.finfo(np.float64).tiny))
    t = (again_one.mean(axis=1) - again_two.mean(axis=1) - value) / spread
    upper, lower = np.quantile(t, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = root(value - np.array([lower, upper]) * np.sqrt(variance(one, two) + shared))
    return Interval(float(root(value)), float(low), float(high), one.size)
