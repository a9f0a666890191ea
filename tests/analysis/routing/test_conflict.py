"""Parameter gradients compared between tasks: against sums by hand, and where the answer is planted."""

from functools import lru_cache

import numpy as np
import pytest
from routing_cases import model, world

from cwr_mech.analysis.routing import gradients
from cwr_mech.analysis.routing.conflict import conflict_result
from cwr_mech.analysis.routing.gradients import batch_gradient, engine_of, gradient_set
from cwr_mech.analysis.stats.subspaces import energy, null_share
from cwr_mech.data.rows import Rows, generate
from cwr_mech.errors import AnalysisError
from cwr_mech.results import Result
from cwr_mech.training.engine import Engine

TASKS = ("distance", "angle", "compass")


def gradients_of(rows: Rows, batch: int) -> dict[str, np.ndarray]:
    """By weight matrix, the gradient of each batch of questions in turn [batch ...]."""
    engine = engine_of(model())
    each = [
        {name: gradient.copy() for name, gradient in batch_gradient(engine, rows, index, batch).items()}
        for index in range(len(rows) // batch)
    ]
    return {name: np.stack([gradients[name] for gradients in each]) for name in each[0]}


@lru_cache
def found() -> Result:
    return conflict_result(model(), world(), TASKS, run="r", n_batches=8, batch=4, rank=2)


def test_every_matrix_and_pair_is_there_and_cosines_are_those_of_the_gradients() -> None:
    result = found()
    gradients = gradients_of(generate(world(), "distance", 32, group="new"), 4)
    names = [*(name for name, gradient in gradients.items() if gradient.ndim == 3), "all"]
    assert {"embed", "0.qkv", "1.down", "all"} <= set(names)
    assert not any("ln" in name or "bias" in name for name in names)
    assert len(result.tables["cosines"]) == len(result.tables["overlaps"]) == len(names) * 3
    assert len(result.tables["spaces"]) == len(names) * 3
    assert result.values["n_parameters"] == sum(gradients[name][0].size for name in names[:-1])
    assert np.diag(result.arrays["cosine"]).tolist() == [1.0, 1.0, 1.0]
    assert result.arrays["cosine"] == pytest.approx(result.arrays["cosine"].T, nan_ok=True)
    for row in result.tables["cosines"]:
        assert row["lo"] is None or row["lo"] <= row["cosine"] <= row["hi"]


def test_subspaces_are_measured_on_the_batches_they_were_not_fitted_on() -> None:
    for row in found().tables["spaces"]:
        assert 0 <= row["own"] <= row["own_in_sample"] + 1e-9
        assert row["effective_directions"] <= 8
    for row in found().tables["overlaps"]:
        assert 0 <= row["overlap"] <= 1
        assert 0 <= row["least_angle"] <= row["largest_angle"] <= 90


def test_shares_written_into_the_map_add_up_and_sit_near_chance_in_a_random_model() -> None:
    rows = found().tables["written"]
    assert {row["matrix"] for row in rows} == {"0.o", "0.down", "1.o", "1.down"}
    assert {row["task"] for row in rows} == set(TASKS)
    assert {row["null"] for row in rows} == {2 / 16}
    assert np.mean([row["share"] <= max(row["null_hi"], row["like_hi"]) + 0.05 for row in rows]) > 0.8


def in_turn(held_bytes: float = gradients.HELD_BYTES) -> gradients.GradientSet:
    rows = {task: generate(world(), task, 16, group="new") for task in TASKS}
    return gradient_set(model(), rows, 4, held_bytes=held_bytes)


def test_inner_products_are_those_of_the_gradients_however_few_are_held() -> None:
    found = in_turn()
    by_task = [gradients_of(generate(world(), task, 16, group="new"), 4) for task in TASKS]
    for name in ("embed", "0.qkv", "1.down"):
        flat = np.concatenate([g[name].reshape(4, -1) for g in by_task]).astype(np.float64)
        np.testing.assert_allclose(found.grams[name], flat @ flat.T, rtol=1e-9, atol=1e-12)
        vectors = found.vectors(name)
        np.testing.assert_allclose(vectors @ vectors.T, flat @ flat.T, rtol=1e-7, atol=1e-10)
        short, whole = null_share(vectors[:5], 2, flat.shape[1]), null_share(flat[:5], 2)
        assert (short.mean, short.sd) == (pytest.approx(whole.mean), pytest.approx(whole.sd))
    few = in_turn(held_bytes=4.0 * 3 * found.sizes["all"])  # three at a time, in float32
    for name, gram in found.grams.items():
        np.testing.assert_allclose(few.grams[name], gram, rtol=1e-6, atol=1e-9)
        for task in TASKS if "." in name and name.split(".")[1] in ("o", "down") else ():
            np.testing.assert_array_equal(few.moments[task][name], found.moments[task][name])


def test_what_is_written_into_directions_follows_from_the_moment() -> None:
    moment = in_turn().moments["angle"]["1.down"]
    gradients = gradients_of(generate(world(), "angle", 16, group="new"), 4)
    outputs = gradients["1.down"].reshape(-1, 16).astype(np.float64)
    columns = np.linalg.qr(np.random.default_rng(0).standard_normal((16, 3)))[0]
    share = np.sum(columns * (moment @ columns)) / np.trace(moment)
    assert share == pytest.approx(energy(outputs, columns).share)
    engine = engine_of(model())
    first = batch_gradient(engine, generate(world(), "angle", 16, group="new"), 2, 4)["1.down"]
    np.testing.assert_array_equal(first, gradients["1.down"][2])


def planted(monkeypatch: pytest.MonkeyPatch, angle: float) -> Result:
    """Two tasks whose expected gradients of every matrix meet at this cosine, under noise."""
    shapes = {name: g.shape[1:] for name, g in gradients_of(_rows(), 4).items()}
    rng = np.random.default_rng(0)
    common, own = ({name: rng.standard_normal(shape) for name, shape in shapes.items()} for _ in range(2))

    def gradient(_: Engine, rows: Rows, index: int, batch: int) -> dict[str, np.ndarray]:
        first = int(rows.task[0]) == 0
        return {
            name: (
                (common[name] if first else angle * common[name] + np.sqrt(1 - angle**2) * own[name])
                + 2 * rng.standard_normal(shape)
            ).astype(np.float32)
            for name, shape in shapes.items()
        }

    monkeypatch.setattr(gradients, "batch_gradient", gradient)
    return conflict_result(model(), world(), TASKS[:2], run="r", n_batches=16, batch=4, rank=1)


def _rows() -> Rows:
    return generate(world(), "distance", 4, group="new")


@pytest.mark.parametrize("angle", [-0.8, 0.0, 0.8])
def test_a_planted_conflict_is_recovered_from_noisy_batches(
    angle: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = planted(monkeypatch, angle)
    row = next(row for row in result.tables["cosines"] if row["matrix"] == "all")
    assert row["cosine"] == pytest.approx(angle, abs=0.1)
    assert row["lo"] - 0.05 <= angle <= row["hi"] + 0.05
    others = {row["matrix"]: row["others"] for row in result.tables["spaces"] if row["task"] == "distance"}
    nulls = {row["matrix"]: row["null_hi"] for row in result.tables["spaces"]}
    assert (others["all"] > nulls["all"]) == (angle != 0.0)


def test_too_few_batches_are_refused() -> None:
    with pytest.raises(AnalysisError, match="rank 4"):
        conflict_result(model(), world(), TASKS[:1], run="r", n_batches=4, batch=4, rank=4)
