"""From saved results to verdicts: what enters, what is missing, and what the report says of it."""

from typing import Any

import numpy as np
import pytest

from cwr_mech.analysis.routing.show import routing
from cwr_mech.analysis.routing.show import trajectory as placed
from cwr_mech.errors import AnalysisError
from cwr_mech.experiments.plans import ROUTED
from cwr_mech.findings.hypotheses import PREDICTIONS
from cwr_mech.findings.routing import evidence, routing_result, transfer_matrix
from cwr_mech.report.figures import draw
from cwr_mech.results import Result
from cwr_mech.tasks.registry import PAPER_TASKS

BASES = ("b0", "zoo:b1")
PROMPTS = ("distance", "angle", "compass", "perimeter")


def row(base: str, tasks: str, route: str, prompt: str, step: int, share: float) -> dict[str, Any]:
    about = {"run": f"{base}-{tasks}-{route}", "base": base, "set": tasks, "route": route, "prompt": prompt}
    about["arm"] = "replay trained, elicitation none" + ("" if route == "unprojected" else f", {route}")
    return about | {
        "step": step,
        "along_new": 1000.0 * 0.01**share,
        "along_old": 10.0,
        "off_new": 2.0 - share,
        "off_old": 1.0,
        "cka_new": share,
        "moved_new": None if step == 0 else 0.3 + share,
        "moved_new_like": None if step == 0 else 0.2,
        "moved_old": None if step == 0 else 0.1,
        "probe_new": 900.0,
        "probe_old": 10.0,
    }


def trajectory(left_out: tuple[str, str, str] | None = None) -> Result:
    """Every arm of every task on two bases; what is integrated depends on the task and the arm."""
    rows = []
    for base in BASES:
        for task, arms in ROUTED.items():
            for route in ("unprojected", *arms):
                if (base, task, route) == left_out:
                    continue
                share = 0.2 if (task, route) == ("distance", "unprojected") else 0.6
                share += 0.01 * (base == "b0")
                for prompt in PROMPTS:
                    rows += [row(base, task, route, prompt, 0, 0.0)]
                    rows += [row(base, task, route, prompt, 9, share + 0.1 * (prompt == task))]
    return Result("trajectory", "cwr-mech trajectory", {}, {"runs": []}, {}, {"trajectory": rows})


def subspace(base: str) -> Result:
    keys = {"run": base, "update": "adam", "group": "new", "basis": "manifold", "like": 0.1}
    shares = [
        keys | {"task": task, "site": "last_digit", "layer": layer, "share": 0.5 + 0.2 * layer}
        for task in PROMPTS
        for layer in (0, 1, 2)
    ]
    shares += [row | {"update": "gradient"} for row in shares if row["layer"] < 2]
    spaces = [
        {"task": task, "site": "last_digit", "layer": layer, "map_variance": 0.2 + 0.3 * layer}
        for task in PROMPTS
        for layer in (0, 1, 2)
    ]
    return Result("subspace", "cwr-mech subspace", {}, {}, {}, {"shares": shares, "spaces": spaces})


def made(**options: Any) -> Result:
    results = {"trajectory": trajectory(**options), "s0": subspace("b0"), "s1": subspace("zoo:b1")}
    return routing_result(results, {"x": "0" * 64}, "cwr-mech report r --routing")


def test_every_prediction_is_tried_on_every_base() -> None:
    result = made()
    tried = {r["prediction"]: r for r in result.tables["predictions"]}
    assert list(tried) == [one.name for one in PREDICTIONS]
    assert {r["models"] for r in tried.values()} == {2}
    assert result.params["bases"] == ["b0", "b1"]  # a model of the zoo is the run it was made from
    assert tried["2c'"]["effect"] == pytest.approx(0.4)
    assert tried["1"]["effect"] == pytest.approx(-0.4)
    assert tried["2c"]["null"] == "random directions (placebo)"
    assert tried["2a"]["effect"] == pytest.approx(0)
    assert tried["2a'"]["effect"] == pytest.approx(-0.4)
    assert result.tables["missing"] == []
    assert result.values["n_models"] == 2 * sum(1 + len(arms) for arms in ROUTED.values())


def test_updates_count_where_the_map_is_clearest_and_is_read() -> None:
    found = evidence({"s": subspace("zoo:b1")})
    clearest = {r["layer"] for r in found.shares if r["clearest"]}
    assert clearest == {1}  # layer 2 is clearer, but no answer reads a city after the last block
    assert found.share("b1", "angle") == pytest.approx(0.7 - 0.1)


def test_a_missing_arm_is_named_and_costs_its_predictions_a_model() -> None:
    result = made(left_out=("b0", "perimeter", "off-manifold"))
    assert result.tables["missing"] == [{"base": "b0", "set": "perimeter", "route": "off-manifold"}]
    tried = {r["prediction"]: r for r in result.tables["predictions"]}
    assert (tried["2e"]["models"], tried["2d"]["models"]) == (1, 2)
    assert tried["2e"]["verdict"] == "undecided"
    assert "b0 on perimeter (off-manifold)" in routing(result)
    assert "Every fine-tuning that a prediction needs is here." in routing(made())


def test_arms_and_paths_are_means_over_bases() -> None:
    tables = made().tables
    arm = next(r for r in tables["arms"] if (r["set"], r["route"]) == ("angle", "on-manifold"))
    assert (arm["models"], arm["transfer"], arm["own"]) == (2, pytest.approx(0.605), pytest.approx(0.705))
    assert arm["transfer_lo"] is None  # two bases have no interval
    assert arm["similar"] == pytest.approx(0.605 + 0.1 / 4)
    assert arm["retained"] == pytest.approx(1)
    assert (arm["moved"], arm["moved_like"]) == (pytest.approx(1.005), pytest.approx(0.2))
    path = [r for r in tables["paths"] if (r["set"], r["route"]) == ("angle", "on-manifold")]
    assert [(r["step"], r["models"]) for r in path] == [(0, 2), (9, 2)]
    assert path[0]["along_new"] == pytest.approx(1000)
    assert (path[0]["moved_new"], path[1]["moved_new"]) == (None, pytest.approx(1.005))


def test_fine_tunings_of_another_kind_do_not_stand_for_the_plain_ones() -> None:
    plain = trajectory()
    others = [
        row | {"run": "other", "arm": arm, "along_new": 1.0}
        for arm in ("replay trained, elicitation new", "replay all, elicitation none")
        for row in plain.tables["trajectory"]
    ]
    rows = [*plain.tables["trajectory"], *others]
    mixed = Result("trajectory", "cwr-mech trajectory", {}, {"runs": []}, {}, {"trajectory": rows})
    assert evidence({"t": mixed}) == evidence({"t": plain})


def test_transfer_between_single_tasks_as_a_matrix() -> None:
    grid = transfer_matrix(evidence({"t": trajectory()}))
    distance, angle = PAPER_TASKS.index("distance"), PAPER_TASKS.index("angle")
    assert grid[distance, angle] == pytest.approx(0.205)
    assert grid[angle, angle] == pytest.approx(0.705)
    assert np.isnan(grid[PAPER_TASKS.index("inside")]).all()


def test_the_papers_hypotheses_have_effect_null_verdict_and_reason(tmp_path: Any) -> None:
    result = made()
    rows = result.tables["hypotheses"]
    assert [r["hypothesis"].split(" (")[0] for r in rows] == [
        "multi-task convergence",
        "distance is divergent",
        "off-manifold routing",
        "CKA predicts transfer",
    ]
    assert all(r[key] for r in rows for key in ("effect", "null", "verdict", "reason"))
    assert rows[-1]["effect"] == "with distance r = 0.91; without distance r = 0.48"
    text = routing(result)
    assert text.index("**Predictions**") < text.index("**Verdicts.**") < text.index("**What came**")
    assert len(draw(result, tmp_path, "routing")) == 3
    with pytest.raises(AnalysisError, match="placed on the map"):
        routing_result({"s": subspace("b0")}, {}, "")


def test_many_models_are_placed_by_what_they_were_trained_on_and_few_one_by_one() -> None:
    many = trajectory()
    many.values.update(n_models=34, n_bases=2)
    lines = placed(many).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    head, before = cells[0], cells[2]
    assert (before[1], before[3]) == ("nothing yet", "2")
    arms = sum(1 + len(names) for names in ROUTED.values())
    assert len(cells) == 3 + arms
    first = dict(zip(head, cells[3], strict=True))
    assert (first["trained on"], first["condition"], first["models"]) == ("distance", "unprojected", "2")
    # Two bases with 0.30 and 0.31 of the way from 1000 to 10 at the trained prompt.
    assert float(first["along, new"]) == pytest.approx(500 * (0.01**0.30 + 0.01**0.31), abs=1)
    few = trajectory()
    few.values.update(n_models=4, n_bases=2)
    assert placed(few).count("b0") == arms
