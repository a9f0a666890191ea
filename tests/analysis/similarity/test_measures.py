"""Similarity measures: second routes to each number, invariances, and what they refuse."""

from functools import partial

import numpy as np
import pytest
from scipy.linalg import subspace_angles
from scipy.spatial import procrustes
from scipy.spatial.distance import cdist, pdist
from scipy.stats import rankdata, spearmanr
from similarity_cases import predicted, related, structured
from sklearn.cross_decomposition import CCA
from threadpoolctl import threadpool_info, threadpool_limits

from cwr_mech.analysis.probing import dimension as spectrum
from cwr_mech.analysis.probing.probe import random_folds
from cwr_mech.analysis.similarity import (
    cka as similarity,
)
from cwr_mech.analysis.similarity import (
    measures,
    neighbours,
    shape,
)
from cwr_mech.analysis.similarity.tables import similarity_result
from cwr_mech.errors import AnalysisError

TOLERANCE = 1e-8


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
    "twonn": (lambda x, y: spectrum.twonn(x), ALL, True),
    "effective rank": (lambda x, y: spectrum.spectrum(x)["effective_rank"], ALL, True),
    "participation": (lambda x, y: spectrum.spectrum(x)["participation"], ALL, True),
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
    assert spectrum.twonn(embedded) == pytest.approx(dimension, rel=0.12)
    assert spectrum.twonn(rng.normal(size=(2000, 12))) > 6  # control: noise fills the space


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
    assert found["participation"] == pytest.approx(1 / (2 * 0.16 + 2 * 0.01))
    assert found["participation_singular"] == pytest.approx(36 / 10)


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


def test_tables_are_computed_in_one_thread() -> None:
    """Threads fight over small matrices: without this limit a comparison took four times as long."""
    seen: list[int] = []

    class Members(dict[str, object]):
        def __len__(self) -> int:  # asked first of all
            seen.append(max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"))
            return 0

    with threadpool_limits(limits=2), pytest.raises(AnalysisError):
        similarity_result({}, [], Members())  # type: ignore[arg-type]
    assert set(seen) == {1}
