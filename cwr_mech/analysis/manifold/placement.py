"""On-manifold and off-manifold error: two numbers for a city, read beside training cities.

`place_each` puts every training city on a map fitted on the other folds (what error along the manifold and
what distance off it a city shows that is where it should be) and every new city on the same maps, so that
both groups meet maps of equal quality. `excess` compares them: noise adds to squared distances, so the
difference of mean squares is what displacement added, and its root is the typical displacement.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from cwr_mech.analysis.manifold.manifold import Metric, fit_manifold
from cwr_mech.analysis.probing.probe import place_errors
from cwr_mech.analysis.stats.intervals import LEVEL, Interval
from cwr_mech.analysis.study import each
from cwr_mech.errors import AnalysisError


@dataclass(frozen=True)
class Displacement:
    """New cities beside training ones: each training city on the map of the other folds, each new one
    (`new_*`) on every one of those maps.

    `place` nearest point of the map, `along` its distance from the true coordinates in tenths of a degree,
    `off` distance of the activation from the map, in units of the activation (with metric "residual": in
    standard deviations of what is left of training cities).
    """

    place: Float[np.ndarray, "old 2"]
    along: Float[np.ndarray, "old"]
    off: Float[np.ndarray, "old"]
    new_place: Float[np.ndarray, "map new 2"]
    new_along: Float[np.ndarray, "map new"]
    new_off: Float[np.ndarray, "map new"]

    def rms_along(self) -> Float[np.ndarray, "new"]:
        """On-manifold error of each new city, root mean square over the maps, in tenths of a degree."""
        return np.sqrt(np.mean(self.new_along**2, axis=0))

    def rms_off(self) -> Float[np.ndarray, "new"]:
        """Distance off the manifold of each new city, root mean square over the maps."""
        return np.sqrt(np.mean(self.new_off**2, axis=0))

    def off_ratio(self) -> Float[np.ndarray, "new"]:
        """Distance off the manifold in units of the median training city."""
        return self.rms_off() / float(np.median(self.off))

    def excess_along(self, rng: np.random.Generator) -> Interval:
        """Typical on-manifold displacement, in tenths of a degree, beyond that of training cities."""
        return excess(self.new_along, self.along, rng)

    def excess_off(self, rng: np.random.Generator) -> Interval:
        """Typical off-manifold displacement, in units of the activation, beyond that of training cities."""
        return excess(self.new_off, self.off, rng)


def place_each(
    layers: Sequence[Float[np.ndarray, "city p"]],
    xy: Float[np.ndarray, "city 2"],
    is_new: np.ndarray,
    fold: Int[np.ndarray, "old"],
    *,
    seed: int = 0,
    metric: Metric = "euclidean",
) -> list[Displacement]:
    """Place training and new cities of several layers (or prompts, or models), fold by fold: what depends on
    the places alone is computed once a fold, which is most of the work. `fold` deals the training cities, in
    their order in a layer.

    Folds of whole regions are the stricter reference for new cities that stand where no training city is
    near. Raises AnalysisError as `fit_manifold` does.
    """
    old = ~np.asarray(is_new, dtype=bool)
    xy_old, xy_new, folds = xy[old], xy[~old], np.unique(fold)
    place, off = np.empty((len(layers), len(xy_old), 2)), np.empty((len(layers), len(xy_old)))
    new_place = np.empty((len(layers), len(folds), len(xy_new), 2))
    new_off = np.empty((len(layers), len(folds), len(xy_new)))
    for k, held in enumerate(each(folds, "maps", "folds")):
        test = fold == held
        for i, x in enumerate(layers):
            x_old = x[old]
            manifold = fit_manifold(x_old[~test], xy_old[~test], seed=seed, metric=metric)
            place[i, test], off[i, test] = manifold.nearest(x_old[test])
            if len(xy_new):
                new_place[i, k], new_off[i, k] = manifold.nearest(x[~old])
    return [
        Displacement(
            place[i],
            place_errors(place[i], xy_old),
            off[i],
            new_place[i],
            np.stack([place_errors(on_map, xy_new) for on_map in new_place[i]]),
            new_off[i],
        )
        for i in range(len(layers))
    ]


DRAWS = 1000


def excess(
    group: Float[np.ndarray, "map city"], ordinary: Float[np.ndarray, "other"], rng: np.random.Generator
) -> Interval:
    """Typical displacement of a group beyond training cities, with an interval.

    `group`: the distances of its cities by each fold's map. The value is the signed root of
    mean(group^2) - mean(ordinary^2), negative when the group is closer than training cities. Its variance is
    that of both samples of cities plus that of the map itself, which all cities share: the delete-one-fold
    jackknife of the group's mean. The shape is that of the studentised bootstrap (Efron and Tibshirani 1993,
    ch. 12), because squared distances are skewed. Raises AnalysisError for fewer than 2 cities or maps.
    """
    if len(group) < 2 or min(group.shape[1], ordinary.size) < 2:
        raise AnalysisError("an excess needs at least 2 maps, 2 new cities and 2 training ones")

    def root(difference: np.ndarray | float) -> np.ndarray:
        return np.asarray(np.sign(difference) * np.sqrt(np.abs(difference)))

    def variance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(a.var(axis=-1, ddof=1) / a.shape[-1] + b.var(axis=-1, ddof=1) / b.shape[-1])

    squares = group**2
    by_map = squares.mean(axis=1)
    shared = (len(group) - 1) * by_map.var()
    one, two = squares.mean(axis=0), ordinary**2
    value = one.mean() - two.mean()
    again_one = one[rng.integers(0, one.size, (DRAWS, one.size))]
    again_two = two[rng.integers(0, two.size, (DRAWS, two.size))]
    spread = np.sqrt(np.maximum(variance(again_one, again_two), np.finfo(np.float64).tiny))
    t = (again_one.mean(axis=1) - again_two.mean(axis=1) - value) / spread
    upper, lower = np.quantile(t, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = root(value - np.array([lower, upper]) * np.sqrt(variance(one, two) + shared))
    return Interval(float(root(value)), float(low), float(high), one.size)
