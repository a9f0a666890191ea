"""Probes on planted maps: what they find, what they must not find, and by which second route."""

import mpmath
import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge, RidgeCV
from sklearn.metrics import r2_score

from cwr_mech.analysis.erasure import erasure
from cwr_mech.analysis.probing.controls import (
    code_length,
    learning_curve,
    new_city_errors,
    nonlinear_decode,
    prompt_transfer,
    region_scores,
)
from cwr_mech.analysis.probing.probe import (
    cross_decode,
    probe,
    r2_interval,
    r_squared,
    random_folds,
    region_folds,
    score,
)
from cwr_mech.analysis.selection import bag_of_digits, digits_in_place
from cwr_mech.analysis.stats.intervals import bootstrap
from cwr_mech.analysis.stats.ridge import PENALTIES, Decomposed, fit_linear
from cwr_mech.config import ModelConfig
from cwr_mech.data.rows import generate
from cwr_mech.errors import AnalysisError
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.world.cities import load_world


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def mapped(seed: int = 0, *, n: int = 120, p: int = 20, noise: float = 50.0) -> tuple[np.ndarray, np.ndarray]:
    """Activations that hold the places linearly, among louder things that have nothing to do with them."""
    source = rng(seed)
    xy = source.uniform([-1600, -500], [1700, 700], (n, 2))
    directions = np.linalg.qr(source.normal(size=(p, 2)))[0]
    x = (xy + noise * source.normal(size=(n, 2))) @ directions.T + 3.0
    return x + source.normal(size=(n, p)) * 20, xy


@pytest.mark.parametrize(("n", "p"), [(90, 12), (30, 60)])
def test_ridge_is_scikit_learns(n: int, p: int) -> None:
    source = rng(n)
    x = source.normal(size=(n, p)) * source.lognormal(size=p) + 4
    y = x[:, :3] @ source.normal(size=(3, 2)) + source.normal(size=(n, 2)) - 7
    features = Decomposed(x)
    for penalty in (1e-3, 0.1, 10.0):
        expected = Ridge(alpha=penalty * features.unit, solver="svd").fit(x, y)
        np.testing.assert_allclose(features.fit(y, penalty).predict(x), expected.predict(x), atol=1e-8)
        np.testing.assert_allclose(features.fit(y, penalty).weights.T, expected.coef_, atol=1e-8)
    np.testing.assert_allclose(
        fit_linear(x, y, method="ols").predict(x), LinearRegression().fit(x, y).predict(x), atol=1e-8
    )
    grid = PENALTIES[PENALTIES > 1e-5]
    chosen = RidgeCV(alphas=grid * features.unit, store_cv_results=True, gcv_mode="svd").fit(x, y)
    np.testing.assert_allclose(features.leave_one_out(y, grid), chosen.cv_results_.mean(axis=0).T, rtol=1e-6)
    assert features.best(y, grid).penalty * features.unit == pytest.approx(chosen.alpha_)


def test_noise_power_is_unbiased_where_the_fit_can_hold_the_truth() -> None:
    """OLS: the classical residual sum of squares over n - p - 1. Ridge: right on average over draws."""
    source = rng(3)
    x = source.normal(size=(40, 8))
    weights = source.normal(size=(8, 3))
    features = Decomposed(x)
    y = x @ weights + 2 * source.normal(size=(40, 3))
    left = y - LinearRegression().fit(x, y).predict(x)
    assert features.noise_power(y, 0.0).mean() == pytest.approx(np.sum(left**2) / (40 - 9), rel=0.1)
    draws = [features.noise_power(2 * source.normal(size=(40, 3)), 0.5).mean() for _ in range(400)]
    assert np.mean(draws) == pytest.approx(3 * 4, rel=0.02)


def test_leave_one_out_is_what_it_says() -> None:
    x, xy = mapped(n=25, p=6)
    features = Decomposed(x)
    penalty = 0.3
    left = []
    for city in range(25):
        others = np.arange(25) != city
        # The penalty is in units of the features given, so the same absolute one is asked for here.
        model = Ridge(alpha=penalty * features.unit).fit(x[others], xy[others])
        left.append((model.predict(x[city : city + 1])[0] - xy[city]) ** 2)
    np.testing.assert_allclose(
        features.leave_one_out(xy, np.array([penalty]))[0], np.mean(left, axis=0), rtol=1e-9
    )


@pytest.mark.parametrize(("n", "p", "rank"), [(40, 12, 12), (20, 30, 30), (20, 30, 9), (40, 12, 7)])
def test_pooled_errors_are_the_sum_over_the_targets(n: int, p: int, rank: int) -> None:
    source = rng(n + rank)
    x = source.normal(size=(n, rank)) @ source.normal(size=(rank, p))
    features = Decomposed(x)
    for q, penalties in ((70, PENALTIES), (3, PENALTIES), (5, PENALTIES[::2])):
        y = x @ source.normal(size=(p, q)) + source.normal(size=(n, q))
        expected = features.leave_one_out(y, penalties).sum(axis=1)
        np.testing.assert_allclose(features.pooled_errors(y, penalties), expected, rtol=1e-11)


def test_leave_one_out_keeps_its_digits_with_fewer_cities_than_features() -> None:
    # Residual and 1 - leverage are then both near 1e-8: as differences from 1 they have eight digits, not 15.
    x, xy = mapped(n=12, p=30)
    features = Decomposed(x)
    with mpmath.workdps(40):
        ones = mpmath.matrix([[mpmath.mpf(1)] * 12]).T / 12
        moved = mpmath.matrix(x.tolist()) - 12 * ones * (ones.T * mpmath.matrix(x.tolist()))
        places = mpmath.matrix(xy.tolist()) - 12 * ones * (ones.T * mpmath.matrix(xy.tolist()))
        kernel = moved * moved.T
        unit = sum(kernel[i, i] for i in range(12)) / 12
        exact = []
        for penalty in PENALTIES[:3]:
            added = float(penalty) * unit
            # Residual of the kernel form, added (K + added I)^-1 y, by 1 - leverage on the same diagonal.
            inverse = added * (kernel + added * mpmath.eye(12)) ** -1
            left = inverse * places
            spared = [inverse[i, i] - mpmath.mpf(1) / 12 for i in range(12)]
            exact.append([float(sum((left[i, k] / spared[i]) ** 2 for i in range(12)) / 12) for k in (0, 1)])
    np.testing.assert_allclose(features.leave_one_out(xy, PENALTIES[:3]), exact, rtol=1e-12)
    # What was computed before: y - fit by 1 - 1/n - sum u^2 shrunk.
    shrunk = features._shrunk(float(PENALTIES[0]))
    centred = xy - xy.mean(axis=0)
    by_difference = centred - features._u @ (shrunk[:, None] * (features._u.T @ centred))
    by_difference /= (1 - 1 / 12 - features._u**2 @ shrunk)[:, None]
    assert np.abs(np.mean(by_difference**2, axis=0) / exact[0] - 1).max() > 1e-10


def test_ridge_does_not_see_a_rotation_or_a_scale() -> None:
    x, xy = mapped()
    turn = np.linalg.qr(rng(1).normal(size=(20, 20)))[0]
    fold = random_folds(120, rng(2))
    before = cross_decode(x, xy[None], fold)
    np.testing.assert_allclose(cross_decode(1e3 * x @ turn + 5, xy[None], fold), before, atol=1e-5)


def test_scores_are_scikit_learns() -> None:
    x, xy = mapped()
    decoded = cross_decode(x, xy[None], random_folds(120, rng()))[0]
    found = score(decoded, xy)
    assert (found.r2_x, found.r2_y) == pytest.approx(tuple(r2_score(xy, decoded, multioutput="raw_values")))
    assert found.error_median == pytest.approx(np.median(np.hypot(*(decoded - xy).T)))
    assert np.isnan(score(xy, np.ones_like(xy)).r2)


def test_the_interval_of_r2_is_that_of_scoring_every_draw() -> None:
    xy = rng(1).normal(size=(40, 2)) * 300 + 2000
    decoded = xy + rng(2).normal(size=xy.shape) * 80
    plain = bootstrap(lambda rows: r_squared(decoded[rows], xy[rows]), 40, rng(3), draws=200)
    found = r2_interval(decoded, xy, rng(3), draws=200)
    assert (found.value, *found.ends.values()) == pytest.approx(
        (plain.value, *plain.ends.values()), abs=1e-12
    )
    assert r2_interval(decoded + 50, xy, rng(3), draws=200).value < found.value - 0.01, "control"
    assert np.isnan(r2_interval(decoded, np.zeros_like(xy), rng(3), draws=200).value)


def test_no_city_is_decoded_by_a_probe_that_saw_it() -> None:
    """Wide features fit any training set: held-out scores of shuffled places must still be chance."""
    x, xy = rng(0).normal(size=(80, 200)), rng(1).normal(size=(80, 2))
    fold = random_folds(80, rng(2))
    assert score(cross_decode(x, xy[None], fold, method="ols")[0], xy).r2 < 0.05
    assert score(fit_linear(x, xy, method="ols").predict(x), xy).r2 > 0.999


def test_probe_finds_the_planted_map_and_its_controls_do_not() -> None:
    x, xy = mapped()
    decoded, found = probe(x, xy, random_folds(120, rng(3)), rng(4), draws=20)
    # Noise of 50 a coordinate on a map: no unbiased read-out has a smaller mean error.
    assert 50 < found["error_mean"] < 90
    assert found["r2"] == score(decoded, xy).r2 > 0.97
    assert found["control_r2_shuffled"] <= found["control_r2_shuffled_max"] < 0.15
    assert found["control_r2_random"] < 0.1
    assert found["selectivity"] == found["r2"] - found["control_r2_random"] > 0.85
    _, nothing = probe(rng(9).normal(size=x.shape), xy, random_folds(120, rng(3)), rng(4), draws=20)
    assert nothing["r2"] < 0.1
    assert nothing["r2"] < nothing["control_r2_shuffled_max"]


def test_error_of_the_probe_covers_the_planted_noise() -> None:
    """Known noise: the held-out error, less what estimation adds, is the noise of the map."""
    errors = [
        score(cross_decode(x, xy[None], random_folds(400, rng(s)))[0], xy).error_mean
        for s in range(5)
        for x, xy in [mapped(s, n=400, noise=80.0)]
    ]
    rayleigh = np.sqrt((80**2 + 20**2) * np.pi / 2)
    assert np.mean(errors) == pytest.approx(rayleigh, rel=0.06)


def test_new_cities_written_elsewhere_are_decoded_there() -> None:
    x, xy = mapped(n=150, noise=10.0)
    is_new = np.arange(150) >= 130
    shift = np.array([400.0, 0.0])
    moved = xy - is_new[:, None] * shift  # the model writes them at xy, they truly lie at `moved`
    row = new_city_errors(x, moved, is_new, rng(1))
    assert row["error_mean"] == pytest.approx(400, rel=0.05)
    assert row["lo"] < row["error_mean"] < row["hi"]
    known = new_city_errors(x, xy, is_new, rng(1))
    assert known["error_mean"] < 60 < min(known["error_shuffled"], known["error_constant"])


def test_region_hold_outs_see_what_random_folds_hide() -> None:
    """Each region has its own offset: with a region's cities in training it can be learnt, without it
    cannot.
    """
    source = rng(0)
    xy = source.uniform(-500, 500, (160, 2))
    region = np.array([f"r{int(x > 0)}{int(y > 0)}" for x, y in xy])
    _, index = np.unique(region, return_inverse=True)
    x = np.concatenate([xy / 100 + source.normal(size=(4, 2))[index] * 9, np.eye(4)[index]], axis=1)
    x += 0.05 * source.normal(size=x.shape)
    decoded = cross_decode(x, xy[None], random_folds(160, source))[0]
    rows, r2 = region_scores(x, xy, region, decoded)
    assert [row["region"] for row in rows] == ["r00", "r01", "r10", "r11"]
    assert sum(row["n"] for row in rows) == 160
    assert r2 < 0.8 < score(decoded, xy).r2
    assert all(row["error"] < row["error_held_out"] for row in rows)
    with pytest.raises(AnalysisError, match="all cities are in one region"):
        region_folds(np.array(["a", "a"]))


def test_prompt_transfer_tells_one_code_from_two() -> None:
    x, xy = mapped()
    other = mapped(5)[0]
    turned = x @ np.linalg.qr(rng(8).normal(size=(20, 20)))[0]
    fold = random_folds(120, rng())
    same = prompt_transfer({"a": x, "b": x + rng(1).normal(size=x.shape)}, xy, fold)
    assert same.min() > 0.9
    different = prompt_transfer({"a": x, "b": turned, "c": other}, xy, fold)
    assert different[1, 1] > 0.9
    assert different[0, 1] < 0.3
    assert different[2, 2] < 0.1


def test_learning_curve_rises_and_says_how_many() -> None:
    x, xy = mapped(n=300)
    rows = learning_curve(x, xy, rng(0))
    assert [row["n_train"] for row in rows] == [10, 20, 40, 80, 160, 240]
    assert rows[0]["r2"] < rows[-1]["r2"]
    assert rows[-1]["r2_lowest"] <= rows[-1]["r2"] <= rows[-1]["r2_highest"]
    with pytest.raises(AnalysisError, match="9999 training cities"):
        learning_curve(x, xy, rng(0), sizes=[9999])


def test_nonlinear_probe_reads_a_folded_map_that_a_linear_one_cannot() -> None:
    source = rng(0)
    xy = source.uniform(-1, 1, (300, 2))
    waves = np.concatenate([np.cos(2.9 * xy), np.sin(2.9 * xy)], axis=1) @ source.normal(size=(4, 10))
    fold = random_folds(300, rng(1))
    linear = score(cross_decode(waves, xy[None], fold)[0], xy).r2
    shuffled = source.permutation(xy)
    bent, chance = nonlinear_decode(waves, np.stack([xy, shuffled]), fold)
    assert score(bent, xy).r2 > 0.9
    assert linear < 0.8
    assert score(chance, shuffled).r2 < 0.05
    # Each set of places chooses its own width and penalty, whatever it is decoded beside.
    np.testing.assert_allclose(nonlinear_decode(waves, xy[None], fold)[0], bent, rtol=1e-9)


def test_code_length_of_a_map_is_short_and_of_noise_is_not() -> None:
    x, xy = mapped(n=400, noise=20.0)
    bits, uniform = code_length(x, xy, rng(0))
    assert uniform == pytest.approx(np.log2(3300 * 1200), abs=0.1)
    ideal = np.log2(2 * np.pi * np.e * (20**2 + 20**2))
    assert ideal < bits < ideal + 3
    noise, _ = code_length(rng(1).normal(size=x.shape), xy, rng(0))
    assert noise > uniform - 0.5


def test_digit_features_know_the_id_and_no_map() -> None:
    ids = np.array([1234, 4321, 77])
    assert bag_of_digits(ids)[0].tolist() == bag_of_digits(ids)[1].tolist() == [0, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert bag_of_digits(ids)[2][[0, 7]].tolist() == [2, 2]
    in_place = digits_in_place(ids)
    assert in_place.shape == (3, 40)
    assert not (in_place[0] == in_place[1]).all()
    world = load_world(n_cities=300, new="none")
    xy = world.xy.astype(np.float64)
    decoded = cross_decode(digits_in_place(world.ids), xy[None], random_folds(300, rng()))[0]
    assert score(decoded, xy).r2 < 0.05


BAD = [
    (lambda: random_folds(9, rng()), "9 cities are too few for 5 folds"),
    (lambda: fit_linear(np.ones((2, 3)), np.ones((2, 2))), "2 cities are too few to fit a probe"),
    (lambda: fit_linear(np.full((9, 3), np.inf), np.ones((9, 2))), "9 of 9 cities have NaN or infinite"),
    (lambda: erasure.fit_leace(np.ones((9, 3)), np.ones((9, 2))), "all cities stand at one place"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_gives_one_line(call, message) -> None:
    with pytest.raises(AnalysisError, match=message):
        call()


def test_constant_features_give_chance_not_a_crash() -> None:
    xy = rng().normal(size=(30, 2))
    assert score(cross_decode(np.ones((30, 4)), xy[None], random_folds(30, rng()))[0], xy).r2 <= 0.01


# Erasure


def leace_by_formula(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Belrose et al. 2023, theorem 4.3: x - W^+ P W (x - mean), W = Sigma^-1/2, P onto W Sigma_xz."""
    xc, zc = x - x.mean(0), z - z.mean(0)
    values, vectors = np.linalg.eigh(xc.T @ xc / len(x))
    white = vectors / np.sqrt(values) @ vectors.T
    u = np.linalg.svd(white @ (xc.T @ zc), full_matrices=False)[0]
    return x - xc @ (white @ u @ u.T @ np.linalg.inv(white))


def test_leace_is_the_papers_formula_and_leaves_nothing_linear() -> None:
    x, xy = mapped(n=200)
    z = (xy - xy.mean(0)) / xy.std(0)
    fitter = erasure.LeaceFitter.fit(torch.from_numpy(x), torch.from_numpy(z), shrinkage=False)
    np.testing.assert_allclose(fitter.eraser(torch.from_numpy(x)).numpy(), leace_by_formula(x, z), atol=1e-8)
    ours = erasure.fit_leace(x, xy)
    package = erasure.LeaceFitter.fit(torch.from_numpy(x), torch.from_numpy(z)).eraser(torch.from_numpy(x))
    np.testing.assert_allclose(ours(x), package.numpy(), atol=1e-8)
    left = erasure.fit_leace(x, xy)(x)
    assert score(fit_linear(left, xy).predict(left), xy).r2 < 0.02
    # Control: a random subspace of the same rank leaves the map where it is.
    random = erasure.fit_condition("random", x, xy, rng())(x)
    assert score(fit_linear(random, xy, method="ols").predict(random), xy).r2 > 0.95
    assert np.linalg.matrix_rank(x - random - (x - random).mean(0)) == 2


@pytest.fixture(scope="module")
def tiny() -> tuple[HookedQwen2, object]:
    config = ModelConfig(n_layers=2, d_model=16, n_heads=2, d_mlp=32)
    return HookedQwen2(config, seed=0).eval(), load_world(n_cities=60, new="none")


@pytest.mark.parametrize("task", ["distance", "inside", "perimeter"])
def test_erasure_acts_at_the_cities_and_nowhere_else(tiny, task: str) -> None:
    model, world = tiny
    rows = generate(world, task, 60, split="test")
    found = erasure.gather(model, world, rows, 0)
    erasers = {name: erasure.fit_condition("random", x, xy, rng()) for name, (x, xy) in found.items()}
    size, picked = next(erasure.by_shape(rows))
    tokens = torch.from_numpy(rows.tokens[picked, : rows.answer_start[picked[0]]].astype(np.int64))
    hook = "blocks.0.hook_resid_post"
    _, clean = model.run_with_cache(tokens)
    with erasure.erased(model, 0, task, world.config.id_digits, erasers):
        _, after = model.run_with_cache(tokens)
    _, again = model.run_with_cache(tokens)
    sites = erasure.city_sites(task, size, world.config.id_digits)
    assert len(sites) == 2 * size
    for site in sites:
        x = clean[hook][:, site.position].double().numpy()
        np.testing.assert_allclose(
            after[hook][:, site.position].double().numpy(), erasers[site.name](x), atol=1e-5
        )
    elsewhere = sorted(set(range(tokens.shape[1])) - {site.position for site in sites})
    assert torch.equal(after[hook][:, elsewhere], clean[hook][:, elsewhere])
    assert torch.equal(again[hook], clean[hook])


def test_what_a_task_loses_is_scaled_by_its_baseline(tiny) -> None:
    model, world = tiny
    rows = erasure.erase_task(model, world, "compass", 0, n_fit=80, n_test=40, seed=0, draws=50)
    assert [row["condition"] for row in rows] == list(erasure.CONDITIONS)
    for row in rows:
        assert row["loss_clean"] == rows[0]["loss_clean"]
        room = row["loss_constant"] - row["loss_clean"]
        expected = (row["loss_erased"] - row["loss_clean"]) / room if room > 0 else np.nan
        assert row["lost"] == pytest.approx(expected, nan_ok=True)
    leace, random = rows[0], rows[1]
    assert leace["variance"] >= 0
    assert random["variance"] > 0


def test_r_squared_is_that_of_scikit_learn_over_both_coordinates() -> None:
    rng = np.random.default_rng(4)
    xy = rng.normal(size=(30, 2)) * [3.0, 1.0] + 5
    decoded = xy + 0.5 * rng.normal(size=(30, 2))
    expected = r2_score(xy, decoded, multioutput="variance_weighted")
    assert r_squared(decoded, xy) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(r_squared(decoded, np.ones_like(xy)))
