"""The engine of claims: verdicts of planted effects, and how often each test errs where nothing is
planted."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cwr_mech.analysis.similarity.model_groups import group_rows
from cwr_mech.analysis.stats.intervals import LEAST_UNITS, jackknife
from cwr_mech.analysis.stats.models import Member
from cwr_mech.analysis.stats.testing import (
    difference_p,
    equivalence_p,
    mantel_test,
    relabelling_test,
    sign_flip_test,
)
from cwr_mech.findings.claims import Claim, Evidence, NoResults, judge, of_statistic, of_units, withheld

CLAIM = Claim("a", "q", "A is above B", "A minus B", lambda saved: saved, smallest=0.1, why="for a test")
"""Its evidence is what `judge` is given."""


def units(*values: float) -> Evidence:
    return of_units({f"base{k}": value for k, value in enumerate(values)})


# evidence, changes of the claim, verdict, how it stands to the paper
JUDGED: tuple[tuple[Evidence, dict[str, Any], str, str], ...] = (
    (units(0.5, 0.51, 0.52), {"published": 0.4}, "supported", "agrees"),
    (units(0.5, 0.51, 0.52), {"published": -0.4}, "supported", "opposite"),
    (units(0.5, 0.51, 0.52), {}, "supported", "not published"),
    (units(0.5, 0.51, 0.52), {"predicted": "below", "published": -0.4}, "refuted", "opposite"),
    (units(-0.5, -0.51, -0.52), {"published": 0.4}, "refuted", "opposite"),
    (units(0.01, -0.01, 0.0), {"published": 0.4}, "no effect of that size", "opposite"),
    (units(0.01, -0.01, 0.0), {"published": 0.05}, "no effect of that size", "agrees"),
    # Surely not 0, and surely too small to be of interest.
    (units(0.031, 0.03, 0.029), {}, "no effect of that size", "not published"),
    (units(0.9, -0.8, 0.1), {"published": 0.4}, "inconclusive", "cannot be compared: inconclusive here"),
    (units(0.5, 0.51), {"published": 0.4}, "inconclusive", "cannot be compared: inconclusive here"),
    (
        units(0.5, 0.51, 0.52),
        {"published": 0.4, "incomparable": "transient"},
        "supported",
        "cannot be compared: transient",
    ),
    (withheld("not learned"), {"published": 0.4}, "inconclusive", "cannot be compared: not learned"),
    (units(0.6, 0.61, 0.62), {"against": 0.5, "published": 0.9}, "supported", "agrees"),
    (units(0.6, 0.61, 0.62), {"against": 0.9, "published": 0.95}, "refuted", "opposite"),
    # A threshold (smallest 0) is never "no effect of that size".
    (units(0.5, 0.501, 0.499), {"against": 0.5, "smallest": 0.0}, "inconclusive", "not published"),
)


@pytest.mark.parametrize(("evidence", "changes", "verdict", "agreement"), JUDGED)
def test_verdicts(evidence: Evidence, changes: dict[str, Any], verdict: str, agreement: str) -> None:
    (row,) = judge([replace(CLAIM, **changes)], evidence)
    assert (row["verdict"], row["agreement"]) == (verdict, agreement)


def test_few_units_have_a_value_and_no_interval() -> None:
    for n in (1, LEAST_UNITS - 1):
        (row,) = judge([CLAIM], units(*[0.5 + 0.01 * k for k in range(n)]))
        assert (row["n"], row["lo"], row["verdict"]) == (
            n,
            pytest.approx(np.nan, nan_ok=True),
            "inconclusive",
        )
        assert row["value"] == pytest.approx(0.5, abs=0.01)
        assert row["reason"]


def test_missing_results_withhold_the_number_and_other_errors_are_not_hidden() -> None:
    def missing(saved: object) -> Evidence:
        raise NoResults("no transfer here")

    (row,) = judge([replace(CLAIM, evidence=missing)], None)
    assert (row["value"], row["n"], row["reason"], row["verdict"]) == (
        None,
        0,
        "no transfer here",
        "inconclusive",
    )

    def broken(saved: object) -> Evidence:
        raise KeyError("ni")

    with pytest.raises(KeyError):
        judge([replace(CLAIM, evidence=broken)], None)


def test_many_claims_need_smaller_p_and_controls_are_apart() -> None:
    weak = units(0.1, 0.2, 0.3)
    assert difference_p(weak.found, 0.0) < 0.08
    near = replace(CLAIM, evidence=lambda saved: units(0.2, 0.3, 0.4), smallest=0.01)
    empty = [
        replace(near, id=str(k), evidence=lambda saved, k=k: units(0.3, -0.2 * k, -0.1)) for k in range(1, 9)
    ]
    alone = judge([near], None)[0]
    among = judge([near, *empty], None)[0]
    assert alone["verdict"] == "supported"
    assert among["verdict"] == "inconclusive"
    assert among["p_differs"] > alone["p_differs"]
    control = judge([replace(near, kind="control"), *empty], None)[0]
    assert control["p_differs"] == alone["p_differs"]  # not one of the family
    later = judge([replace(near, role="confirmatory"), *empty], None)[0]
    assert later["p_differs"] == alone["p_differs"]  # a family of its own


def test_a_statistic_of_pairs_is_jackknifed_over_models() -> None:
    matrix = np.arange(25.0).reshape(5, 5)

    def mean(kept: Any) -> float:
        return float(np.mean([matrix[i, j] for i in kept for j in kept if i < j]))

    found = of_statistic(mean, range(5)).found
    assert found is not None
    assert (found.value, found.n) == (mean(range(5)), 5)
    assert found.error == pytest.approx(jackknife(mean, list(range(5))).error)
    assert of_statistic(mean, []).found is None


def test_a_test_that_cannot_succeed_has_no_p() -> None:
    rng = np.random.default_rng(0)
    for n, told in ((3, False), (5, False), (6, True)):
        found = sign_flip_test(np.full(n, 1.0) + 0.01 * np.arange(n), rng)
        assert np.isfinite(found.p) == told
        assert (found.reason is None) == told
    few, more = (np.add.outer(np.arange(n), np.arange(n)).astype(float) for n in (4, 5))
    assert np.isnan(mantel_test(few, few, rng, alternative="two-sided").p)
    assert mantel_test(more, more, rng, alternative="two-sided").p < 0.05


def profiles(rng: np.random.Generator, n: int) -> np.ndarray:
    """Similarities between models whose profiles have nothing to do with their tasks: some models have
    failed."""
    strength = rng.choice([0.1, 0.6, 0.9], size=n)
    matrix = np.outer(strength, strength) + 0.05 * rng.normal(size=(n, n))
    return (matrix + matrix.T) / 2


MEMBERS = [Member(f"{k}", (f"t{k % 7}",), k, 1, 1, {"t": 1.0}) for k in range(14)]
MEMBERS += [Member(f"p{k}", (f"t{k}", f"t{k + 1}"), k, 1, 1, {"t": 1.0}) for k in range(5)]
MEMBERS += [Member(f"all{k}", tuple(f"t{j}" for j in range(7)), k, 1, 1, {"t": 1.0}) for k in range(2)]


def _trend_p(rng: np.random.Generator) -> float:
    alike = profiles(rng, len(MEMBERS))
    rows = group_rows("cka", alike, alike, MEMBERS, rng, draws=199)
    return float(next(row["p"] for row in rows if row["group"] == "disjoint, change per task"))


def _mantel_p(rng: np.random.Generator) -> float:
    x, y = (profiles(rng, 7) for _ in range(2))
    return mantel_test(x, y, rng, draws=399, alternative="two-sided").p


def _student(n: int) -> Callable[[np.random.Generator], float]:
    return lambda rng: difference_p(units(*rng.normal(0, 0.1, n)).found)


def _judged(rng: np.random.Generator) -> float:
    """1 where the engine calls a lone finding without effect supported or refuted."""
    (row,) = judge([CLAIM], units(*rng.normal(0, 0.3, 4)))
    return 0.0 if row["verdict"] in ("supported", "refuted") else 1.0


def _jackknifed(rng: np.random.Generator) -> float:
    """Mean over pairs of models, each of which moves all its pairs."""
    own = 0.1 * rng.normal(size=9)
    cells = own[:, None] + own[None, :] + 0.02 * rng.normal(size=(9, 9))
    return difference_p(
        jackknife(
            lambda kept: float(np.mean([cells[i, j] for i in kept for j in kept if i < j])), list(range(9))
        )
    )


def _relabelled(rng: np.random.Generator) -> float:
    """Same tasks against others, as the noise ceiling is tested."""
    label = np.repeat([0, 1, 2, 3], 3)
    same = label[:, None] == label[None, :]
    upper = np.triu(np.ones((12, 12), dtype=bool), 1)
    return relabelling_test(
        lambda m: float(m[same & upper].mean() - m[~same & upper].mean()),
        profiles(rng, 12),
        rng,
        draws=399,
        alternative="greater",
    ).p


TESTS = {
    "Student's t, three models": _student(3),
    "Student's t, six models": _student(6),
    "a lone finding": _judged,
    "sign flips, eight models": lambda rng: sign_flip_test(rng.normal(size=8), rng).p,
    "jackknife over models": _jackknifed,
    "trend with the number of tasks": _trend_p,
    "same against other tasks": _relabelled,
    "similarity with transfer": _mantel_p,
}


def rejected(test: Callable[[np.random.Generator], float], draws: int) -> float:
    return float(np.mean([test(np.random.default_rng([1, draw])) < 0.05 for draw in range(draws)]))


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTS)
def test_each_test_rejects_at_its_level_where_nothing_is_planted(name: str) -> None:
    assert 0.02 <= rejected(TESTS[name], 400) <= 0.08


@pytest.mark.parametrize("name", [name for name in TESTS if "Student" in name or "finding" in name])
def test_quick_tests_reject_at_their_level(name: str) -> None:
    assert 0.02 <= rejected(TESTS[name], 400) <= 0.08


def test_the_trend_keeps_its_level_where_shuffled_counts_do_not() -> None:
    """The control is the test that was used before: numbers of tasks shuffled over fixed pairs."""
    counts = np.array([len(member.tasks) for member in MEMBERS])

    def shuffled(rng: np.random.Generator) -> float:
        matrix = profiles(rng, len(MEMBERS))
        i, j = np.array([(i, j) for i in range(19) for j in range(i) if counts[i] == counts[j]]).T
        y = np.array([matrix[pair] for pair in zip(i.tolist(), j.tolist(), strict=True)])

        def slope(order: np.ndarray) -> float:  # least squares
            x = (counts[order[i]] + counts[order[j]]) / 2
            return float((x - x.mean()) @ y / ((x - x.mean()) ** 2).sum())

        null = np.array([slope(rng.permutation(21)) for _ in range(60)])
        return float((1 + (np.abs(null) >= abs(slope(np.arange(21)))).sum()) / 61)

    assert rejected(_trend_p, 60) <= 0.12
    assert rejected(shuffled, 60) > 0.2


@pytest.mark.parametrize(("n", "spread"), [(3, 0.018), (6, 0.05), (9, 0.065)])
def test_equivalence_is_right_in_nine_of_ten(n: int, spread: float) -> None:
    """True effect 0, margin 0.1: found in at least 90 % of draws. An effect at the margin: in about 5 %."""
    rng = np.random.default_rng(n)
    none = [judge([CLAIM], units(*rng.normal(0, spread, n)))[0]["verdict"] for _ in range(400)]
    assert np.mean([verdict == "no effect of that size" for verdict in none]) >= 0.9
    edge = [equivalence_p(units(*rng.normal(0.1, spread, n)).found, 0.1) < 0.05 for _ in range(400)]
    assert 0.02 <= np.mean(edge) <= 0.08
