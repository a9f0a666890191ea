"""A comparison at matched competence must not depend on how fast, or how long, a task was trained."""

import math

import pytest

from cwr_mech.analysis.course.show import REACHED, course_figure
from cwr_mech.analysis.course.study import course
from cwr_mech.analysis.course.tables import LEVELS, at_level, crossing, matched_rows, summary_rows
from cwr_mech.experiments.zoo import recorded_scores
from cwr_mech.results import Row
from cwr_mech.training.runs import load_run

STEPS = (0, 10, 30, 100, 300, 1000, 3000)


def planted(speed: float, taught: float, run: str, base: str = "b") -> list[Row]:
    """own = 1 - exp(-speed step), others = taught * own, at log-spaced checkpoints."""
    own = [1 - math.exp(-speed * step) for step in STEPS]
    return [
        {"run": run, "base": base, "set": "s", "condition": "a", "step": step, "own": o, "others": taught * o}
        for step, o in zip(STEPS, own, strict=True)
    ]


def test_the_first_crossing_counts_and_is_interpolated() -> None:
    own = (0.0, 0.2, 0.6, 0.4, 0.95)
    assert crossing(own, 0.5) == (1, pytest.approx(0.75))
    assert crossing(own, 0.9) == (3, pytest.approx(0.5 / 0.55))
    assert crossing(own, 0.96) is None
    row = at_level((0, 1, 3, 7, 15), {"own": own, "others": (0.0, 1.0, 2.0, 3.0, 4.0)}, 0.5)
    assert row["others"] == pytest.approx(1.75)
    assert row["step"] == round(math.expm1(math.log(2) + 0.75 * math.log(2)))
    never = at_level((0, 1, 3, 7, 15), {"own": own, "others": own}, 0.99)
    assert never == {"level": 0.99, "step": None, "others": None}


def test_speed_is_taken_out_and_what_is_taught_stays() -> None:
    slow, fast, poor = planted(0.001, 0.6, "slow"), planted(0.02, 0.6, "fast"), planted(0.001, 0.2, "poor")
    at_equal_steps = {rows[0]["run"]: rows[4]["others"] for rows in (slow, fast, poor)}
    assert at_equal_steps["fast"] > 3 * at_equal_steps["slow"]  # what a comparison by steps would say
    matched = matched_rows([*slow, *fast, *poor])
    others = {(row["run"], row["level"]): row["others"] for row in matched}
    for level in LEVELS:
        assert others["slow", level] == pytest.approx(0.6 * level)
        assert others["fast", level] == pytest.approx(0.6 * level)
        assert others["poor", level] == pytest.approx(0.2 * level)
    steps = {(row["run"], row["level"]): row["step"] for row in matched}
    assert steps["fast", 0.5] < steps["slow", 0.5]


def test_means_are_over_bases_and_say_how_many_got_there() -> None:
    taught = {"b1": 0.6, "b2": 0.5, "b3": 0.4}
    rows = [row for base, share in taught.items() for row in planted(0.01, share, base, base)]
    late = planted(1e-5, 9.0, "late", "b4")
    summary = {row["level"]: row for row in summary_rows(matched_rows([*rows, *late]))}
    row = summary[0.5]
    assert (row["models"], row["reached"]) == (4, 3)
    assert row["others"] == pytest.approx(0.25)
    assert row["others_lo"] < 0.25 - 0.05 < 0.25 + 0.05 < row["others_hi"]
    nobody = summary_rows(matched_rows(planted(1e-6, 1.0, "late")))
    assert {(row["reached"], row["others"]) for row in nobody} == {(0, None)}


def test_a_model_of_the_zoo() -> None:
    """The zoo keeps the end alone: two points, of which the last is what its manifest records."""
    result = course("zoo:small-ft-distance", places=True, questions=16)
    start, end = result.tables["course"]
    assert (start["step"], start["own"], start["others"]) == (0, 0, 0)
    run = load_run("zoo:small-ft-distance")
    new, old = ({s["task"]: s for s in recorded_scores(run.base(), group)} for group in ("new", "old"))
    after = {s["task"]: s["value_mean"] for s in recorded_scores(run, "new")}["distance"]
    before, best = (found["distance"]["value_mean"] for found in (new, old))
    assert end["own"] == pytest.approx(math.log(before / after) / math.log(before / best))
    assert end["index"] == pytest.approx(math.log(end["place_others"] / end["place_own"]))
    assert end["index"] > 0.3 > abs(start["index"])
    assert "divergence index" in REACHED.text(result)
    assert len(course_figure(result).axes) == 3
    assert 0 < next(row["others"] for row in result.tables["summary"] if row["level"] == 0.5) < 1
