"""The world manifold on planted activations, where map, displacement and noise are known."""

from dataclasses import dataclass

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf
from sklearn.kernel_approximation import Nystroem

from cwr_mech.analysis.manifold import manifold as manifold_module
from cwr_mech.analysis.manifold.bases import (
    fit_space,
    leading_directions,
    random_basis,
    random_basis_like,
    tangent_bases,
)
from cwr_mech.analysis.manifold.bumps import fit_bumps, shrunk_covariance
from cwr_mech.analysis.manifold.manifold import Manifold, fit_manifold
from cwr_mech.analysis.manifold.placement import (
    Displacement,
    excess,
    place_each,
)
from cwr_mech.analysis.probing.probe import place_errors, random_folds
from cwr_mech.analysis.stats.subspaces import energy
from cwr_mech.errors import AnalysisError

NOISE = 0.3


@dataclass(frozen=True)
class Planted:
    """Activations made from a known map; new cities are written `along` away, and `off` out of its span."""

    x: np.ndarray
    xy: np.ndarray
    is_new: np.ndarray
    clean: np.ndarray
    span: np.ndarray


def plant(
    seed: int,
    *,
    n: int = 100,
    new: int = 30,
    p: int = 16,
    off: float = 0.0,
    along: tuple[float, float] = (0, 0),
) -> Planted:
    rng = np.random.default_rng(seed)
    xy = rng.uniform([-1600, -500], [1700, 700], (n + new, 2))
    straight, waves = rng.normal(size=(2, p)) / 600, rng.normal(size=(4, p)) * 0.7
    phase, speed = rng.uniform(0, 6, 4), rng.normal(size=(2, 4)) / 900
    is_new = np.arange(n + new) >= n
    written = xy + is_new[:, None] * np.array(along)
    clean = written @ straight + np.sin(written @ speed + phase) @ waves
    span = np.linalg.qr(np.concatenate([straight, waves]).T)[0]
    hidden = rng.normal(size=p)
    hidden -= span @ (span.T @ hidden)
    clean = clean + is_new[:, None] * off * hidden / np.linalg.norm(hidden)
    return Planted(clean + NOISE * rng.normal(size=clean.shape), xy, is_new, clean, span)


@pytest.fixture(scope="module")
def world() -> Planted:
    return plant(0)


@pytest.fixture(scope="module")
def manifold(world: Planted) -> Manifold:
    return fit_manifold(world.x[~world.is_new], world.xy[~world.is_new])


def displaced(seed: int, *, off: float, along: tuple[float, float]) -> Displacement:
    planted = plant(seed, off=off, along=along)
    fold = random_folds(100, np.random.default_rng(0), k=4)
    return place_each([planted.x], planted.xy, planted.is_new, fold)[0]


def test_map_recovers_the_planted_one_and_its_share_of_variance(world: Planted, manifold: Manifold) -> None:
    new = world.is_new
    left = np.sqrt(np.mean((manifold.map(world.xy[new]) - world.clean[new]) ** 2))
    assert left < NOISE  # closer to the truth than one noisy observation, at places never seen
    old = ~new
    truth = 1 - NOISE**2 * 16 / np.mean(np.sum((world.x[old] - world.x[old].mean(0)) ** 2, axis=1))
    assert manifold.variance == pytest.approx(truth, abs=0.03)


def test_nothing_is_a_function_of_shuffled_places(world: Planted) -> None:
    rng = np.random.default_rng(1)
    old = ~world.is_new
    shuffled = fit_manifold(world.x[old], rng.permutation(world.xy[old]))
    assert shuffled.variance < 0.02
    assert fit_manifold(world.x[old], world.xy[old]).variance > 0.8


@pytest.mark.parametrize("most", [400, 50])
def test_bumps_are_scikit_learns_nystroem_features(most: int) -> None:
    places, others = np.random.default_rng(0).normal(size=(2, 90, 2))
    ours = fit_bumps(places, 0.4, most=most, seed=3)
    theirs = Nystroem(gamma=1 / (2 * 0.4**2), n_components=min(most, 90), random_state=3).fit(places)
    np.testing.assert_array_equal(ours.landmarks, theirs.components_)
    np.testing.assert_array_equal(ours.mixing, theirs.normalization_.T)
    np.testing.assert_allclose(ours.features(others)[:, 2:], theirs.transform(others), atol=1e-10)
    other = fit_bumps(places, 0.4, most=most, seed=4)
    assert not np.allclose(other.features(others)[:, 2:], theirs.transform(others), atol=1e-2)


@pytest.mark.parametrize("shape", [(40, 5), (30, 60), (8, 1)])
def test_the_covariance_is_scikit_learns(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(1).normal(size=shape) * np.linspace(1, 4, shape[1])
    expected, _ = ledoit_wolf(x)
    np.testing.assert_allclose(shrunk_covariance(x), expected, rtol=1e-12, atol=1e-14)
    assert shape[1] == 1 or not np.allclose(np.cov(x.T, bias=True), expected, rtol=1e-2)


def test_tangents_are_the_derivative_of_the_map(world: Planted, manifold: Manifold) -> None:
    places, step = world.xy[:7], 1e-2
    numeric = np.stack(
        [
            (manifold.map(places + step * axis) - manifold.map(places - step * axis)) / (2 * step)
            for axis in np.eye(2)
        ],
        axis=-1,
    )
    np.testing.assert_allclose(manifold.tangents(places), numeric, atol=1e-6)
    bases = tangent_bases(manifold, places)
    np.testing.assert_allclose(
        np.einsum("cpk,cpl->ckl", bases, bases), np.tile(np.eye(2), (7, 1, 1)), atol=1e-12
    )
    inside = np.einsum("cpk,cp->ck", bases, manifold.tangents(places)[:, :, 0])
    np.testing.assert_allclose(
        np.sum(inside**2, axis=1), np.sum(manifold.tangents(places)[:, :, 0] ** 2, axis=1), rtol=1e-9
    )


@pytest.mark.parametrize("metric", ["euclidean", "residual"])
def test_nearest_point_is_the_nearest(world: Planted, metric: str) -> None:
    old = ~world.is_new
    fitted = fit_manifold(world.x[old], world.xy[old], metric=metric)
    place, off = fitted.nearest(world.x[:20])
    low, high = fitted.candidates.min(0), fitted.candidates.max(0)
    grid = np.stack(np.meshgrid(*(np.linspace(a, b, 120) for a, b in zip(low, high, strict=True))), -1)
    white = np.eye(16) if fitted.whiten is None else fitted.whiten.T
    on_map = fitted.map(grid.reshape(-1, 2)) @ white
    brute = np.sqrt(((world.x[:20, None] @ white - on_map[None]) ** 2).sum(-1).min(axis=1))
    assert (off <= brute + 1e-9).all()
    np.testing.assert_allclose(off, brute, rtol=0.03)
    again = np.linalg.norm((world.x[:20] - fitted.map(place)) @ white, axis=1)
    np.testing.assert_allclose(off, again, rtol=1e-9)


def test_points_of_the_map_are_found_on_it(world: Planted, manifold: Manifold) -> None:
    places = world.xy[world.is_new]
    place, off = manifold.nearest(manifold.map(places))
    assert np.median(place_errors(place, places)) < 1
    assert np.median(off) < 1e-3


DISPLACED = [
    # off (units of activation), along (tenths of a degree)
    (2.0, (0.0, 0.0)),
    (0.0, (200.0, 100.0)),
    (2.0, (200.0, 100.0)),
]


@pytest.mark.parametrize(("off", "along"), DISPLACED)
def test_misplaced_and_off_the_map_are_told_apart(off: float, along: tuple[float, float]) -> None:
    found = displaced(3, off=off, along=along)
    misplaced, away = (f(np.random.default_rng(0)) for f in (found.excess_along, found.excess_off))
    assert misplaced.covers(float(np.hypot(*along)))
    assert away.covers(off)
    assert (misplaced.lo > 50) == (along != (0.0, 0.0))
    assert (away.lo > 1) == (off > 0)
    assert (np.median(found.off_ratio()) > 1.3) == (off > 0)


def test_intervals_cover_the_planted_displacements() -> None:
    held = []
    for seed in range(16):
        found = displaced(100 + seed, off=1.5, along=(150.0, 80.0))
        rng = np.random.default_rng(seed)
        held.append((found.excess_along(rng).covers(170.0), found.excess_off(rng).covers(1.5)))
    assert np.mean(held) >= 0.85  # 32 checks of 95 %; 200 draws are counted by the slow test below


def test_noise_and_share_of_place_are_recovered(world: Planted, manifold: Manifold) -> None:
    old = ~world.is_new
    clean = world.clean[old] - world.clean[old].mean(axis=0)
    truth = 1 - 16 * NOISE**2 / (np.sum(clean**2) / 99 + 16 * NOISE**2)
    assert manifold.noise.covers(NOISE)
    assert manifold.share.covers(truth)
    assert manifold.noise.hi - manifold.noise.lo < 0.05
    assert manifold.variance < manifold.share.value  # what the map foretells holds its own error, too
    shuffled = fit_manifold(world.x[old], np.random.default_rng(1).permutation(world.xy[old]))
    assert shuffled.share.lo <= 0
    assert shuffled.noise.value > 2 * NOISE  # nothing is a function of place: all of it is noise


@pytest.mark.slow
def test_instruments_cover_the_planted_truth_95_in_100() -> None:
    """200 planted worlds: error along the map, displacement off it, noise, share of place; and no claim where
    nothing was moved or places are shuffled.
    """
    held: dict[str, list[bool]] = {
        name: [] for name in ("along", "off", "no along", "no off", "noise", "share")
    }
    silent = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        for prefix, off, along in (("", 1.5, (150.0, 80.0)), ("no ", 0.0, (0.0, 0.0))):
            found = displaced(1000 + seed, off=off, along=along)
            held[f"{prefix}along"].append(found.excess_along(rng).covers(float(np.hypot(*along))))
            held[f"{prefix}off"].append(found.excess_off(rng).covers(off))
        planted = plant(1000 + seed)
        old = ~planted.is_new
        x, xy, clean = planted.x[old], planted.xy[old], planted.clean[old] - planted.clean[old].mean(axis=0)
        fitted = fit_manifold(x, xy)
        held["noise"].append(fitted.noise.covers(NOISE))
        truth = 1 - 16 * NOISE**2 / (np.sum(clean**2) / 99 + 16 * NOISE**2)
        held["share"].append(fitted.share.covers(float(truth)))
        silent.append(fit_manifold(x, rng.permutation(xy)).share.lo <= 0)
    shares = {name: np.mean(values) for name, values in held.items()} | {"silent": np.mean(silent)}
    assert min(shares.values()) >= 0.92, shares


def test_residual_metric_sees_a_step_into_a_quiet_direction() -> None:
    """Ordinary cities vary much in one direction that is not place: Euclidean distance drowns in it."""
    planted = plant(5, off=1.0)
    rng = np.random.default_rng(0)
    loud = np.linalg.qr(np.concatenate([planted.span, rng.normal(size=(16, 1))], axis=1))[0][:, -1]
    # Orthogonal to the hidden direction, too: the step itself stays in a quiet one.
    step = (planted.clean[planted.is_new] - plant(5).clean[planted.is_new])[0]
    loud -= step * (loud @ step) / (step @ step)
    x = planted.x + 4 * rng.normal(size=(len(planted.x), 1)) * loud
    fold = random_folds(100, np.random.default_rng(0), k=4)
    lowest = {
        metric: place_each([x], planted.xy, planted.is_new, fold, metric=metric)[0]
        .excess_off(np.random.default_rng(0))
        .lo
        for metric in ("euclidean", "residual")
    }
    assert lowest["euclidean"] < 0 < lowest["residual"]


def test_bases_hold_what_they_are_named_for(world: Planted) -> None:
    old = ~world.is_new
    x, xy = world.x[old], world.xy[old]
    space = fit_space(x, xy, 3)
    for columns in space.bases.values():
        np.testing.assert_allclose(columns.T @ columns, np.eye(columns.shape[1]), atol=1e-12)
    assert [columns.shape[1] for columns in space.bases.values()] == [3, 3, 2]
    # The map's own directions lie in the planted span; a random subspace of that rank does not.
    on_map = fit_space(x, xy).bases["manifold"]
    other = random_basis(16, on_map.shape[1], np.random.default_rng(0))
    assert np.mean(np.sum((world.span.T @ on_map) ** 2, axis=0)) > 0.95
    assert np.mean(np.sum((world.span.T @ other) ** 2, axis=0)) < 0.7
    assert np.array_equal(on_map, space.bases["manifold"][:, : on_map.shape[1]])
    values = np.linalg.eigvalsh((x - x.mean(0)).T @ (x - x.mean(0)))[::-1]
    assert energy(x - x.mean(0), space.bases["pca"]).share == pytest.approx(values[:3].sum() / values.sum())


def test_random_subspaces_hold_rank_over_width_and_more_where_activations_vary() -> None:
    rng = np.random.default_rng(0)
    basis, vectors = random_basis(40, 10, rng), rng.normal(size=(3000, 40))
    assert energy(vectors, basis).share == pytest.approx(10 / 40, abs=0.01)
    # Drawn with the data's covariance, a random subspace leans to where the data vary.
    stretched = vectors * np.linspace(3, 0.1, 40)
    like = random_basis_like(stretched, 10, rng)
    assert energy(stretched, like).share > energy(stretched, basis).share + 0.1


def test_in_sample_bases_inflate_the_share() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 50))
    half = leading_directions(x[:30] - x[:30].mean(0), 5)
    shares = [np.sum((part @ half) ** 2) / np.sum(part**2) for part in (x[:30], x[30:])]
    assert shares[0] > 0.2
    assert shares[1] == pytest.approx(5 / 50, abs=0.03)


BAD = [
    (lambda w: fit_manifold(w.x[:10], w.xy[:10]), AnalysisError, "10 cities are too few to fit a manifold"),
    (lambda w: fit_manifold(w.x, np.ones_like(w.xy)), AnalysisError, "all cities stand at one place"),
    (lambda w: fit_manifold(np.ones_like(w.x), w.xy), AnalysisError, "the same for every city"),
    (lambda w: fit_manifold(np.full_like(w.x, np.nan), w.xy), AnalysisError, "NaN or infinite"),
    (lambda w: fit_space(w.x, w.xy, 17), AnalysisError, "rank 17 was asked for"),
    (
        lambda w: excess(w.x[None, :, 0], w.x[:, 0], np.random.default_rng(0)),
        AnalysisError,
        "at least 2 maps",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input_gives_one_line(call, error, message, world: Planted) -> None:
    with pytest.raises(error, match=message):
        call(world)


def test_layers_placed_together_are_placed_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    planted, other = plant(0), plant(1)
    fold = random_folds(100, np.random.default_rng(0), k=4)
    layers = [planted.x, planted.x + other.x, np.random.default_rng(3).normal(size=planted.x.shape)]
    made: list[int] = []
    plain = manifold_module.Decomposed
    monkeypatch.setattr(manifold_module, "Decomposed", lambda x: made.append(len(x)) or plain(x))
    manifold_module._features_of_places.cache_clear()
    together = place_each(layers, planted.xy, planted.is_new, fold)
    assert len(made) == 4 * len(manifold_module.WIDTHS), "places of a fold are decomposed once for all layers"
    for layer, found in zip(layers, together, strict=True):
        (alone,) = place_each([layer], planted.xy, planted.is_new, fold)
        assert np.array_equal(found.place, alone.place)
        assert np.array_equal(found.new_off, alone.new_off)
    assert not np.array_equal(together[0].off, together[1].off), "control: layers differ"
