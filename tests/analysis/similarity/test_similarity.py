"""CKA and its relatives: two routes to each number, invariances, the bias, and what they refuse."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from scipy.spatial import procrustes
from scipy.spatial.distance import cdist, pdist
from scipy.stats import rankdata, spearmanr
from sklearn.cross_decomposition import CCA

from cwr_mech.analysis.probing import dimension as spectrum
from cwr_mech.analysis.probing.probe import random_folds
from cwr_mech.analysis.similarity import (
    cka as similarity,
)
from cwr_mech.analysis.similarity import (
    feature_products,
    kernels,
    measures,
    neighbours,
    predictivity,
    shape,
)
from cwr_mech.analysis.stats.ridge import Decomposed
from cwr_mech.errors import AnalysisError

TOLERANCE = 1e-8


def related(rng: np.random.Generator, n: int, p: int, q: int) -> tuple[np.ndarray, np.ndarray]:
    """Two representations that share some directions, far from the origin and of unequal scales."""
    x = rng.normal(size=(n, p)) * rng.lognormal(size=p) + 5
    y = x @ rng.normal(size=(p, q)) / p + rng.normal(size=(n, q)) - 3
    return x, y


def structured(rng: np.random.Generator, n: int, p: int, q: int) -> tuple[np.ndarray, np.ndarray]:
    """Two smooth images of one map, with one giant direction, as residual streams have."""
    places = rng.uniform(-1, 1, (n, 2))
    x = np.sin(places @ rng.normal(size=(2, p)) * 3) + 0.1 * rng.normal(size=(n, p))
    y = np.cos(places @ rng.normal(size=(2, q)) * 2) + 0.1 * rng.normal(size=(n, q))
    x[:, 0] *= 50
    return x, y


DATA = [(related, 40, 5, 7), (related, 30, 60, 20), (structured, 80, 16, 12), (structured, 12, 30, 30)]


@pytest.fixture(params=DATA, ids=lambda row: f"{row[0].__name__}-{row[1]}x{row[2]}x{row[3]}")
def pair(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    make, n, p, q = request.param
    return make(np.random.default_rng(7), n, p, q)


# Independent routes to CKA, each after a published text or package, none sharing code with the package.


def kornblith_biased(x: np.ndarray, y: np.ndarray) -> float:
    """Kornblith et al. 2019, eq. 3 and 4, with explicit centring matrices."""
    n = len(x)
    h = np.eye(n) - np.ones((n, n)) / n
    k, m = h @ (x @ x.T) @ h, h @ (y @ y.T) @ h
    return float(np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m)))


def google_debiased(x: np.ndarray, y: np.ndarray) -> float:
    """google-research/representation_similarity, `feature_space_linear_cka(debiased=True)`: its formula."""
    x, y = x - x.mean(0), y - y.mean(0)
    n = len(x)

    def term(xty: float, rx: np.ndarray, ry: np.ndarray) -> float:
        return float(xty - n / (n - 2) * rx @ ry + rx.sum() * ry.sum() / ((n - 1) * (n - 2)))

    rx, ry = (x**2).sum(1), (y**2).sum(1)
    cross = term(np.linalg.norm(x.T @ y) ** 2, rx, ry)
    own = [term(np.linalg.norm(s.T @ s) ** 2, r, r) for s, r in ((x, rx), (y, ry))]
    return cross / np.sqrt(own[0] * own[1])


def song_debiased(x: np.ndarray, y: np.ndarray) -> float:
    """Song et al. 2012, eq. 5, with matrices and ones (the route of platonic-rep's hsic_unbiased)."""

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        n, one = len(k), np.ones(len(k))
        k, m = k.copy(), m.copy()
        np.fill_diagonal(k, 0)
        np.fill_diagonal(m, 0)
        middle = one @ k @ m @ one * 2 / (n - 2)
        return float(
            (np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / (n - 1) / (n - 2) - middle) / n / (n - 3)
        )

    # Centred first: HSIC_1 does not change, but a large mean would cost 6 digits.
    k, m = ((s - s.mean(0)) @ (s - s.mean(0)).T for s in (x, y))
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def test_linear_cka_agrees_with_published_formulas(pair: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = pair
    biased = similarity.linear_cka(x, y, debiased=False)
    debiased = similarity.linear_cka(x, y)
    assert biased == pytest.approx(kornblith_biased(x, y), abs=TOLERANCE)
    assert debiased == pytest.approx(google_debiased(x, y), abs=TOLERANCE)
    assert debiased == pytest.approx(song_debiased(x, y), abs=TOLERANCE)
    for value, flag in ((biased, False), (debiased, True)):
        assert value == pytest.approx(kernels.kernel_cka(x @ x.T, y @ y.T, debiased=flag), abs=1e-6)
    assert abs(biased - debiased) > 1e-4  # the two estimators are not the same one


def test_hsic_1_is_the_average_over_all_quadruples() -> None:
    """Its definition as a U-statistic, by brute force over ordered quadruples of different cities."""
    from itertools import permutations

    x, y = related(np.random.default_rng(0), 7, 2, 3)
    features = [feature_products.prepare(side) for side in (x, y)]
    k, m = (side.x @ side.x.T for side in features)
    terms = [
        k[i, j] * m[i, j] + k[i, j] * m[q, r] - 2 * k[i, j] * m[i, q]
        for i, j, q, r in permutations(range(7), 4)
    ]
    assert similarity.hsic(*features) == pytest.approx(float(np.mean(terms)), abs=1e-12)


def test_matrix_and_jackknife_match_the_single_values(pair: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = pair
    matrix = similarity.linear_cka_matrix([x, y, x[:, ::-1] * 2])
    assert matrix.values[0, 1] == pytest.approx(similarity.linear_cka(x, y), abs=1e-12)
    assert matrix.values[0, 2] == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(np.diag(matrix.values), 1, atol=1e-12)
    without = [similarity.linear_cka(np.delete(x, i, 0), np.delete(y, i, 0)) for i in range(len(x))]
    brute = np.sqrt((len(x) - 1) * np.var(without))
    assert matrix.standard_error[0, 1] == pytest.approx(brute, rel=1e-6)


@pytest.mark.parametrize(("count", "n"), [(40, 45), (3, 45)])
def test_products_of_many_by_rows_are_those_by_features(count: int, n: int) -> None:
    """40 x 8 features are wider than 45 cities: then kernels are streamed by rows, 32 at a time."""
    rng = np.random.default_rng(0)
    reps = [feature_products.prepare(rng.normal(size=(n, 8)) @ rng.normal(size=(8, 8))) for _ in range(count)]
    by_pairs = [[feature_products.squared_product(a, b) for b in reps] for a in reps]
    np.testing.assert_allclose(feature_products.squared_products(reps), by_pairs, rtol=1e-11)


ROTATION, SCALE, SHIFT, LINEAR = "rotation", "scale", "shift", "linear map"


def changed(x: np.ndarray, change: str, rng: np.random.Generator) -> np.ndarray:
    p = x.shape[1]
    if change == ROTATION:
        return x @ np.linalg.qr(rng.normal(size=(p, p)))[0]
    if change == SCALE:
        return 37.0 * x
    if change == SHIFT:
        return x + rng.normal(size=p) * 10
    return x @ (np.diag(np.logspace(-1, 1, p)) @ np.linalg.qr(rng.normal(size=(p, p)))[0])


def one_way(name: str, x: np.ndarray, y: np.ndarray) -> float:
    """A measure from x to y."""
    measure = measures.MEASURES[name]
    return measure.both_ways(measure.prepare(x), measure.prepare(y))[0]


def predicted(x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> float:
    """Predictivity from x to y on these folds."""
    first, second = (predictivity.Folded(shape.centre(side), fold) for side in (x, y))
    return predictivity.predicted(first, second)


def angles(x: np.ndarray, y: np.ndarray, k: int = 3) -> np.ndarray:
    """Principal angles between the spaces of city scores of the first k components."""
    first, second = shape.first_components(x, k), shape.first_components(y, k)
    return np.arccos(shape.canonical_correlations(first, second))


FOLD = random_folds(60, np.random.default_rng(3))
ALL = {ROTATION, SCALE, SHIFT}
MEASURES = {
    # name: (function, changes of x that leave it alone, whether a general linear map of x changes it)
    "cka": (similarity.linear_cka, ALL, True),
    "biased cka": (lambda x, y: similarity.linear_cka(x, y, debiased=False), ALL, True),
    "rbf cka": (partial(one_way, "cka_rbf"), ALL, True),
    "procrustes": (partial(one_way, "procrustes"), ALL, True),
    "angular": (partial(one_way, "angular"), ALL, True),
    "rsa": (partial(one_way, "rsa"), ALL, True),
    "svcca": (partial(one_way, "svcca"), ALL, True),
    "cca": (lambda x, y: float(shape.canonical_correlations(x, y).mean()), ALL, False),
    # Its weights are sums of absolute values over the features, so a rotation of x shifts them.
    "pwcca": (partial(one_way, "pwcca"), {SCALE, SHIFT}, True),
    "predictivity": (lambda x, y: predicted(x, y, FOLD), ALL, True),
    "angles": (lambda x, y: float(angles(x, y).sum()), ALL, True),
    "mutual knn": (partial(one_way, "mutual_knn"), ALL, True),
    "cknna": (partial(one_way, "cknna"), ALL, True),
    "twonn": (lambda x, y: neighbours.twonn(x), ALL, True),
    "effective rank": (lambda x, y: spectrum.spectrum(x).effective_rank, ALL, True),
    "participation": (lambda x, y: spectrum.spectrum(x).participation, ALL, True),
}


@pytest.mark.parametrize("name", MEASURES)
def test_invariances(name: str) -> None:
    measure, same_under, linear_changes = MEASURES[name]
    rng = np.random.default_rng(11)
    x, y = structured(rng, 60, 8, 6)
    x[:, 0] /= 50
    before = measure(x, y)
    for change in sorted(same_under):
        assert measure(changed(x, change, rng), y) == pytest.approx(before, abs=1e-7), change
    moved = abs(measure(changed(x, LINEAR, rng), y) - before)
    assert (moved > 1e-3) == linear_changes


@pytest.mark.parametrize("n", [32, 256, 2048])
def test_debiased_cka_of_independent_gaussians_is_zero_on_average(n: int) -> None:
    rng = np.random.default_rng(n)
    draws = {32: 300, 256: 100, 2048: 10}[n]
    values = np.array(
        [
            [similarity.linear_cka(x, y), similarity.linear_cka(x, y, debiased=False)]
            for x, y in (rng.normal(size=(2, n, 64)) for _ in range(draws))
        ]
    )
    noise = values[:, 0].std(ddof=1) / np.sqrt(draws)
    assert abs(values[:, 0].mean()) < 4 * noise
    assert values[:, 1].mean() > 50 * noise  # the biased one is far away: 64 features at n = 32 give 0.67
    if n == 32:
        assert values[:, 1].mean() > 0.6


def test_jackknife_interval_covers_the_population_value() -> None:
    """Cities drawn from a known population: 95 % intervals must hold its CKA about 95 times in 100."""
    rng = np.random.default_rng(5)
    mixing = rng.normal(size=(4, 10)), rng.normal(size=(4, 12))

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        shared = rng.normal(size=(n, 4))
        return tuple(shared @ a + 1.5 * rng.normal(size=(n, a.shape[1])) for a in mixing)

    cross, own = (mixing[0].T @ mixing[1]), [a.T @ a + 1.5**2 * np.eye(a.shape[1]) for a in mixing]
    truth = np.sum(cross**2) / np.sqrt(np.sum(own[0] ** 2) * np.sum(own[1] ** 2))
    held = [similarity.linear_cka_interval(*draw(100)).covers(truth) for _ in range(300)]
    assert 0.90 <= np.mean(held) <= 0.985


def test_minibatches_average_hsic_terms_not_values() -> None:
    rng = np.random.default_rng(2)
    x, y = related(rng, 2000, 6, 5)
    streamed, values = similarity.MinibatchCka(), []
    for rows in np.array_split(rng.permutation(2000), 100):
        streamed.update(x[rows], y[rows])
        values.append(similarity.linear_cka(x[rows], y[rows]))
    whole = similarity.linear_cka(x, y)
    assert streamed.value() == pytest.approx(whole, abs=0.03)
    assert abs(np.mean(values) - whole) > abs(streamed.value() - whole)
    one = similarity.MinibatchCka()
    one.update(x, y)
    assert one.value() == pytest.approx(whole, abs=1e-12)
    with pytest.raises(AnalysisError, match="no batch"):
        similarity.MinibatchCka().value()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_batches_of_short_floats_have_the_value_of_float64(dtype: type) -> None:
    """Sums of squares of activations of 30 overflow float16; one batch that is constant adds nothing."""
    rng = np.random.default_rng(3)
    x, y = related(rng, 400, 6, 5)
    short, full = similarity.MinibatchCka(), similarity.MinibatchCka()
    for rows in np.array_split(np.arange(400), 4):
        short.update((30 * x[rows]).astype(dtype), (30 * y[rows]).astype(dtype))
        full.update(x[rows], y[rows])
    assert short.value() == pytest.approx(full.value(), abs=5e-3)
    short.update(np.ones((50, 6), dtype), y[:50].astype(dtype))
    assert np.isfinite(short.value())


def test_shape_measures_by_second_routes(pair: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = pair
    width = min(x.shape[1], y.shape[1])
    assert one_way("procrustes", x[:, :width], y[:, :width]) == pytest.approx(
        procrustes(x[:, :width], y[:, :width])[2], abs=TOLERANCE
    )
    upper = np.triu_indices(len(x), 1)
    by_hand = spearmanr(cdist(x, x)[upper], cdist(y, y)[upper]).statistic
    assert one_way("rsa", x, y) == pytest.approx(by_hand, abs=TOLERANCE)
    k = 3
    scores = [side - side.mean(0) for side in (x, y)]
    spaces = [np.linalg.svd(side, full_matrices=False)[0][:, :k] for side in scores]
    np.testing.assert_allclose(np.sort(angles(x, y, k)), np.sort(subspace_angles(*spaces)), atol=1e-6)


def test_canonical_correlations_against_scikit_learn() -> None:
    x, y = related(np.random.default_rng(1), 200, 4, 3)
    fitted = CCA(n_components=3, max_iter=5000, tol=1e-12).fit(x, y)
    left, right = fitted.transform(x, y)
    expected = [abs(np.corrcoef(left[:, i], right[:, i])[0, 1]) for i in range(3)]
    np.testing.assert_allclose(shape.canonical_correlations(x, y), expected, atol=1e-6)
    whole = (shape.leading_basis(side, variance=1 - 1e-12) for side in (x, y))
    assert shape.mean_correlation(*whole) == pytest.approx(np.mean(expected), abs=1e-6)
    assert min(expected) <= one_way("pwcca", x, y) <= max(expected)
    assert one_way("pwcca", x, x @ np.triu(np.ones((4, 4)))) == pytest.approx(1, abs=1e-9)


def test_neighbours_against_brute_force(pair: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = pair
    sets = []
    for side in (x, y):
        distance = cdist(side, side)
        np.fill_diagonal(distance, np.inf)
        sets.append([set(np.argsort(row)[:5]) for row in distance])
    expected = np.mean([len(a & b) / 5 for a, b in zip(*sets, strict=True)])
    found = neighbours.overlap(*(neighbours.nearest(shape.centre(side), 5) for side in (x, y)))
    assert found == pytest.approx(expected, abs=TOLERANCE)


def test_cknna_with_all_neighbours_is_debiased_cka(pair: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = pair
    everyone = (neighbours.near(side, len(x) - 1) for side in (x, y))
    assert neighbours.local_cka(*everyone) == pytest.approx(similarity.linear_cka(x, y), abs=TOLERANCE)
    few = neighbours.near(x, 3)
    assert neighbours.local_cka(few, few) == pytest.approx(1, abs=TOLERANCE)


@pytest.mark.parametrize("dimension", [1, 2, 4])
def test_twonn_finds_the_dimension_of_a_curved_surface(dimension: int) -> None:
    rng = np.random.default_rng(dimension)
    inner = rng.uniform(size=(2000, dimension))
    embedded = np.sin(inner @ rng.normal(size=(dimension, 12)))
    assert neighbours.twonn(embedded) == pytest.approx(dimension, rel=0.12)
    assert neighbours.twonn(rng.normal(size=(2000, 12))) > 6  # control: noise fills the space


def test_predictivity_is_about_unseen_cities_and_not_symmetric() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 6))
    part = x[:, :2]
    fold = random_folds(100, rng)
    assert predicted(x, part, fold) > 0.99
    assert predicted(part, x, fold) == pytest.approx(2 / 6, abs=0.1)
    assert predicted(x, rng.normal(size=(100, 3)), fold) < 0.02


def plain_predictivity(x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> float:
    """The definition: a ridge map by singular values from the other folds, for each fold."""
    x, y = (side - side.mean(0) for side in (x, y))
    left, base = np.empty_like(y), np.empty_like(y)
    for held in np.unique(fold):
        test = fold == held
        fitted = Decomposed(x[~test]).best(y[~test], predictivity.PENALTIES_TRIED)
        left[test] = y[test] - fitted.predict(x[test])
        base[test] = y[test] - y[~test].mean(0)
    return float(1 - np.sum(left**2) / np.sum(base**2))


def same_span(rng: np.random.Generator, n: int, p: int, q: int) -> tuple[np.ndarray, np.ndarray]:
    """y is a linear map of x, whose directions span six orders of magnitude: the least penalty is best."""
    x = rng.normal(size=(n, p)) * np.logspace(0, -6, p)
    y = x / np.linalg.norm(x, axis=0) @ rng.normal(size=(p, q))
    return x @ np.linalg.qr(rng.normal(size=(p, p)))[0], y


def unrelated(rng: np.random.Generator, n: int, p: int, q: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(n, p)), rng.normal(size=(n, q))


@pytest.mark.parametrize(
    ("make", "n", "p", "q"),
    [*DATA, (unrelated, 60, 90, 80), (unrelated, 90, 30, 40), (same_span, 90, 12, 4), (same_span, 30, 60, 3)],
)
def test_predictivity_is_that_of_the_plain_formula(
    make: Callable[..., tuple[np.ndarray, np.ndarray]], n: int, p: int, q: int
) -> None:
    x, y = make(np.random.default_rng(4), n, p, q)
    fold = random_folds(n, np.random.default_rng(0))
    for first, second in ((x, y), (y, x), (x, x)):
        expected = plain_predictivity(first, second, fold)
        assert predicted(first, second, fold) == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_where_rounding_would_decide_singular_values_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    fold = random_folds(90, np.random.default_rng(0))
    pairs = [same_span(np.random.default_rng(seed), 90, 12, 4) for seed in range(4)]
    expected = np.array([plain_predictivity(x, y, fold) for x, y in pairs])
    np.testing.assert_allclose([predicted(x, y, fold) for x, y in pairs], expected, atol=1e-12)
    monkeypatch.setattr(predictivity, "LEAST_SHARE", 0.0)  # control: products of the features alone
    assert np.abs([predicted(x, y, fold) for x, y in pairs] - expected).max() > 1e-10


@pytest.mark.parametrize(("make", "n", "p", "q"), [*DATA, (same_span, 40, 12, 4)])
def test_components_are_those_of_singular_values(
    make: Callable[..., tuple[np.ndarray, np.ndarray]], n: int, p: int, q: int
) -> None:
    x, _ = make(np.random.default_rng(4), n, p, q)
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    k = min(10, *x.shape)
    scores = shape.first_components(x, k)
    np.testing.assert_allclose(
        scores @ scores.T, (u[:, :k] * s[:k] ** 2) @ u[:, :k].T, atol=1e-12 * s[0] ** 2
    )
    kept = int(np.searchsorted(np.cumsum(s**2) / np.sum(s**2), 0.99)) + 1
    basis = shape.leading_basis(x)
    assert basis.shape == (n, kept)
    np.testing.assert_allclose(basis @ basis.T, u[:, :kept] @ u[:, :kept].T, atol=1e-10)


def test_components_that_are_not_there_are_left_out() -> None:
    """Counts of ten digits sum to the same number: nine directions, the tenth is rounding."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(4, np.full(10, 0.1), 60).astype(float)
    assert shape.there(shape.component_basis(counts, 10)).shape == (60, 9)
    other = rng.normal(size=(60, 10))
    spaces = [np.linalg.svd(side - side.mean(0), full_matrices=False)[0] for side in (counts, other)]
    expected = subspace_angles(spaces[0][:, :9], spaces[1]).mean()
    assert measures.MEASURES["angles"].value(counts, other) == pytest.approx(expected, abs=1e-10)


def test_ranks_of_equal_distances_are_scipys() -> None:
    grid = np.stack(np.meshgrid(np.arange(5.0), np.arange(4.0)), -1).reshape(-1, 2)
    ranks = rankdata(pdist(grid - grid.mean(0)))
    assert len(np.unique(ranks)) < len(ranks) / 4  # control: most distances are equal
    ranks -= ranks.mean()
    np.testing.assert_allclose(shape.distance_ranks(grid), ranks / np.linalg.norm(ranks), atol=1e-14)


def test_spectrum_of_known_shares() -> None:
    rng = np.random.default_rng(0)
    u = np.linalg.qr(rng.normal(size=(50, 5)) - 0)[0]
    u = np.linalg.qr(u - u.mean(0))[0][:, :4]
    found = spectrum.spectrum(u * np.array([2.0, 2.0, 1.0, 1.0]))
    np.testing.assert_allclose(found.shares, [0.4, 0.4, 0.1, 0.1], atol=1e-12)
    assert found.participation == pytest.approx(1 / (2 * 0.16 + 2 * 0.01))
    assert found.participation_singular == pytest.approx(36 / 10)


def test_surfacing_finds_the_map_where_it_is() -> None:
    rng = np.random.default_rng(0)
    xy = rng.uniform(-500, 500, (200, 2))
    x = rng.normal(size=(200, 12)) * np.array([900, 800, *[1.0] * 10])
    x[:, 2:4] += xy / 40
    fold = random_folds(200, rng)
    by_k = {row["k"]: row for row in spectrum.surfacing(x, xy, fold, rng, ks=(2, 4, 12, 99))}
    assert sorted(by_k) == [2, 4, 12]
    assert by_k[2]["variance"] > 0.99
    assert by_k[2]["r2"] < 0.05
    assert by_k[2]["alignment"] < 0.01
    assert by_k[4]["r2"] > 0.95
    assert by_k[12]["alignment"] == pytest.approx(1)
    for k, row in by_k.items():
        assert row["r2_lo"] <= row["r2"] <= row["r2_hi"]
        assert row["r2_shuffled"] < 0.1
        assert row["alignment_random"] == pytest.approx(k / 12)


BAD = [
    # x, y, what the message says
    (np.zeros((9, 2)), np.zeros((8, 2)), "9 and 8 cities"),
    (np.random.default_rng(0).normal(size=(3, 2)), np.random.default_rng(1).normal(size=(3, 2)), "too few"),
    (np.full((9, 2), np.nan), np.eye(9), "9 of 9 cities have NaN"),
]


@pytest.mark.parametrize(("x", "y", "message"), BAD)
def test_bad_input_gives_one_line(x: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(AnalysisError, match=message) as error:
        similarity.linear_cka(x, y)
    assert "\n" not in error.value.message


def test_undefined_values_are_nan_with_a_reason() -> None:
    rng = np.random.default_rng(0)
    good = rng.normal(size=(20, 3))
    constant = np.full((20, 4), 7.1)
    assert np.isnan(similarity.linear_cka(constant, good))
    assert "same for every city" in (similarity.undefined_reason(constant, good) or "")
    assert similarity.undefined_reason(good, good) is None
    matrix = similarity.linear_cka_matrix([good, constant, good * 2])
    assert list(matrix.reasons) == [1]
    assert np.isnan(matrix.values[1]).all()
    assert matrix.values[0, 2] == pytest.approx(1)
    # All cities equally far apart: only the bias is left, and the debiased self-term is 0.
    assert np.isnan(similarity.linear_cka(np.eye(20), good))
    assert "no structure" in (similarity.undefined_reason(np.eye(20), good) or "")
    for name in ("procrustes", "rsa", "mutual_knn", "svcca"):
        with pytest.raises(AnalysisError, match="same features"):
            measures.MEASURES[name].value(constant, good)


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 30), st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_cka_is_symmetric_one_with_itself_and_blind_to_order(n: int, p: int, q: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, p)), rng.normal(size=(n, q))
    biased = similarity.linear_cka(x, y, debiased=False)
    assert -1e-12 <= biased <= 1 + 1e-12
    for flag in (True, False):
        value = similarity.linear_cka(x, y, debiased=flag)
        order = rng.permutation(n)
        if not np.isnan(value):
            assert similarity.linear_cka(y, x, debiased=flag) == pytest.approx(value, abs=1e-9)
            assert similarity.linear_cka(x[order], y[order], debiased=flag) == pytest.approx(value, rel=1e-6)
            assert similarity.linear_cka(x, x, debiased=flag) == pytest.approx(1, abs=1e-9)
