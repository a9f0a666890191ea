"""Predictions are supported when they hold by construction, and only then."""

import math
from typing import Any

import numpy as np
import pytest

from cwr_mech.analysis.stats.intervals import Interval
from cwr_mech.errors import AnalysisError
from cwr_mech.findings.hypotheses import (
    NEEDED,
    PREDICTIONS,
    Evidence,
    integration,
    judge,
    overall,
    try_predictions,
)

BASES = ("b0", "b1", "b2")
PROMPTS = ("distance", "angle", "compass", "perimeter")
BEFORE, ORDINARY = 1000.0, 10.0
CONDITIONS = {
    "distance": ("unprojected", "on-manifold", "random", "penalty"),
    "angle": ("unprojected", "on-manifold", "off-manifold", "random-complement", "penalty"),
    "perimeter": ("unprojected", "on-manifold", "off-manifold", "random-complement"),
    "compass": ("unprojected", "on-manifold", "off-manifold", "random-complement"),
}
CLAIM = {
    # transfer if the claim holds; 0.8 for what is not named
    ("distance", "unprojected"): 0.3,
    ("distance", "random"): 0.3,
    ("angle", "off-manifold"): 0.1,
    ("compass", "off-manifold"): 0.1,
    ("perimeter", "off-manifold"): 0.1,
}
REFUTED = {
    ("distance", "on-manifold"): 0.1,
    ("angle", "on-manifold"): 0.2,
    ("compass", "on-manifold"): 0.2,
    ("perimeter", "on-manifold"): 0.2,
    ("distance", "penalty"): 0.2,
    ("angle", "penalty"): 0.2,
    ("angle", "random-complement"): 0.3,
    ("compass", "random-complement"): 0.3,
    ("perimeter", "random-complement"): 0.3,
    ("distance", "unprojected"): 0.95,
    ("distance", "random"): 1.2,
}


def row(base: str, tasks: str, route: str, prompt: str, step: int, **values: float) -> dict[str, Any]:
    usual = {"along_new": BEFORE, "along_old": ORDINARY, "off_new": 2.0, "off_old": 1.0, "cka_new": 0.0}
    keys = {"run": f"{base}-{tasks}-{route}", "base": base, "set": tasks, "route": route}
    return keys | {"prompt": prompt, "step": step} | usual | values


def evidence(
    transfers: dict[tuple[str, str], float], *, divergent: bool, noise: float = 0.01, seed: int = 0
) -> Evidence:
    """Models whose transfer is given; distance leaves the map, or does not."""
    rng = np.random.default_rng(seed)
    sign = 1.0 if divergent else -1.0
    trajectory, shares = [], []
    for base in BASES:
        for tasks, names in CONDITIONS.items():
            for route in names:
                share = transfers.get((tasks, route), 0.8) + noise * rng.standard_normal()
                off = 1.5 + sign * 0.5 * (tasks == "distance") + noise * rng.standard_normal()
                similar = 0.5 + sign * 0.3 * (route == "penalty") + noise * rng.standard_normal()
                moved = 0.7 - sign * 0.3 * (tasks == "distance") + noise * rng.standard_normal()
                for prompt in PROMPTS:
                    # The trained prompt is put in its place whatever the transfer, and must not count.
                    done = 1.0 if prompt == tasks else share
                    end = BEFORE * (ORDINARY / BEFORE) ** done
                    trajectory.append(row(base, tasks, route, prompt, 0))
                    trajectory.append(row(base, tasks, route, prompt, 50, along_new=BEFORE / 2))
                    ends = {"along_new": end, "off_new": off, "cka_new": similar}
                    ends |= {"moved_new": moved, "moved_new_like": 0.1}
                    trajectory.append(row(base, tasks, route, prompt, 99, **ends))
        for task in PROMPTS:
            value = 0.7 - sign * 0.3 * (task == "distance") + noise * rng.standard_normal()
            step = {"run": base, "task": task, "update": "adam", "group": "new", "basis": "manifold"}
            shares.append(step | {"clearest": True, "share": value, "like": 0.1})
            shares.append(step | {"clearest": False, "share": 0.0, "like": 0.9})
    return Evidence(trajectory, shares)


def verdicts(rows: list[dict[str, Any]]) -> dict[str, str]:
    return {r["prediction"]: r["verdict"] for r in rows}


def test_integration_is_0_as_before_and_1_as_ordinary_cities() -> None:
    start = {"along_new": 100.0, "along_old": 4.0}
    for end, value in ((100.0, 0.0), (4.0, 1.0), (20.0, 0.5), (500.0, -0.5)):
        assert integration(start, {"along_new": end}) == pytest.approx(value)
    assert math.isnan(integration({"along_new": 3.0, "along_old": 4.0}, {"along_new": 1.0}))


def test_transfer_leaves_the_trained_prompt_out_and_takes_first_and_last_steps() -> None:
    found = evidence({("distance", "unprojected"): 0.25}, divergent=True, noise=0.0)
    assert found.transfer("b0", "distance") == pytest.approx(0.25)
    assert found.off("b0", "distance") == pytest.approx(2.0)
    assert found.share("b0", "angle") == pytest.approx(0.6)
    assert found.similarity("b0", "distance", "penalty") == pytest.approx(0.8)
    assert found.transfer("b0", "crossing") is None
    assert found.share("b7", "angle") is None


def test_a_world_in_which_the_claim_holds_supports_everything() -> None:
    rows = try_predictions(evidence(CLAIM, divergent=True))
    assert verdicts(rows) == {p.name: "supported" for p in PREDICTIONS}
    assert {r["models"] for r in rows} == {3}
    assert {r["as_predicted"] for r in rows} == {3}
    for needed in NEEDED.values():
        assert overall(rows, needed)[0] == "supported"


def test_a_world_in_which_it_is_false_supports_nothing() -> None:
    rows = try_predictions(evidence(REFUTED, divergent=False))
    assert verdicts(rows) == {p.name: "not supported" for p in PREDICTIONS}
    for needed in NEEDED.values():
        verdict, reason = overall(rows, needed)
        assert verdict == "not supported"
        assert needed[0] in reason


def test_names_that_change_nothing_support_only_what_says_so() -> None:
    worlds = [
        verdicts(try_predictions(evidence({}, divergent=True, noise=0.02, seed=seed))) for seed in range(25)
    ]
    harmless = [rows[name] for rows in worlds for name in ("2d", "2f", "2g", "3b")]
    assert "not supported" not in harmless
    assert harmless.count("supported") >= 85
    assert {rows["2e"] for rows in worlds} == {"not supported"}
    moved = [rows[name] for rows in worlds for name in ("1", "2c", "2c'", "2h")]
    assert moved.count("undecided") >= 88  # of 100 intervals of 95 % that should hold 0


def test_missing_models_leave_a_prediction_undecided() -> None:
    whole = evidence(CLAIM, divergent=True)
    some = Evidence([r for r in whole.trajectory if r["set"] != "perimeter"], [])
    rows = {r["prediction"]: r for r in try_predictions(some)}
    for name in ("1", "2a", "2b", "2d", "2e", "2g"):
        assert (rows[name]["verdict"], rows[name]["reason"]) == ("undecided", "no model")
        assert rows[name]["effect"] is None
    assert rows["2c"]["verdict"] == "supported"
    assert overall(list(rows.values()), NEEDED["off-manifold routing"])[0] == "undecided"
    one = Evidence([r for r in whole.trajectory if r["base"] == "b0"], [])
    row = next(r for r in try_predictions(one) if r["prediction"] == "2c")
    assert (row["models"], row["verdict"]) == (1, "undecided")
    with pytest.raises(AnalysisError, match="no fine-tuned model"):
        try_predictions(Evidence([], []))


JUDGED = [
    # low, high, prediction (predicted side and threshold), verdict
    (0.1, 0.3, "2c", "supported"),
    (-0.1, 0.3, "2c", "undecided"),
    (-0.3, -0.1, "2c", "not supported"),
    (-0.3, -0.1, "1", "supported"),
    (0.1, 0.3, "1", "not supported"),
    (-0.05, 0.3, "2d", "supported"),  # a loss of up to 0.1 is called none
    (-0.4, -0.2, "2d", "not supported"),
    (-0.3, 0.05, "2f", "supported"),
    (0.15, 0.3, "2f", "not supported"),
]


@pytest.mark.parametrize(("low", "high", "name", "verdict"), JUDGED)
def test_judging(low: float, high: float, name: str, verdict: str) -> None:
    prediction = next(p for p in PREDICTIONS if p.name == name)
    interval = Interval((low + high) / 2, low, high, 3, "model", "t")
    assert judge(interval, prediction)[0] == verdict
    if verdict == "undecided":
        assert (
            judge(interval, prediction)[1] == "the interval over 3 models holds 0, and reaches 0.3 above it"
        )
    unknown = Interval(0.1, np.nan, np.nan, 1, "model", "t", reason="one model")
    assert judge(unknown, prediction) == ("undecided", "one model")
