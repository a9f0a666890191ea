"""Misplaced on the map, or off the map: two numbers for a city, read beside ordinary cities.

`ordinary_cities` places every ordinary city with a map fitted on the other folds: what error along the map
and what distance off it a city shows that is where it should be. `new_cities` places other cities with a map
fitted on all ordinary ones. `excess` compares two groups: noise adds to squared errors, so the difference of
mean squares is what displacement added, and its root is the typical displacement.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from cwr_mech.analysis.manifold import Manifold, Metric, fit_manifold
from cwr_mech.analysis.probes import place_errors
from cwr_mech.analysis.statistics import Interval
from cwr_mech.errors import AnalysisError


@dataclass(frozen=True)
class Placement:
    """Where cities stand with respect to a map they took no part in.

    `place` [city 2] nearest point of the map, `along` [city] its distance from the true place in tenths of a
    degree, `off` [city] distance of the activation from the map, in units of the activation (or of its
    residual standard deviation, by the metric).
    """

    place: Float[np.ndarray, "city 2"]
    along: Float[np.ndarray, "city"]
    off: Float[np.ndarray, "city"]

    @property
    def n(self) -> int:
        """Number of cities."""
        return len(self.along)

    def scaled_off(self, ordinary: "Placement") -> Float[np.ndarray, "city"]:
        """`off` in units of the median ordinary city."""
        return self.off / float(np.median(ordinary.off))


def place_cities(
    manifold: Manifold, x: Float[np.ndarray, "city p"], xy: Float[np.ndarray, "city 2"]
) -> Placement:
    """Place cities on a map that was fitted without them."""
    place, off = manifold.nearest(x)
    return Placement(place, place_errors(place, xy), off)


def ordinary_cities(
    x: Float[np.ndarray, "city p"],
    xy: Float[np.ndarray, "city 2"],
    fold: Int[np.ndarray, "city"],
    *,
    seed: int = 0,
    metric: Metric = "euclidean",
) -> Placement:
    """Each city placed on a map fitted on the other folds. Folds of whole regions are the stricter
    reference for new cities that stand where no old city is near.
    """
    place, off = np.empty((len(x), 2)), np.empty(len(x))
    for held in np.unique(fold):
        test = fold == held
        manifold = fit_manifold(x[~test], xy[~test], seed=seed, metric=metric)
        place[test], off[test] = manifold.nearest(x[test])
    return Placement(place, place_errors(place, xy), off)


def new_cities(
    x: Float[np.ndarray, "city p"],
    xy: Float[np.ndarray, "city 2"],
    is_new: np.ndarray,
    *,
    seed: int = 0,
    metric: Metric = "euclidean",
) -> Placement:
    """The new cities placed on a map fitted on all the old ones. AnalysisError without new cities."""
    is_new = np.asarray(is_new, dtype=bool)
    if not is_new.any():
        raise AnalysisError("there are no new cities to place")
    manifold = fit_manifold(x[~is_new], xy[~is_new], seed=seed, metric=metric)
    return place_cities(manifold, x[is_new], xy[is_new])


def excess(
    group: Float[np.ndarray, "city"],
    ordinary: Float[np.ndarray, "other"],
    rng: np.random.Generator,
    *,
    draws: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Typical displacement of a group beyond ordinary cities, with a bootstrap interval over cities.

    signed root of mean(group^2) - mean(ordinary^2): negative when the group is closer than ordinary cities.
    """
    if min(group.size, ordinary.size) < 2:
        raise AnalysisError("at least 2 cities are needed in each group")

    def root(difference: np.ndarray) -> np.ndarray:
        return np.sign(difference) * np.sqrt(np.abs(difference))

    one, two = group**2, ordinary**2
    resampled = one[rng.integers(0, one.size, (draws, one.size))].mean(axis=1)
    resampled -= two[rng.integers(0, two.size, (draws, two.size))].mean(axis=1)
    low, high = root(np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2]))
    value = float(root(one.mean() - two.mean()))
    return Interval(value, float(low), float(high), group.size, "city", f"bootstrap, {draws} draws", level)
