"""Shares, their nulls, overlaps and conflicts: identities, invariances, and what chance gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cwr_mech.analysis.manifold.bases import leading_directions, random_basis
from cwr_mech.analysis.stats.subspaces import (
    cosine_interval,
    effective_directions,
    energy,
    null_share,
    principal_angles,
    projection_kernel,
)
from cwr_mech.errors import AnalysisError


def rotation(p: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((p, p)))[0]


def uneven(n: int, p: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((n, p)) * np.linspace(3, 0.1, p)


@given(st.integers(0, 1000), st.integers(2, 12), st.integers(1, 8))
def test_shares_of_a_basis_and_its_complement_add_to_1_in_any_frame(seed: int, p: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, p))
    turned, updates = rotation(p, rng), uneven(n, p, rng)
    inside, outside = energy(updates, turned[:, :k]), energy(updates, turned[:, k:])
    assert inside.share + outside.share == pytest.approx(1)
    frame = rotation(p, rng)
    assert energy(updates @ frame, frame.T @ turned[:, :k]).share == pytest.approx(inside.share)
    assert null_share(updates @ frame, k).sd == pytest.approx(null_share(updates, k).sd, abs=1e-9)


def test_the_null_of_a_share_has_the_mean_and_variance_of_random_subspaces() -> None:
    rng = np.random.default_rng(0)
    updates = uneven(7, 12, rng)
    drawn = np.array([energy(updates, random_basis(12, 3, rng)).share for _ in range(4000)])
    null = null_share(updates, 3)
    assert null.mean == pytest.approx(drawn.mean(), abs=0.006)
    assert null.sd == pytest.approx(drawn.std(), rel=0.05)
    assert null.lo == pytest.approx(np.quantile(drawn, 0.025), abs=0.01)
    assert null.hi == pytest.approx(np.quantile(drawn, 0.975), abs=0.01)


def test_the_null_of_one_vector_is_the_beta_distribution_and_of_a_whole_space_has_no_spread() -> None:
    rng = np.random.default_rng(1)
    null = null_share(rng.standard_normal((1, 20)), 4)
    exact = stats.beta(2, 8)
    assert (null.mean, null.sd) == pytest.approx((exact.mean(), exact.std()))
    assert null.hi == pytest.approx(exact.ppf(0.975))
    assert null_share(rotation(20, rng), 4).sd == pytest.approx(0, abs=1e-9)


def test_overlap_of_random_subspaces_has_its_analytic_mean_and_variance() -> None:
    rng = np.random.default_rng(2)
    k, m, p = 3, 5, 16
    fixed = random_basis(p, m, rng)
    drawn = [projection_kernel(random_basis(p, k, rng), fixed) * k / m for _ in range(3000)]
    null = null_share(fixed.T, k)
    assert null.mean == pytest.approx(np.mean(drawn), abs=0.005)
    assert null.sd == pytest.approx(np.std(drawn), rel=0.06)
    assert projection_kernel(fixed[:, :2], fixed) == pytest.approx(1)
    assert principal_angles(fixed[:, :2], fixed) == pytest.approx([0, 0], abs=1e-5)


def test_a_basis_fitted_on_the_updates_it_measures_flatters_them_and_the_other_half_does_not() -> None:
    rng = np.random.default_rng(3)
    n, p, k = 24, 40, 6
    noise = rng.standard_normal((n, p))
    directions = rng.standard_normal((n, 2)) @ rng.standard_normal((2, p))

    def held_out(updates: np.ndarray) -> float:
        return energy(updates[::2], leading_directions(updates[1::2], k)).share

    null = null_share(noise, k)
    assert energy(noise, leading_directions(noise, k)).share > 2 * null.hi
    assert null.lo < held_out(noise) < null.hi
    # The control: updates that do share directions keep their share in the other half.
    assert held_out(noise + 4 * directions) > 2 * null.hi


def test_the_interval_over_cities_covers_the_planted_share() -> None:
    rng = np.random.default_rng(4)
    columns = random_basis(30, 5, rng)
    covered = 0
    for _ in range(60):
        inside = rng.standard_normal((40, 5)) @ columns.T
        outside = rng.standard_normal((40, 30))
        outside -= outside @ columns @ columns.T
        updates = inside / np.sqrt(5) + outside / np.sqrt(25)
        covered += energy(updates, columns).interval(rng, draws=200).covers(0.5)
    assert covered >= 51


def test_noise_pulls_the_cosine_of_means_to_0_but_not_the_unbiased_one() -> None:
    rng = np.random.default_rng(5)
    p, n = 200, 40
    true = rng.standard_normal((2, p))
    true[1] = 0.8 * true[0] + 0.6 * true[1]
    planted = float(true[0] @ true[1] / np.linalg.norm(true[0]) / np.linalg.norm(true[1]))
    unbiased, naive, covered = [], [], 0
    for _ in range(100):
        a, b = (t + 8 * rng.standard_normal((n, p)) for t in true)
        unbiased.append(cosine_interval(a, b).value)
        x, y = a.mean(axis=0), b.mean(axis=0)
        naive.append(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
        covered += cosine_interval(a, b).covers(planted)
    assert np.mean(unbiased) == pytest.approx(planted, abs=0.05)
    assert np.mean(naive) < 0.5 * planted
    assert covered >= 85


def test_effective_directions_counts_equal_ones() -> None:
    assert effective_directions(np.eye(9)[:4]) == pytest.approx(4)
    with pytest.raises(AnalysisError, match="zero"):
        effective_directions(np.zeros((3, 4)))


def test_a_basis_of_another_space_is_refused() -> None:
    with pytest.raises(AnalysisError, match="8 dimensions cannot hold updates of 6"):
        energy(np.ones((3, 6)), np.eye(8)[:, :2])
    with pytest.raises(AnalysisError, match="rank 7"):
        null_share(np.ones((3, 6)), 7)
    with pytest.raises(AnalysisError, match="at least 3"):
        cosine_interval(np.ones((2, 6)), np.ones((2, 6)))
