"""Claims about label noise and size on planted results: the truth is found, its opposite, and silence."""

import math
from itertools import combinations
from typing import Any

import pytest
from findings_cases import result

from cwr_mech.experiments.finetuning import HALF_REHEARSED
from cwr_mech.findings.questions import findings
from cwr_mech.findings.show import summary
from cwr_mech.findings.variants import as_one_more
from cwr_mech.results import Result, Row
from cwr_mech.tasks.registry import PAPER_TASKS

PLACED = ("distance", "compass", "perimeter")


def planted(
    *,
    usual: int = 7,
    apart: float = 2.0,
    fall: float = -1.0,
    less: float = -0.5,
    lost: float = 0.0,
    r2: float = 0.9,
    alike: float = 0.5,
    chance: float = 0.0,
    learned: bool = True,
    known: tuple[str, ...] = tuple(PAPER_TASKS),
    forgetful: str = "",
    failed: bool | None = False,
    shapes: tuple[float, ...] = (0.25, 4.0),
) -> dict[str, Result]:
    """Results of `usual` bases, one with 20 % of answers wrong, one of each of `shapes` times the parameters.

    apart: divergence index with noise (3 without, `fall` more for ten times the parameters). less: what
    distance teaches others less. lost: share of the gap forgotten with noise. alike: CKA of models of one
    task with noise, other tasks; chance: of shuffled cities. known: what the base with noise has learned; in
    the other tasks usual bases differ wildly. forgetful: a base that forgets half of the gap.
    """
    sizes = {f"ripe-seed{k}": 1000.0 for k in range(usual)} | {"ripe-noise0.2": 1000.0}
    sizes |= {f"ripe-size{k}": 1000.0 * shape for k, shape in enumerate(shapes)}
    models: list[Row] = []
    places: list[Row] = []
    scores: list[Row] = []
    layers: list[Row] = []
    for k, (base, size) in enumerate(sizes.items()):
        noisy = "noise" in base
        words = HALF_REHEARSED + (", 20 % of answers wrong" if noisy else "")
        about = {"base": None, "seed": k, "parameters": size, "label_noise": 0.2 if noisy else 0.0}
        models.append(about | {"run": base, "models": "all seven tasks"})
        index = (apart if noisy else 3.0 + fall * math.log10(size / 1000)) + 0.05 * (k % 3)
        decoded = (r2 if noisy else 0.9) + 0.01 * (k % 3)
        layers += [{"run": base, "layer": layer, "r2": layer * decoded} for layer in (0, 1)]
        for task in PLACED:
            run = f"{base}-ft-{task}"
            models.append(about | {"run": run, "models": f"fine-tuned on {task}; {words}", "base": base})
            places += [{"run": run, "trained": task, "task": o, "excess": index} for o in PLACED if o != task]
            for other in PAPER_TASKS:
                taught = 0.4 + (less if noisy and task == "distance" else 0.0) + 0.02 * (k % 3)
                wild = 0.0 if other in known or task != "distance" else 20.0 * (k % 3)
                fine = learned and (other in known or not noisy)
                forgotten = 0.5 if base == forgetful else lost if noisy else 0.0
                scores.append(
                    {"base": base, "set": task, "task": other, "trained": other == task, "condition": words}
                    | {"base_gain": 0.9 if fine else 0.1, "base_new": 0.0, "base_old": 1.0}
                    | {"old": 1.0 - forgotten + 0.001 * (k % 3), "ni": taught + wild}
                )
    # Beside three tasks with noise: one of them again, and two without noise. All these are alike.
    alone = {f"ripe-noise0.2-{task}": task for task in ("distance", "angle", "compass")}
    more = {"ripe-noise0.2-distance-seed2": "distance", "ripe-distance": "distance", "ripe-angle": "angle"}
    singles = alone | more
    pairs = [
        {"run_a": a, "run_b": b, "measure": "cka", "null_mean": chance}
        | {"value": 0.95 if _control(singles, a, b) else alike + 0.002 * (k % 3)}
        for k, (a, b) in enumerate(combinations(singles, 2))
    ]
    return {
        "transfer": result("transfer", {"runs": list(sizes)}, scores=scores, deviation=[]),
        "locate": result("locate", {"runs": list(sizes)}, models=models, divergence=places, errors=[]),
        "places": result("places", {"runs": list(sizes)}, scores=layers),
        "similarity": result(
            "similarity",
            {"runs": list(singles)},
            models=[
                {"run": run, "tasks": task, "label_noise": _wrong(run), "failed": failed}
                for run, task in singles.items()
            ],
            pairs=pairs,
        ),
    }


def _wrong(run: str) -> float:
    return 0.2 if "noise" in run else 0.0


def _control(tasks: dict[str, str], a: str, b: str) -> bool:
    """Whether a pair says nothing about different tasks with noise."""
    return tasks[a] == tasks[b] or not (_wrong(a) and _wrong(b))


def claims(**changes: Any) -> dict[str, Row]:
    return {row["id"]: row for row in findings(planted(**changes), {}, "test").tables["claims"]}


@pytest.mark.parametrize(
    ("name", "changes", "usual", "otherwise"),
    [
        ("noise-divergence-distance-20", {"apart": 0.0}, "supported", "no effect of that size"),
        ("noise-divergence-compass-20", {"apart": -2.0}, "supported", "refuted"),
        ("noise-divergence-distance-20", {"lost": 0.3}, "supported", "inconclusive"),
        ("noise-divergence-distance-20", {"learned": False}, "supported", "inconclusive"),
        ("noise-divergence-distance-20", {"usual": 2}, "supported", "inconclusive"),
        ("noise-retention-20", {"lost": 0.3}, "supported", "refuted"),
        ("noise-distance-teaches-less-20", {"less": 0.0}, "supported", "no effect of that size"),
        ("noise-map-20", {"r2": 0.1}, "supported", "no effect of that size"),
        ("noise-convergence-20", {"alike": 0.02}, "supported", "no effect of that size"),
        ("noise-convergence-20", {"alike": 0.42, "chance": 0.4}, "supported", "no effect of that size"),
        ("noise-convergence-20", {"failed": True}, "supported", "inconclusive"),
        ("size-divergence", {"fall": 1.0}, "supported", "refuted"),
        ("size-divergence", {"fall": 0.0}, "supported", "no effect of that size"),
        ("size-divergence", {"shapes": (4.0,)}, "supported", "inconclusive"),
        ("size-divergence", {"learned": False}, "supported", "inconclusive"),
    ],
)
def test_planted_truths_are_found(name: str, changes: dict[str, Any], usual: str, otherwise: str) -> None:
    assert claims()[name]["verdict"] == usual
    assert claims(**changes)[name]["verdict"] == otherwise


def test_values_are_those_planted_and_a_share_without_models_is_not_asked_about() -> None:
    rows = claims()
    assert rows["noise-divergence-distance-20"]["value"] == pytest.approx(2.0, abs=0.1)
    assert rows["size-divergence"]["value"] == pytest.approx(-1.0, abs=0.1)
    assert rows["noise-convergence-20"]["value"] == pytest.approx(0.5, abs=0.01)
    assert not any(name.endswith("-5") for name in rows)


def test_questions_are_asked_only_where_a_model_is_there_that_they_are_about() -> None:
    found = findings(planted(shapes=()), {}, "test")
    assert {row["question"] for row in found.tables["claims"]} == {"noise"}
    assert "In a base with 20 % of answers wrong" in summary(found)


def test_usual_bases_are_asked_about_the_tasks_that_the_base_with_noise_has_learned() -> None:
    row = claims(known=PLACED)["noise-distance-teaches-less-20"]
    assert (row["verdict"], row["value"]) == ("supported", pytest.approx(-0.5, abs=0.05))


@pytest.mark.parametrize("known", [PLACED[:2], ("compass", "perimeter", "angle")])
def test_a_base_with_noise_must_have_learned_distance_and_two_others(known: tuple[str, ...]) -> None:
    row = claims(known=known)["noise-divergence-distance-20"]
    assert row["verdict"] == "inconclusive"
    assert "has not learned distance and 2 other tasks" in row["reason"]


@pytest.mark.parametrize("changes", [{"shapes": (4.0,)}, {"forgetful": "ripe-size0"}])
def test_sizes_whose_base_forgets_do_not_count(changes: dict[str, Any]) -> None:
    reason = claims(**changes)["size-divergence"]["reason"]
    assert reason.startswith("2 sizes, and 3 are needed")
    assert ("left out: ripe-size0" in reason) == ("forgetful" in changes)


def test_one_more_model_is_told_by_the_spread_of_the_others() -> None:
    """By hand: s of 1, 2, 3 is 1, t(2) is 4.3027."""
    found = as_one_more({"a": 5.0}, {"b": 1.0, "c": 2.0, "d": 3.0}).found
    assert found is not None
    assert (found.value, found.lo, found.hi) == pytest.approx((5.0, 5 - 4.3027, 5 + 4.3027), abs=1e-3)
