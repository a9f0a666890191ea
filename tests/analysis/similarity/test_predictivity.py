"""Predictivity and components against plain formulas, and where rounding could decide."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.linalg import subspace_angles
from similarity_cases import DATA, predicted

from cwr_mech.analysis.probing.probe import random_folds
from cwr_mech.analysis.similarity import (
    measures,
    predictivity,
    shape,
)
from cwr_mech.analysis.stats.ridge import Decomposed


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
