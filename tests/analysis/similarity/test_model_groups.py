"""Claims about models: ceilings, trends and failures on matrices whose truth is known."""

import numpy as np
import pytest

from cwr_mech.analysis.similarity.model_groups import (
    disjoint_tasks,
    group_rows,
    pair_mean,
    same_tasks,
)
from cwr_mech.analysis.stats.models import FAILED_BELOW, Member, ceilings
from cwr_mech.data.summary import gain
from cwr_mech.errors import AnalysisError
from cwr_mech.results import Row

TASKS = ("distance", "angle", "compass", "perimeter", "inside", "crossing")


def member(tasks: tuple[str, ...], seed: int, *, least: float | None = 0.9, rows: int = 100) -> Member:
    gains = None if least is None else dict.fromkeys(tasks, least)
    return Member("+".join(tasks) + f"-{seed}", tasks, seed, rows, rows // len(tasks), gains)


def world(
    sets: list[tuple[str, ...]], seeds: int, rng: np.random.Generator, *, ceiling: float, cross: float
) -> tuple[np.ndarray, list[Member]]:
    """Models with an effect of their own on all their pairs, around a known mean a kind of pair."""
    members = [member(tasks, seed) for tasks in sets for seed in range(seeds)]
    own = rng.normal(0, 0.05, len(members))
    matrix = np.where(same_tasks(members), ceiling, cross) + own[:, None] + own[None, :]
    np.fill_diagonal(matrix, 1)
    return matrix, members


SINGLES = [(task,) for task in TASKS[:4]]


def test_pairs_of_same_and_of_disjoint_tasks() -> None:
    members = [member(("a",), 0), member(("a",), 1), member(("a", "b"), 0), member(("b",), 0)]
    assert same_tasks(members).tolist() == [[i != j and {i, j} == {0, 1} for j in range(4)] for i in range(4)]
    assert np.argwhere(np.triu(disjoint_tasks(members))).tolist() == [[0, 3], [1, 3]]


def test_interval_over_models_covers_where_pairs_as_units_do_not() -> None:
    """Each model moves all its pairs: 66 pairs of 12 models are not 66 observations."""
    by_models, by_pairs = [], []
    for seed in range(200):
        matrix, members = world(SINGLES, 3, np.random.default_rng(seed), ceiling=0.7, cross=0.7)
        everything = ~np.eye(len(members), dtype=bool)
        by_models.append(pair_mean(matrix, everything).covers(0.7))
        cells = matrix[np.triu_indices(12, 1)]
        by_pairs.append(abs(cells.mean() - 0.7) < 1.96 * cells.std(ddof=1) / np.sqrt(cells.size))
    assert np.mean(by_models) > 0.9
    assert np.mean(by_pairs) < 0.8


def test_a_group_that_hangs_on_one_model_has_no_interval() -> None:
    found = pair_mean(np.full((2, 2), 0.5), ~np.eye(2, dtype=bool))
    assert found.value == 0.5
    assert np.isnan(found.lo)
    assert found.reason == "2 models are too few: without one of them nothing is left to average"
    with pytest.raises(AnalysisError, match="no pair of models"):
        pair_mean(np.full((2, 2), np.nan), ~np.eye(2, dtype=bool))


def rows_of(matrix: np.ndarray, members: list[Member], seed: int = 0, *, draws: int) -> dict[str, Row]:
    """The rows about all models by their group."""
    rng = np.random.default_rng(seed)
    rows = group_rows("cka", matrix, np.zeros_like(matrix), members, rng, draws=draws)
    return {row["group"]: row for row in rows if row["models"] == "all models"}


RATIO = "disjoint, of the ceiling"


def test_ceiling_and_ratio() -> None:
    matrix, members = world(SINGLES, 3, np.random.default_rng(0), ceiling=0.8, cross=0.4)
    found = rows_of(matrix, members, draws=300)
    assert found["same tasks, other seed"]["value"] == pytest.approx(0.8, abs=0.06)
    assert found["disjoint tasks"]["value"] == pytest.approx(0.4, abs=0.06)
    assert found["disjoint tasks"]["p"] < 0.01
    assert found[RATIO]["value"] == pytest.approx(0.5, abs=0.05)
    assert found[RATIO]["lo"] <= 0.5 <= found[RATIO]["hi"] < 1.0
    equal = rows_of(np.full_like(matrix, 0.6), members, draws=300)
    assert equal["disjoint tasks"]["p"] > 0.5
    assert equal[RATIO]["value"] == pytest.approx(1)


def test_ceilings_are_geometric_means_of_self_consistencies() -> None:
    matrix = np.array([[1, 0.8, 0.3, 0.2], [0.8, 1, 0.5, 0.2], [0.3, 0.5, 1, 0.2], [0.2, 0.2, 0.2, 1.0]])
    matrix = np.pad(matrix, (0, 1), constant_values=0.1)
    matrix[2, 4] = matrix[4, 2] = 0.5  # the second seed of "b"
    found = ceilings(matrix, ["a", "a", "b", "alone", "b"], [1, 2, 1, 1, 2])
    expected = np.sqrt(0.8 * 0.5)
    for a, b in ((0, 2), (1, 2), (2, 0), (1, 4)):
        assert found[a, b] == pytest.approx(expected)
    assert np.isnan(found[0, 1])  # the same label: this cell is the ceiling
    assert np.isnan(found[:, 3]).all()  # no other seed
    unknown = ceilings(matrix, ["a", "a", "b", "alone", "b"], [None] * 5)
    np.testing.assert_array_equal(unknown, found)  # models of which no seed is known count as other seeds


def test_a_model_of_the_same_seed_is_no_other_seed() -> None:
    """Trained on for longer from the same first weights, it agrees more than another seed does."""
    members = [member(("a",), 0), member(("a",), 0, rows=200), member(("a",), 1), member(("b",), 0)]
    members.append(member(("b",), 1))
    matrix = np.full((5, 5), 0.4)
    matrix[0, 1] = matrix[1, 0] = 0.99
    found = rows_of(matrix, members, draws=50)
    assert found["same tasks, other seed"]["value"] == pytest.approx(0.4)
    assert found["same tasks, other seed"]["pairs"] == 3  # 0 and 2, 1 and 2, 3 and 4
    assert found[RATIO]["value"] == pytest.approx(1)


def test_tasks_with_one_seed_have_no_ceiling() -> None:
    members = [member(("distance",), 0), member(("distance",), 1), member(("angle",), 0)]
    found = rows_of(np.full((3, 3), 0.5), members, draws=50)
    assert RATIO not in found
    assert found["disjoint tasks"]["value"] == 0.5


def test_level_of_the_test_of_same_against_disjoint() -> None:
    rejected = []
    for seed in range(100):
        matrix, members = world(SINGLES, 2, np.random.default_rng(seed), ceiling=0.6, cross=0.6)
        rejected.append(rows_of(matrix, members, seed, draws=99)["disjoint tasks"]["p"] <= 0.05)
    assert np.mean(rejected) < 0.12


PAIRS = [("distance", "angle"), ("compass", "perimeter"), ("inside", "crossing")]


@pytest.mark.parametrize(("rows_of_pair", "named"), [(100, "rows"), (200, "exposure"), (150, "neither")])
def test_trend_is_over_disjoint_sets_and_says_what_was_held_fixed(rows_of_pair: int, named: str) -> None:
    members = [member((task,), seed, rows=100) for task in TASKS for seed in range(2)]
    members += [member(tasks, seed, rows=rows_of_pair) for tasks in PAIRS for seed in range(2)]
    counts = np.array([len(one.tasks) for one in members])
    matrix = np.where((counts[:, None] == 2) & (counts[None, :] == 2), 0.8, 0.5)
    # Overlapping sets are alike for another reason and must not enter.
    matrix = np.where(disjoint_tasks(members), matrix, 0.99)
    found = rows_of(matrix, members, draws=200)
    assert found["disjoint, 1 task(s) each"]["value"] == pytest.approx(0.5)
    assert found["disjoint, 2 task(s) each"]["value"] == pytest.approx(0.8)
    change = found["disjoint, change per task"]
    assert change["value"] == pytest.approx(0.3)
    assert change["lo"] <= change["value"] <= change["hi"]
    assert change["p"] < 0.05
    assert change["held_fixed"] == found["disjoint, 1 task(s) each"]["held_fixed"] == named
    alike = rows_of(np.ones((2, 2)), [member(("a",), 0), member(("a",), 1)], draws=50)
    assert not any(group.startswith("disjoint") for group in alike)


GAINS = [
    # metric, value, baseline, share of the gap closed
    ("error", 0.0, 440.0, 1.0),
    ("error", 440.0, 440.0, 0.0),
    ("error", 880.0, 440.0, -1.0),
    ("accuracy", 1.0, 0.75, 1.0),
    ("accuracy", 0.75, 0.75, 0.0),
    ("accuracy", 0.5, 0.75, -1.0),
    ("accuracy", 1.0, 1.0, 1.0),
    ("accuracy", 0.5, 1.0, 0.0),
    ("error", 0.0, 0.0, 1.0),
    ("error", 3.0, 0.0, 0.0),
]


@pytest.mark.parametrize(("metric", "value", "baseline", "share"), GAINS)
def test_gain(metric: str, value: float, baseline: float, share: float) -> None:
    assert gain(metric, value, baseline) == pytest.approx(share)


def test_failed_is_decided_by_the_worst_trained_task() -> None:
    assert Member("a", ("x", "y"), 0, 1, 1, {"x": 0.99, "y": FAILED_BELOW - 0.01}).failed
    assert not Member("a", ("x", "y"), 0, 1, 1, {"x": 0.99, "y": FAILED_BELOW}).failed
    assert member(("x",), 0, least=None).failed is None
