"""Predictors of divergence: what is planted is found, what is carried by one task is said to be."""

import numpy as np
import pytest

from cwr_mech.analysis.prediction.predictors import (
    field_cosine,
    gradient_fields,
    property_similarities,
    similarities,
    task_properties,
    try_prediction,
)
from cwr_mech.analysis.prediction.tables import (
    VARIANTS,
    moments,
    prediction_result,
    published_rows,
)
from cwr_mech.config import ModelConfig, WorldConfig
from cwr_mech.errors import AnalysisError
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.registry import PAPER_TASKS, TASKS
from cwr_mech.world.cities import load_world

TURN = np.array([[0.8, -0.6], [0.6, 0.8]])
CHANGES = {
    "move east": lambda xy: np.add(xy, [300.0, 0.0]),
    "move north": lambda xy: np.add(xy, [0.0, 300.0]),
    "turn": lambda xy: xy @ TURN.T,
    "scale": lambda xy: 3 * xy,
    "shear": lambda xy: xy @ np.array([[1.0, 1.5], [0.0, 1.0]]),
    "squeeze": lambda xy: xy * [3.0, 1 / 3],
}


def model(seed: int = 0) -> HookedQwen2:
    return HookedQwen2(ModelConfig(n_layers=2, d_model=16, n_heads=2, d_mlp=16, init_std=0.3), seed=seed)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("task", PAPER_TASKS)
def test_a_change_of_the_world_leaves_the_answers_of_the_tasks_it_is_listed_for(
    task: str, change: str
) -> None:
    size = TASKS[task].n_max
    xy = np.random.default_rng(1).uniform(-50_000, 50_000, (200, size, 2))
    before, after = (
        TASKS[task].answer_value(np.rint(places).astype(np.int64)) for places in (xy, CHANGES[change](xy))
    )
    same = float(np.mean(np.isclose(before, after, rtol=0, atol=0.02 * np.ptp(before))))
    if change in TASKS[task].invariances:  # but for answers that rounding of the places decides
        assert same >= 0.98
    else:
        assert same < 0.9


def test_cosine_of_fields_is_free_of_the_noise_of_questions() -> None:
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((2, 400, 30))
    truth[1] = 0.6 * truth[0] + 0.8 * truth[1]
    a, b = (t + 2 * rng.standard_normal((2, *t.shape)) for t in truth)
    assert field_cosine(a, b) == pytest.approx(0.6, abs=0.06)
    assert field_cosine(a, a) > 1.5  # one field with itself shares its noise: never compare so
    mean_a, mean_b = a.sum(0), b.sum(0)
    naive = np.sum(mean_a * mean_b) / np.linalg.norm(mean_a) / np.linalg.norm(mean_b)
    assert naive < 0.35
    noise = np.stack([truth[0], -truth[0]])
    assert np.isnan(field_cosine(noise, b))


def test_similar_fields_are_alike_by_every_measure() -> None:
    rng = np.random.default_rng(1)
    shared, other = (rng.standard_normal((60, 4)) @ rng.standard_normal((4, 20)) for _ in range(2))
    fields = {
        name: base + 0.1 * rng.standard_normal((2, *base.shape))
        for name, base in (("a", shared), ("b", shared), ("c", other))
    }
    for name, values in similarities(fields).items():
        assert values == pytest.approx(values.T)
        assert values[0, 1] > 0.9 > 0.5 > values[0, 2], name


def test_fields_of_a_model() -> None:
    world = load_world(WorldConfig(n_cities=30))
    fields = gradient_fields(model(), world, ("distance", "angle"), layer=0, n_rows=600)
    assert {field.shape for field in fields.values()} == {(2, 30, 16)}
    first, second = fields["distance"]
    assert not np.array_equal(first, second)
    with pytest.raises(AnalysisError, match="named first by all tasks"):
        gradient_fields(model(), world, ("distance",), layer=0, n_rows=4)
    with pytest.raises(AnalysisError, match="no gradient reaches a city after block 1"):
        gradient_fields(model(), world, ("distance",), layer=1, n_rows=600)


def test_properties_of_the_tasks() -> None:
    found = task_properties(load_world(WorldConfig(n_cities=100)), n=512)
    assert found["distance"]["cities"] == 2
    assert found["trianglearea"]["cities"] == 3
    assert 0.9 < found["crossing"]["entropy"] <= 1  # two labels, balanced
    assert found["compass"]["entropy"] <= 3
    similar = property_similarities(found)
    near, tasks = similar["invariances"], list(found)
    assert near[tasks.index("distance"), tasks.index("perimeter")] == 1
    assert near[tasks.index("inside"), tasks.index("crossing")] == 1
    assert near[tasks.index("distance"), tasks.index("inside")] == 0.5
    assert similar["cities"][tasks.index("distance"), tasks.index("trianglearea")] == -1


def square(rng: np.random.Generator, n: int = 7) -> np.ndarray:
    values = rng.standard_normal((n, n))
    return values + values.T


def test_a_planted_predictor_passes_and_one_carried_by_a_task_is_found_out() -> None:
    rng = np.random.default_rng(2)
    outcome = square(rng)
    found = try_prediction(outcome + 0.3 * square(rng), outcome, PAPER_TASKS, rng)
    assert found["p"] < 0.01
    assert found["r_lo"] > 0.7
    assert found["n"] == 21
    carried = 0.5 * square(rng)
    alone = 0.5 * square(rng)
    for matrix in (carried, alone):  # the two agree about distance only
        matrix[0], matrix[:, 0] = -4, -4
    found = try_prediction(carried, alone, PAPER_TASKS, rng)
    assert found["r"] > 0.6
    assert found["without"] == "distance"
    assert found["r_lo"] < 0.4
    flat = try_prediction(np.ones((7, 7)), alone, PAPER_TASKS, rng)
    assert (flat["r"], flat["p"]) == (None, None)


def test_predictors_that_know_nothing_pass_one_time_in_twenty() -> None:
    rng = np.random.default_rng(3)
    p = [try_prediction(square(rng, 5), square(rng, 5), PAPER_TASKS[:5], rng)["p"] for _ in range(200)]
    assert np.mean(np.array(p) < 0.05) < 0.1
    assert 0.3 < np.mean(p) < 0.7


def test_result_tries_everything_against_everything() -> None:
    world = load_world(WorldConfig(n_cities=24))
    own = np.random.default_rng(0).uniform(0, 1, (7, 7))
    result = prediction_result(
        {"untrained": model, "step 9": lambda: model(1)}, world, {"own": own}, run="r", layer=0, n_rows=400
    )
    tests = result.tables["tests"]
    assert len(tests) == (2 * 3 + 3 + 1) * 3 * 2 == result.values["n_tests"]
    published = [r for r in tests if r["predictor"] == "parameter cosine" and r["left_out"] == "none"]
    assert {r["outcome"] for r in published} == {"published CKA", "published transfer", "own"}
    assert f"{len(tests)} tests" in result.notes[1]
    own[PAPER_TASKS.index("inside"), 0] = np.nan  # what is not known of one task leaves it out
    again = prediction_result({"untrained": model}, world, {"own": own}, run="r", layer=0, n_rows=400)
    mine = [row for row in again.tables["tests"] if row["outcome"] == "own"]
    assert {(row["left_out"], row["n"]) for row in mine} == {("inside", 15), ("inside, crossing", 10)}


def test_the_published_rows_show_what_distance_carries() -> None:
    rows = {r["pairs"]: r for r in published_rows()}
    assert list(rows) == [name for name, _, _ in VARIANTS]
    assert rows["without crossing (as published)"]["r2"] == pytest.approx(0.19, abs=0.005)
    assert rows["without crossing and distance"]["r2"] < 0.01


@pytest.mark.parametrize(
    ("steps", "chosen"),
    [((), [0]), ((0,), [0]), ((0, 10, 100, 200, 1000), [0, 10, 100, 1000]), ((5,), [0, 5])],
)
def test_moments(steps: tuple[int, ...], chosen: list[int]) -> None:
    assert moments(steps) == chosen
