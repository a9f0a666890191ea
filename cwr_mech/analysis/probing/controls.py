"""Probe generalisation: other prompts, whole regions, few cities, nonlinear probes, code length."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial.distance import pdist

from cwr_mech.analysis.probing.probe import cross_decode, place_errors, region_folds, score
from cwr_mech.analysis.stats.intervals import bootstrap
from cwr_mech.analysis.stats.ridge import Decomposed, Method
from cwr_mech.errors import AnalysisError
from cwr_mech.results import Row

if TYPE_CHECKING:
    from sklearn.kernel_approximation import Nystroem

WIDTHS = (0.5, 1.0, 2.0, 4.0)
"""Widths of the RBF probe tried, in units of the median distance between cities' activations."""
LANDMARKS = 400
SUBSAMPLE = 1000


def prompt_transfer(
    activations: Mapping[str, Float[np.ndarray, "city p"]],
    xy: Float[np.ndarray, "city 2"],
    fold: Int[np.ndarray, "city"],
) -> Float[np.ndarray, "fitted read"]:
    """R2 of a probe fitted in one prompt and read in another, in their order, always on held-out cities.

    The paper saw R2 .95 in the prompt trained on and -.2 in another, and mixed prompts between seeds; this is
    the size of that confound.
    """
    prompts = list(activations.values())
    decoded = np.empty((len(prompts), len(prompts), len(xy), 2))
    for i, fitted in enumerate(prompts):
        for held in np.unique(fold):
            test = fold == held
            probe = Decomposed(fitted[~test]).best(xy[~test])
            for j, read in enumerate(prompts):
                decoded[i, j, test] = probe.predict(read[test])
    return np.array([[score(cell, xy).r2 for cell in row] for row in decoded])


def region_scores(
    x: Float[np.ndarray, "city p"],
    xy: Float[np.ndarray, "city 2"],
    region: np.ndarray,
    decoded: Float[np.ndarray, "city 2"],
) -> tuple[list[Row], float | None]:
    """A row for each region, and the R2 over all cities when each is decoded without its region; nothing in a
    world of one region.

    `decoded`: held-out places by random folds. Errors in tenths of a degree: with the region's other cities
    in the training set (`error`), with the whole region held out (`error_held_out`), and of the mean place of
    all other regions (`error_constant`).
    """
    if len(set(region.tolist())) < 2:
        return [], None
    fold = region_folds(region)
    without = cross_decode(x, xy[None], fold)[0]
    inside, outside = place_errors(decoded, xy), place_errors(without, xy)
    rows = []
    for held in np.unique(fold):
        here = fold == held
        constant = np.linalg.norm(xy[here] - xy[~here].mean(axis=0), axis=1)
        rows.append(
            {"region": str(region[here][0]), "n": int(here.sum()), "error": float(inside[here].mean())}
            | {"error_held_out": float(outside[here].mean()), "error_constant": float(constant.mean())}
        )
    return rows, score(without, xy).r2


REPEATS = 5


def learning_curve(
    x: Float[np.ndarray, "city p"],
    xy: Float[np.ndarray, "city 2"],
    rng: np.random.Generator,
    *,
    sizes: Sequence[int] | None = None,
) -> list[dict[str, float | int]]:
    """R2 and median error on a fifth of the cities, for growing numbers of training cities (mean, lowest and
    highest R2 over REPEATS random draws).
    """
    n_test = len(xy) // 5
    most = len(xy) - n_test
    wanted = sizes or [size for size in (10, 20, 40, 80, 160, 320, 640, 1280, 2560) if size < most] + [most]
    rows = []
    for size in wanted:
        if not 3 <= size <= most:
            raise AnalysisError(f"{size} training cities were asked for, 3 to {most} are there")
        found = []
        for _ in range(REPEATS):
            order = rng.permutation(len(xy))
            test, train = order[:n_test], order[n_test : n_test + size]
            probe = Decomposed(x[train]).best(xy[train])
            found.append(score(probe.predict(x[test]), xy[test]))
        r2, medians = [one.r2 for one in found], [one.error_median for one in found]
        rows.append(
            {"n_train": size, "r2": float(np.mean(r2)), "r2_lowest": min(r2), "r2_highest": max(r2)}
            | {"error_median": float(np.mean(medians))}
        )
    return rows


def nonlinear_decode(
    x: Float[np.ndarray, "city p"],
    places: Float[np.ndarray, "draw city 2"],
    fold: Int[np.ndarray, "city"],
    *,
    seed: int = 0,
) -> Float[np.ndarray, "draw city 2"]:
    """Held-out places by kernel ridge regression (RBF, on at most 400 Nystroem features beside the linear
    ones), width and penalty chosen by leave-one-out inside the training folds, for each set of places by
    itself.
    """
    from sklearn.kernel_approximation import Nystroem

    decoded = np.empty(places.shape)
    for held in np.unique(fold):
        test = fold == held
        train = x[~test]
        some = train[np.random.default_rng(seed).permutation(len(train))[:SUBSAMPLE]]
        scale = float(np.median(pdist(some)))
        if scale == 0:
            raise AnalysisError("more than half of the pairs of cities have the same features")
        best = np.full(len(places), np.inf)
        for width in WIDTHS:
            gamma, most = 1 / (2 * (width * scale) ** 2), min(len(train), LANDMARKS)
            bumps = Nystroem(gamma=gamma, n_components=most, random_state=seed).fit(train)
            features, seen = Decomposed(_bumpy(bumps, train, scale)), _bumpy(bumps, x[test], scale)
            for draw, targets in enumerate(places[:, ~test]):
                probe, errors = features.judged(targets)
                error = float(errors.sum(axis=1).min())
                if error < best[draw]:
                    best[draw], decoded[draw, test] = error, probe.predict(seen)
    return decoded


def _bumpy(
    bumps: "Nystroem", x: Float[np.ndarray, "row p"], scale: float
) -> Float[np.ndarray, "row feature"]:
    return np.concatenate([x / scale, bumps.transform(x)], axis=1)


def code_length(
    x: Float[np.ndarray, "city p"], xy: Float[np.ndarray, "city 2"], rng: np.random.Generator
) -> tuple[float, float]:
    """Bits a city that the places cost, given the activations; and without them (uniform over the rectangle).

    Prequential code of Voita and Titov 2020 (arXiv 2003.12298): cities arrive in random order, in blocks that
    double; each block is coded by a ridge probe fitted on all earlier ones, as a Gaussian with the probe's
    leave-one-out variance, at a precision of a tenth of a degree. The first block has the uniform code.
    """
    order = rng.permutation(len(xy))
    x, xy = x[order], xy[order]
    uniform = float(np.sum(np.log2(np.maximum(np.ptp(xy, axis=0), 1.0))))
    start = max(8, len(xy) // 64)
    bits = uniform * start
    while start < len(xy):
        stop = min(2 * start, len(xy))
        probe, errors = Decomposed(x[:start]).judged(xy[:start])
        variance = np.maximum(errors.min(axis=0), 1.0 / 12)
        left = xy[start:stop] - probe.predict(x[start:stop])
        gauss = 0.5 * np.log2(2 * np.pi * variance) + left**2 / (2 * variance) * np.log2(np.e)
        # A block may always be sent uniformly instead: one bit says so.
        bits += min(float(gauss.sum()), uniform * (stop - start)) + 1
        start = stop
    return bits / len(xy), uniform


def new_city_errors(
    x: Float[np.ndarray, "city p"],
    xy: Float[np.ndarray, "city 2"],
    is_new: Bool[np.ndarray, "city"],
    rng: np.random.Generator,
    *,
    method: Method = "ridge",
    decomposed: Decomposed | None = None,
) -> dict[str, float | int]:
    """Errors of new cities, in tenths of a degree, decoded by a probe fitted on the old ones only
    (`decomposed`, where the caller has them).

    `error_mean` with a bootstrap interval over new cities (`lo`, `hi`), `error_median`; controls:
    `error_shuffled`, a probe fitted on shuffled places, and `error_constant`, the mean place of training
    cities.
    """
    old = decomposed or Decomposed(x[~is_new])
    errors, by_chance = (
        place_errors(old.map(places, method).predict(x[is_new]), xy[is_new])
        for places in (xy[~is_new], rng.permutation(xy[~is_new]))
    )
    constant = np.linalg.norm(xy[is_new] - xy[~is_new].mean(axis=0), axis=1)
    row: dict[str, float | int] = {"n_new": int(errors.size), "error_mean": float(errors.mean())}
    if errors.size > 1:
        found = bootstrap(lambda rows: float(errors[rows].mean()), errors.size, rng, draws=400)
        row |= found.ends
    return row | {
        "error_median": float(np.median(errors)),
        "error_shuffled": float(by_chance.mean()),
        "error_constant": float(constant.mean()),
    }
