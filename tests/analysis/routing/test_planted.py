"""Codes that are known are written into real displacements: the routing test finds those off the manifold."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pytest

from cwr_mech.activations.site import Site
from cwr_mech.analysis.routing.planted import (
    CODES,
    ERROR,
    Moved,
    directions_of,
    moved_by,
    off_manifold,
    power_rows,
    share_contrast,
    written,
)
from cwr_mech.analysis.routing.show import routing_power as section
from cwr_mech.analysis.routing.study import routing_power
from cwr_mech.analysis.stats.ridge import fit_linear
from cwr_mech.errors import AnalysisError
from cwr_mech.training.runs import load_run

TASKS = ("distance", "angle", "compass", "perimeter")
SITE = Site.parse("L1")


@lru_cache
def bases() -> Sequence[Moved]:
    """The zoo's bases with their fine-tunings, where they read a city: last digit, after block 1."""
    return [
        moved_by(load_run(f"zoo:{base}"), {task: load_run(f"zoo:{base}-ft-{task}") for task in TASKS}, SITE)
        for base in ("small", "small-seed2", "small-seed3")
    ]


def test_raw_shares_are_those_of_an_independent_recomputation() -> None:
    expected = [(0.797, 0.803), (0.766, 0.782), (0.716, 0.719)]  # distance, mean of the others
    for base, (distance, others) in zip(bases(), expected, strict=True):
        shares = base.shares()
        assert shares["distance"] == pytest.approx(distance, abs=0.003)
        assert np.mean([shares[task] for task in TASKS[1:]]) == pytest.approx(others, abs=0.005)
    found = share_contrast([base.shares() for base in bases()], "distance", TASKS[1:])
    assert not off_manifold(found)


def power(draws: int) -> None:
    """Found off the manifold in more than .9 of draws; silent where nothing is (5 % nominally)."""
    rows = {row["code"]: row for row in power_rows(bases(), "distance", draws)}
    assert set(rows) == set(CODES)
    for code in ("linear", "cluster"):
        assert rows[code]["found"] > 0.9, rows[code]
    for code in ("on", "dealt"):
        error = 2.6 * np.sqrt(0.05 * 0.95 / draws)  # 99 % of draws of a 5 % test
        assert rows[code]["found"] <= 0.05 + error, rows[code]
    # The sizes of the recomputation: .80 -> .30 to .46 in one base, and .07 to .12 lower.
    assert 0.28 < rows["linear"]["least"] < rows["linear"]["most"] < 0.50
    assert -0.13 < rows["cluster"]["least"] - rows["cluster"]["share_before"] < -0.05
    assert rows["on"]["share_after"] > rows["on"]["share_before"] + 0.05


def test_planted_codes_are_found_and_nothing_else() -> None:
    power(40)


@pytest.mark.slow
def test_planted_codes_are_found_and_nothing_else_in_many_draws() -> None:
    power(400)


def test_a_linear_code_is_read_with_the_error_it_was_made_for() -> None:
    base, rng = bases()[0], np.random.default_rng(0)
    left = base.x_old["distance"] - base.spaces["distance"].manifold.map(base.xy_old)
    everyone = Moved(base.base, base.xy_old, base.xy_old, base.spaces, base.x_old, {})
    errors = []
    for _ in range(5):
        code = written("linear", everyone, "distance", rng)
        plane = np.linalg.svd(code, full_matrices=False)[2][:2].T
        x = (code + left) @ plane
        half = rng.permutation(len(x)) % 2 == 0
        decoded = fit_linear(x[half], base.xy_old[half]).predict(x[~half])
        errors.append(np.linalg.norm(decoded - base.xy_old[~half], axis=1).mean())
    assert np.mean(errors) == pytest.approx(ERROR, rel=0.15)


@pytest.mark.parametrize("inside", [True, False])
def test_directions_lie_where_they_should(inside: bool) -> None:
    space = bases()[0].spaces["distance"]
    found = directions_of(space, 2, np.random.default_rng(1), inside=inside)
    assert found.T @ found == pytest.approx(np.eye(2), abs=1e-9)
    share = np.sum((space.bases["manifold"].T @ found) ** 2) / 2
    assert share == pytest.approx(float(inside), abs=1e-9)


def test_the_command_reports_power_and_refuses_too_little() -> None:
    runs = [f"zoo:{base}-ft-{task}" for base in ("small", "small-seed2", "small-seed3") for task in TASKS]
    result = routing_power(runs, draws=10)
    assert {row["layer"] for row in result.tables["shares"]} == {1}
    assert len(result.tables["power"]) == len(CODES)
    assert "cluster" in section(result)
    assert "routing-power" in result.command
    with pytest.raises(AnalysisError, match="no usual fine-tuning on perimeter"):
        routing_power([f"zoo:small-ft-{task}" for task in TASKS[:3]], draws=10)
