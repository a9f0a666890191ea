"""Intervals cover, null distributions are uniform, and each has a control that fails."""

import numpy as np
import pytest
from scipy import stats

from cwr_mech.analysis.stats import intervals as statistics
from cwr_mech.analysis.stats.intervals import bootstrap, half_interval, halves, mean_interval
from cwr_mech.analysis.stats.testing import benjamini_hochberg, mantel_test, permutation_test, sign_flip_test
from cwr_mech.errors import AnalysisError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_bootstrap_covers_the_mean() -> None:
    draws = rng().exponential(size=(200, 60))
    held = [
        bootstrap(lambda rows, v=values: v[rows].mean(), 60, rng(k), draws=200).covers(1.0)
        for k, values in enumerate(draws)
    ]
    assert 0.88 <= np.mean(held) <= 0.99


def test_half_samples_have_the_spread_of_the_mean_and_no_city_meets_itself() -> None:
    values = rng(1).normal(size=80)
    seen = halves(80, rng(2), 2000)
    found = half_interval(values.mean(), np.array([values[rows].mean() for rows in seen]), 80)
    expected = 1.96 * values.std(ddof=1) / np.sqrt(80)
    assert (found.hi - found.lo) / 2 == pytest.approx(expected, rel=0.06)
    assert all(np.unique(rows).size == rows.size for rows in seen)


def test_half_samples_cover_a_pair_measure_that_the_bootstrap_spoils() -> None:
    """Share of pairs closer than a threshold: a bootstrap counts copies of a city as close pairs."""

    def close(points: np.ndarray) -> float:
        apart = np.abs(points[:, None] - points[None, :])[np.triu_indices(len(points), 1)]
        return float(np.mean(apart < 0.05))

    truth = 2 * stats.norm.cdf(0.05 / np.sqrt(2)) - 1
    halved, boots = [], []
    for seed in range(120):
        points = rng(seed).normal(size=50)
        spread = np.array([close(points[rows]) for rows in halves(50, rng(seed), 100)])
        halved.append(half_interval(close(points), spread, 50).covers(truth))
        boots.append(bootstrap(lambda rows, p=points: close(p[rows]), 50, rng(seed), draws=100).covers(truth))
    assert np.mean(halved) > 0.88
    assert np.mean(boots) < 0.6


def test_mean_interval_is_students_t() -> None:
    values = np.array([1.0, 2.0, 4.0])
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert (found.lo, found.hi) == (pytest.approx(low), pytest.approx(high))
    one = mean_interval(np.array([3.0]))
    assert one.value == 3.0
    assert np.isnan(one.lo)
    assert one.reason == "one model has no spread"


def test_permutation_test_finds_a_relation_and_is_uniform_without() -> None:
    x = rng(0).normal(size=40)
    related, p_values = x + rng(1).normal(size=40), []

    def correlation(order: np.ndarray, y: np.ndarray) -> float:
        return float(np.corrcoef(x, y[order])[0, 1])

    assert permutation_test(lambda o: correlation(o, related), 40, rng(2), draws=400).p < 0.01
    for seed in range(150):
        y = rng(seed + 10).normal(size=40)
        p_values.append(permutation_test(lambda o, y=y: correlation(o, y), 40, rng(seed), draws=99).p)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_small_permutation_tests_are_exact() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0])
    found = permutation_test(lambda order: float(x @ x[order]), 4, rng(), draws=100)
    assert found.exact
    assert found.null.size == 24
    assert found.p == pytest.approx(1 / 24)


def test_sign_flip_exact_against_scipy() -> None:
    values = rng(3).normal(0.6, 1, size=9)
    found = sign_flip_test(values, rng(0))
    expected = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    assert found.exact
    assert found.p == pytest.approx(expected.pvalue)
    assert sign_flip_test(rng(1).normal(2, 1, 60), rng(0)).p < 0.01


@pytest.mark.parametrize(("n", "draws"), [(6, 720), (9, 300)])
def test_mantel_is_the_correlation_of_every_relabelling(n: int, draws: int) -> None:
    first, second = (cells + cells.T for cells in rng(2).integers(0, 4, size=(2, n, n)).astype(float))
    upper = np.triu_indices(n, 1)

    def one_by_one(order: np.ndarray) -> float:
        return float(np.corrcoef(first[upper], second[np.ix_(order, order)][upper])[0, 1])

    plain = permutation_test(one_by_one, n, rng(5), draws=draws)
    found = mantel_test(first, second, rng(5), draws=draws)
    assert found.null == pytest.approx(plain.null, abs=1e-12)
    assert (found.p, found.exact) == (plain.p, plain.exact)
    assert found.exact == (n == 6), "control: all orders, and some of them"


def test_a_bootstrap_of_many_draws_together_is_the_same() -> None:
    values = rng(1).normal(size=50)
    plain = bootstrap(lambda rows: float(values[rows].mean()), 50, rng(3), draws=200)
    assert bootstrap(lambda rows: values[rows].mean(-1), 50, rng(3), draws=200, together=True) == plain
    assert bootstrap(lambda rows: values[rows].mean(-1), 50, rng(4), draws=200, together=True) != plain


def test_mantel_keeps_its_level_where_cells_are_not_independent() -> None:
    """Matrices that are sums of item effects: a plain correlation test of cells rejects too often."""
    mantel, naive = [], []
    for seed in range(150):
        source = rng(seed)
        effects = source.normal(size=(2, 8))
        first, second = (e[:, None] + e[None, :] + 0.3 * source.normal(size=(8, 8)) for e in effects)
        first, second = first + first.T, second + second.T
        mantel.append(mantel_test(first, second, rng(seed), draws=99, alternative="two-sided").p < 0.05)
        upper = np.triu_indices(8, 1)
        naive.append(stats.pearsonr(first[upper], second[upper]).pvalue < 0.05)
    assert np.mean(mantel) < 0.1
    assert np.mean(naive) > 0.2


def test_benjamini_hochberg_by_its_definition() -> None:
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.5])
    adjusted = benjamini_hochberg(p)
    np.testing.assert_allclose(adjusted, [0.04, 0.04 * 4 / 3, np.nan, 0.04 * 4 / 3, 0.5])
    assert np.isnan(benjamini_hochberg(np.array([np.nan]))).all()


def test_benjamini_hochberg_controls_the_false_discovery_rate() -> None:
    shares = []
    for seed in range(200):
        z = rng(seed).normal(size=100)
        z[:30] += 3
        found = benjamini_hochberg(2 * stats.norm.sf(np.abs(z))) < 0.1
        shares.append(found[30:].sum() / max(1, found.sum()))
    assert np.mean(shares) < 0.1


def test_too_few_units_and_undefined_draws_are_told() -> None:
    with pytest.raises(AnalysisError, match="1 city given, at least 2 needed"):
        bootstrap(lambda rows: 0.0, 1, rng(), draws=40)
    found = bootstrap(lambda rows: float("nan"), 5, rng(), draws=40)
    assert np.isnan(found.lo)
    assert found.reason == "only 0 of 40 resamples gave a number"
    assert np.isnan(permutation_test(lambda order: float("nan"), 8, rng(), draws=20).p)
    assert statistics.normal_interval(1.0, float("nan"), 3).reason


@pytest.mark.parametrize("together", [False, True])
def test_the_bootstrap_is_scipys(together: bool) -> None:
    values = rng(0).normal(size=40)
    found = bootstrap(lambda rows: values[rows].mean(-1), 40, rng(5), draws=300, together=together)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=300, method="percentile", rng=rng(5), vectorized=True
    )
    np.testing.assert_allclose((found.lo, found.hi), theirs.confidence_interval, rtol=1e-12)
    other = bootstrap(lambda rows: values[rows].mean(-1), 40, rng(6), draws=300, together=together)
    assert abs(other.lo - found.lo) > 1e-6
