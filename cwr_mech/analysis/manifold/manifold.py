"""The world manifold: a smooth map from places to activations, and where a city stands with respect to it.

The map is a ridge regression from functions of place to the whole activation: the two coordinates
themselves, so that it goes on straight where cities are rare, and Gaussian bumps around some of the cities
(`bumps.py`). The width of the bumps and the penalty are the pair with the least exact leave-one-out error
over the cities given; nothing is set by eye.

For an activation h the nearest point f(z) of the map splits what a probe's error mixes:
  along   |z - true coordinates|   how far off the city is on the map, in tenths of a degree
  off     |h - f(z)|         how far it is from any place of the map, in units of the activation
Both are read beside training cities that the map was not fitted on (`placement.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Float

from cwr_mech.analysis.manifold.bumps import Bumps, fit_bumps, shrunk_covariance
from cwr_mech.analysis.stats.intervals import Interval, normal_interval
from cwr_mech.analysis.stats.ridge import PENALTIES, Decomposed, LinearMap
from cwr_mech.errors import AnalysisError

Metric = Literal["euclidean", "residual"]
Around = Callable[[Float[np.ndarray, "city 2"]], tuple[np.ndarray, np.ndarray]]
"""Places -> mapped activations [city p] and their slopes [city p 2]."""
WIDTHS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Widths of the bumps tried, in units of the cities' root mean square distance from their centre."""
LANDMARKS = 400
LEAST = 20
MARGIN = 0.1


@dataclass(frozen=True)
class Manifold:
    """A fitted map from places to activations.

    `variance` is the share of the cities' variance that the map foretells, by leave-one-out error, which
    holds the error of the map itself. `share` is the share that is a function of place, without that error,
    and `noise` the deviation of what is not, a number of the activation; 95 % intervals over cities.
    With metric "residual" distances are taken after whitening by the (shrunk) covariance of what is left of
    training cities: a step counts for more in a direction where training cities do not vary.
    """

    centre: Float[np.ndarray, "2"]
    spread: float
    bumps: Bumps
    linear: LinearMap
    whiten: Float[np.ndarray, "p p"] | None
    candidates: Float[np.ndarray, "candidate 2"]
    width: float
    variance: float
    share: Interval
    noise: Interval
    n: int

    def map(self, xy: Float[np.ndarray, "city 2"]) -> Float[np.ndarray, "city p"]:
        """Activation that the map gives to places (tenths of a degree)."""
        return self.linear.predict(self.bumps.features(self._unit(xy)))

    def tangents(self, xy: Float[np.ndarray, "city 2"]) -> Float[np.ndarray, "city p 2"]:
        """Change of the mapped activation per tenth of a degree eastwards and northwards."""
        return self._around(None)(xy)[1]

    def _around(self, turn: Float[np.ndarray, "p p"] | None) -> "Around":
        """A function from places to the mapped activations [city p] and their slopes [city p 2], both times
        the transpose of `turn`.

        With K the kernel of places z and landmarks l, R its weights and A those of the coordinates:
        f = z A + K R + c,  df/dz_k = A_k + ((-2 gamma (z_k - l_k)) K) R.
        """
        landmarks, mixing, weights = self.bumps.landmarks, self.bumps.mixing, self.linear.weights
        if turn is not None:
            weights = weights @ turn.T
        straight, round_ = weights[:2], mixing @ weights[2:]

        def look(xy: Float[np.ndarray, "city 2"]) -> tuple[np.ndarray, np.ndarray]:
            unit = self._unit(xy)
            kernel = self.bumps.kernel(unit)
            # The bumps first: R alone is a difference of numbers up to a million times larger.
            mapped = self.linear.predict(np.concatenate([unit, kernel @ mixing], axis=1))
            mapped = mapped if turn is None else mapped @ turn.T
            kernel *= -2 * self.bumps.gamma / self.spread
            apart = unit[:, :, None] - landmarks.T
            along = [(apart[:, k] * kernel) @ round_ + straight[k] / self.spread for k in (0, 1)]
            return mapped, np.stack(along, axis=-1)

        return look

    def nearest(
        self, x: Float[np.ndarray, "city p"], *, steps: int = 20
    ) -> tuple[Float[np.ndarray, "city 2"], Float[np.ndarray, "city"]]:
        """Nearest point of the map to each activation: its place and the distance to it.

        The best of a grid and of the fitted cities' own places is refined by damped Gauss-Newton steps that
        are kept when they shorten the distance, inside the rectangle of the fitted cities widened by a
        tenth on every side: further out the map is guesswork.
        """
        look = self._around(self.whiten)
        places = self.candidates
        mapped = self._white(self.map(places))
        white = self._white(np.asarray(x, dtype=np.float64))
        apart = np.sum(mapped**2, axis=1)[None, :] - 2 * white @ mapped.T
        place = places[np.argmin(apart, axis=1)]
        lower, upper = places.min(axis=0), places.max(axis=0)
        mapped, slopes = look(place)
        left = white - mapped
        best = np.sum(left**2, axis=1)
        damping = np.full(len(x), 1e-3)
        for _ in range(steps):
            gram = slopes.transpose(0, 2, 1) @ slopes
            pull = (left[:, None] @ slopes)[:, 0]
            # Marquardt's damping: each coordinate by its own curvature, so that a flat one cannot run away.
            ridge = damping[:, None, None] * np.eye(2) * np.trace(gram, axis1=1, axis2=2)[:, None, None]
            step = np.linalg.solve(gram + ridge + 1e-300 * np.eye(2), pull[..., None])[..., 0]
            tried = np.clip(place + step, lower, upper)
            mapped, new_slopes = look(tried)
            new_left = white - mapped
            distance = np.sum(new_left**2, axis=1)
            better = distance < best
            place = np.where(better[:, None], tried, place)
            left = np.where(better[:, None], new_left, left)
            slopes = np.where(better[:, None, None], new_slopes, slopes)
            best = np.where(better, distance, best)
            damping = np.where(better, damping / 5, damping * 5)
        return place, np.sqrt(best)

    def _unit(self, xy: Float[np.ndarray, "city 2"]) -> Float[np.ndarray, "city 2"]:
        return (np.asarray(xy, dtype=np.float64) - self.centre) / self.spread

    def _white(self, x: Float[np.ndarray, "city p"]) -> Float[np.ndarray, "city p"]:
        return x if self.whiten is None else x @ self.whiten.T


def fit_manifold(
    x: Float[np.ndarray, "city p"],
    xy: Float[np.ndarray, "city 2"],
    *,
    seed: int = 0,
    metric: Metric = "euclidean",
) -> Manifold:
    """Fit the map on the given (ordinary) cities. `seed` chooses the cities that carry the bumps.

    Raises AnalysisError for fewer than 20 cities, for cities that all stand at one place, and for NaN or
    infinite activations.
    """
    x, xy = np.asarray(x, dtype=np.float64), np.asarray(xy, dtype=np.float64)
    if len(x) < LEAST:
        raise AnalysisError(f"{len(x)} cities are too few to fit a manifold", f"at least {LEAST} are needed")
    if not np.isfinite(x).all():
        raise AnalysisError("some activations are NaN or infinite")
    centre = xy.mean(axis=0)
    spread = float(np.sqrt(np.mean(np.sum((xy - centre) ** 2, axis=1))))
    if spread == 0:
        raise AnalysisError("all cities stand at one place: there is no map to fit")
    unit = (xy - centre) / spread
    total = float(np.mean(np.sum((x - x.mean(axis=0)) ** 2, axis=1)))
    if total == 0:
        raise AnalysisError("the activations are the same for every city")
    penalties = PENALTIES[::2]
    best_error, best = np.inf, None
    for width, bumps, features in _features_of_places(unit.tobytes(), seed):
        errors = features.pooled_errors(x, penalties)
        if errors.min() < best_error:
            best_error = float(errors.min())
            best = (width, bumps, features, float(penalties[int(np.argmin(errors))]))
    assert best is not None  # the activations are finite and vary, so some error is finite
    width, bumps, features, penalty = best
    linear = features.fit(x, penalty)
    share, noise = _share_and_noise(x, features.noise_power(x, penalty))
    whiten = None
    if metric == "residual":
        values, vectors = np.linalg.eigh(shrunk_covariance(x - linear.predict(bumps.features(unit))))
        whiten = (vectors / np.sqrt(np.maximum(values, 1e-12 * values.max()))) @ vectors.T
    return Manifold(
        centre=centre,
        spread=spread,
        bumps=bumps,
        linear=linear,
        whiten=whiten,
        candidates=np.concatenate([xy, _grid(xy)]),
        width=width * spread,
        variance=1 - best_error / total,
        share=share,
        noise=noise,
        n=len(x),
    )


def _share_and_noise(
    x: Float[np.ndarray, "city p"], power: Float[np.ndarray, "city"]
) -> tuple[Interval, Interval]:
    """Share of place and deviation of the noise from each city's noise power, by the delta method."""
    n, p = x.shape
    spread = np.sum((x - x.mean(axis=0)) ** 2, axis=1) * n / (n - 1)
    left = float(power.mean() / spread.mean())
    error = float(np.std(power - left * spread, ddof=1) / np.sqrt(n) / spread.mean())
    share = normal_interval(1 - left, error, n)
    squared = normal_interval(float(power.mean()), float(power.std(ddof=1) / np.sqrt(n)), n)
    value, low, high = np.sqrt(np.maximum([squared.value, squared.lo, squared.hi], 0) / p).tolist()
    return share, Interval(value, low, high, n)


@lru_cache(maxsize=4)
def _features_of_places(unit: bytes, seed: int) -> list[tuple[float, Bumps, Decomposed]]:
    """Width, bumps and decomposed features of places (float64 [city 2]). They depend on nothing else, so the
    maps of all layers, prompts and models through the same cities share them.
    """
    places = np.frombuffer(unit).reshape(-1, 2)
    found = []
    for width in WIDTHS:
        bumps = fit_bumps(places, width, most=LANDMARKS, seed=seed)
        found.append((width, bumps, Decomposed(bumps.features(places))))
    return found


def _grid(xy: Float[np.ndarray, "city 2"], side: int = 32) -> Float[np.ndarray, "point 2"]:
    """A grid over the cities' widened rectangle, so that places without cities can be found too."""
    low, high = xy.min(axis=0), xy.max(axis=0)
    margin = MARGIN * (high - low)
    axes = [np.linspace(a, b, side) for a, b in zip(low - margin, high + margin, strict=True)]
    return np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
