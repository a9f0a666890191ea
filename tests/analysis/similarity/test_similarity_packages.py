"""The same numbers from published packages: golden values, and second routes written here."""

import json
from typing import Any

import numpy as np
import pytest
from paths import GOLDEN
from scipy.linalg import eigh
from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel

from cwr_mech.analysis.probing import dimension
from cwr_mech.analysis.similarity import (
    cka as similarity,
)
from cwr_mech.analysis.similarity import (
    kernels,
    neighbours,
    shape,
)

PACKAGES = json.loads((GOLDEN / "similarity_packages.json").read_text("utf-8"))
"""Made once with the packages and versions that it names, on the x and y that it holds."""
TOLERANCE = 1e-8


@pytest.fixture(params=PACKAGES["cases"], ids=lambda case: case["name"])
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param | {side: np.array(request.param[side]) for side in "xy"}


def test_cka_is_that_of_three_packages(case: dict[str, Any]) -> None:
    x, y = case["x"], case["y"]
    assert len(case["debiased"]) == 3
    for package, expected in case["debiased"].items():
        assert similarity.linear_cka(x, y) == pytest.approx(expected, abs=TOLERANCE), package
    for package, expected in case["biased"].items():
        assert similarity.linear_cka(x, y, debiased=False) == pytest.approx(expected, abs=TOLERANCE), package
    assert abs(case["biased"]["ckatorch"] - case["debiased"]["ckatorch"]) > 0.02


def test_dimension_is_scikit_dimensions(case: dict[str, Any]) -> None:
    assert dimension.twonn(case["x"]) == pytest.approx(case["twonn"]["scikit-dimension"], abs=TOLERANCE)


def test_rbf_kernel_is_scikit_learns(case: dict[str, Any]) -> None:
    x, y = case["x"], case["y"]

    def cka(k: np.ndarray, m: np.ndarray) -> float:
        h = np.eye(len(k)) - 1 / len(k)
        centred = [h @ side @ h for side in (k, m)]
        return float(np.sum(centred[0] * centred[1]) / np.prod([np.linalg.norm(side) for side in centred]))

    made = []
    for side in (x, y):
        middle = np.median(euclidean_distances(side)[np.triu_indices(len(side), 1)])
        made.append(rbf_kernel(side, gamma=1 / (2 * middle**2)))
    assert kernels.kernel_cka(kernels.rbf_kernel(x), kernels.rbf_kernel(y), debiased=False) == pytest.approx(
        cka(*made), abs=TOLERANCE
    )


def test_canonical_correlations_solve_the_eigenproblem(case: dict[str, Any]) -> None:
    """Hotelling 1936: squared correlations are the eigenvalues of Cxy Cyy^-1 Cyx against Cxx. PWCCA then
    after google/svcca: weights are sums of |canonical variable' x| over the features.
    """
    x, y = (case[side] - case[side].mean(axis=0) for side in "xy")
    squares, vectors = eigh(x.T @ y @ np.linalg.inv(y.T @ y) @ y.T @ x, x.T @ x)
    order = np.argsort(squares)[::-1][: y.shape[1]]
    correlations = np.sqrt(squares[order])
    np.testing.assert_allclose(shape.canonical_correlations(x, y), correlations, atol=TOLERANCE)
    variables = x @ vectors[:, order]
    weights = np.abs((variables / np.linalg.norm(variables, axis=0)).T @ x).sum(axis=1)
    weighted = shape.weighted_correlations(shape.with_basis(x), shape.with_basis(y))[0]
    assert weighted == pytest.approx(weights @ correlations / weights.sum(), abs=TOLERANCE)


@pytest.mark.parametrize("k", [3, 10])
def test_cknna_by_the_loops_of_platonic_rep(case: dict[str, Any], k: int) -> None:
    """minyoungg/platonic-rep, `metrics.AlignmentMetrics.cknna`, unbiased, cell by cell."""
    kernels_ = [(side - side.mean(0)) @ (side - side.mean(0)).T for side in (case["x"], case["y"])]
    n = len(kernels_[0])
    near = []
    for kernel in kernels_:
        off = kernel - np.diag(np.full(n, np.inf))
        near.append([set(np.argsort(-row)[:k].tolist()) for row in off])

    def local(a: int, b: int) -> float:
        first, second = np.zeros((2, n, n))
        for i in range(n):
            for j in near[a][i] & near[b][i]:
                first[i, j], second[i, j] = kernels_[a][i, j], kernels_[b][i, j]
        one = np.ones(n)
        middle = 2 / (n - 2) * (one @ first @ second @ one)
        both = (one @ first @ one) * (one @ second @ one) / (n - 1) / (n - 2)
        return float((np.sum(first * second.T) + both - middle) / n / (n - 3))

    expected = local(0, 1) / np.sqrt(local(0, 0) * local(1, 1))
    assert neighbours.local_cka(*(neighbours.near(case[side], k) for side in "xy")) == pytest.approx(
        expected, abs=TOLERANCE
    )
