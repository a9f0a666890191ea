"""CKA: agreement with published formulas, its bias and interval, batches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from similarity_cases import related

from cwr_mech.analysis.similarity import (
    cka as similarity,
)
from cwr_mech.analysis.similarity import (
    feature_products,
    kernels,
)
from cwr_mech.errors import AnalysisError

TOLERANCE = 1e-8


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
