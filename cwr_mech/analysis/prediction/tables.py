"""What gradients and tasks say before training, against published and own outcomes."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from cwr_mech.analysis.prediction.predictors import (
    gradient_fields,
    property_similarities,
    similarities,
    task_properties,
    try_prediction,
)
from cwr_mech.analysis.published import correlate, matrix, published_correlation
from cwr_mech.analysis.study import each, uses
from cwr_mech.errors import AnalysisError
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.results import Result, load_result
from cwr_mech.tasks.registry import PAPER_TASKS
from cwr_mech.world.cities import World

VARIANTS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("without crossing (as published)", ("crossing",), ()),
    ("without crossing and distance", ("crossing", "distance"), ()),
    ("without crossing, distance not as trainer", ("crossing",), ("distance",)),
    ("all seven tasks", (), ()),
)
"""Which pairs of tasks enter the published correlation: name, tasks left out, trainers left out."""


def prediction_result(
    models: Mapping[str, Callable[[], HookedQwen2]],
    world: World,
    outcomes: Mapping[str, Float[np.ndarray, "task task"]],
    *,
    run: str,
    layer: int,
    site: str = "last_digit",
    n_rows: int = 2048,
    seed: int = 0,
) -> Result:
    """Test every predictor against every outcome. Table `pairs`: each predictor's value for two tasks.

    models: name of a moment ("untrained", "step 70") -> loader of the model there. outcomes: matrices over
    the seven tasks besides the published ones; a task whose row holds NaN is left out of that outcome.
    Raises what `gradient_fields` raises.
    """
    tasks = PAPER_TASKS
    predictors: dict[tuple[str, str], np.ndarray] = {}
    for moment, load in each(models.items(), "gradients", "models"):
        fields = gradient_fields(load(), world, tasks, layer=layer, site=site, n_rows=n_rows, seed=seed)
        for name, values in similarities(fields).items():
            predictors[moment, name] = values
    properties = task_properties(world, tasks)
    for name, values in property_similarities(properties).items():
        predictors["the tasks", name] = values
    predictors["published, after pretraining", "parameter cosine"] = matrix("parameter_cosine")
    pairs = [
        {"run": run, "from": moment, "predictor": name, "a": a, "b": b, "value": float(values[i, j])}
        for (moment, name), values in predictors.items()
        for (i, a), (j, b) in combinations(enumerate(tasks), 2)
    ]
    known = {"published CKA": matrix("cka"), "published transfer": matrix("transfer"), **outcomes}
    rows: list[dict[str, Any]] = []
    for index, ((moment, name), values) in enumerate(predictors.items()):
        for number, (outcome, target) in enumerate(known.items()):
            unknown = {task for task, row in zip(tasks, target, strict=True) if np.isnan(row).any()}
            for out in (unknown, unknown | {"crossing"}) if "crossing" not in unknown else (unknown,):
                leave_out = tuple(task for task in tasks if task in out)
                rng = np.random.default_rng(np.random.SeedSequence([seed, index, number]))
                found = try_prediction(values, target, tasks, rng, leave_out=leave_out)
                left = ", ".join(leave_out) or "none"
                rows.append({"from": moment, "predictor": name, "outcome": outcome, "left_out": left} | found)
    return Result(
        kind="prediction",
        params={"runs": [run], "layer": layer, "site": site, "n_rows": n_rows, "seed": seed},
        values={"n_tests": len(rows), "published_r2": published_correlation()["r2"]},
        tables={
            "tests": rows,
            "pairs": pairs,
            "published": published_rows(),
            "tasks": [{"task": task} | values for task, values in properties.items()],
        },
        arrays={
            "tasks": np.array(tasks),
            "predictors": np.stack(list(predictors.values())),
            "from": np.array([moment for moment, _ in predictors]),
            "names": np.array([name for _, name in predictors]),
        },
        notes=[
            "r: correlation over pairs of tasks; p: one-sided, over all relabellings of the tasks (Mantel; "
            "with 4 tasks it cannot be below 0.04). r_lo and r_hi: range when each task in turn is left out, "
            "the lowest without `without`.",
            f"{len(rows)} tests: about {len(rows) / 20:.0f} are expected to have p below 0.05 by chance.",
        ],
    )


def published_rows() -> list[dict[str, Any]]:
    """The published correlation of CKA with transfer, and what is left of it without distance."""
    both = matrix("cka"), matrix("transfer")
    return [
        {"pairs": name} | correlate(*both, leave_out=leave_out, leave_out_trainers=trainers)
        for name, leave_out, trainers in VARIANTS
    ]


def moments(steps: Sequence[int]) -> list[int]:
    """The untrained model, the first checkpoint, one at about a tenth of the way, and the last."""
    later = [step for step in steps if step]
    if not later:
        return [0]
    tenth = min(later, key=lambda step: abs(step - later[-1] / 10))
    return sorted({0, later[0], tenth, later[-1]})


def own_outcomes(files: Sequence[Path]) -> dict[str, np.ndarray]:
    """Transfer between the seven tasks, by answers of single-task fine-tunings, of saved transfer results.

    A result without all seven tasks is passed over. Raises AnalysisError for one of another kind.
    """
    outcomes: dict[str, np.ndarray] = {}
    for file in files:
        result = load_result(file)
        if result.kind != "transfer":
            raise AnalysisError(f"{file} holds a {result.kind} result", "name files of cwr-mech transfer")
        sets, grid = [str(one) for one in result.arrays["sets"]], result.arrays["ni"]
        if all(task in sets for task in PAPER_TASKS):
            chosen = np.array([grid[sets.index(task)] for task in PAPER_TASKS])
            outcomes |= {f"own {file.stem}, answers": chosen} if np.isfinite(chosen).all() else {}
        uses(file.as_posix(), result.sha256)
    return outcomes
