"""Implied coordinates: planted places are found for every task, and answers that know nothing give none."""

from dataclasses import replace

import numpy as np
import paths
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cwr_mech.analysis.locating.implied import (
    LabelNoise,
    NumberNoise,
    first_grid,
    fit_noise,
    implied_coordinates,
)
from cwr_mech.analysis.locating.show import error_lines, index_groups, locating, map_figure, questions_needed
from cwr_mech.analysis.locating.survey import (
    LOCATING,
    Survey,
    locate_result,
)
from cwr_mech.analysis.locating.tables import ALL_OTHERS, DEALT, TRUE, divergence_rows, group_rows
from cwr_mech.errors import AnalysisError, UnknownName
from cwr_mech.report.figures import draw
from cwr_mech.results import Row, load_result
from cwr_mech.tasks.registry import COMPASS, PAPER_TASKS, TASKS
from cwr_mech.training.runs import load_run
from cwr_mech.world.cities import load_world

WORLD = load_world(n_cities=256, new="atlantis", n_new=4)
RESOLUTION = {"distance": 1, "trianglearea": 1, "angle": 8, "compass": 60, "perimeter": 1}
"""Mean error allowed to exact answers to 64 questions. Distances, perimeters and roots of areas are rounded
by half a unit at most. Angles are rounded by half a degree, 4 units at 500 units. A compass answer leaves a
cell between the boundaries of 64 x 8 sectors, which cross a line along the world's 2,600 units every 40."""


def survey(tasks: tuple[str, ...] = LOCATING, questions: int = 64) -> Survey:
    return Survey(WORLD, tasks, questions, seed=3, draws=40)


def exact(one: Survey, shift: tuple[int, int] = (0, 0), **planted: tuple[int, int]):
    """Answers of an oracle: true for training cities, for new ones from places moved by `shift`, or by what
    `planted` says for a task."""

    def answer(asked):
        xy = WORLD.xy[one.cities.rows].copy()
        xy[one.cities.is_new] += planted.get(asked.task.name, shift)
        return asked.answers_for(xy).astype(np.float64)

    return answer


@pytest.mark.parametrize("task", LOCATING)
def test_planted_coordinates_are_found_to_rounding(task: str) -> None:
    """Also where they are not the true ones; control: answers from elsewhere do not lead here."""
    one = survey((task,))
    new = one.cities.is_new
    for shift in ((0, 0), (300, -140)):
        found = one.locate(exact(one, shift)).implied[task].xy
        away = np.linalg.norm(found - one.locate(exact(one)).true - np.array(shift), axis=1)
        assert away[new].mean() <= RESOLUTION[task]
        if shift != (0, 0):
            assert (np.linalg.norm(found - WORLD.xy[one.cities.rows], axis=1)[new] > 200).all()


def test_two_places_for_two_tasks_are_both_found() -> None:
    """Distance answers from one place and compass answers from another: each task gives its own."""
    one = survey(("distance", "compass"))
    planted = {"distance": (60, 0), "compass": (-500, 200)}
    located = one.locate(exact(one, **planted))
    new, true = one.cities.is_new, WORLD.xy[one.cities.rows]
    for task, shift in planted.items():
        away = np.linalg.norm(located.implied[task].xy - true - shift, axis=1)[new]
        assert away.mean() <= RESOLUTION[task]
    rows = divergence_rows(
        {}, {task: located.errors(task) for task in planted}, ["distance"], new, np.random.default_rng(0)
    )
    assert rows[0]["task"] == ALL_OTHERS
    expected = np.log(np.hypot(500, 200) / 60)
    assert rows[0]["index_lo"] - 0.1 < expected < rows[0]["index_hi"] + 0.1
    # Control: one place for both tasks, so no divergence.
    same = one.locate(exact(one, (-500, 200)))
    (row, _) = divergence_rows(
        {}, {task: same.errors(task) for task in planted}, ["distance"], new, np.random.default_rng(0)
    )
    assert abs(row["index"]) < 0.2


@pytest.mark.parametrize("task", LOCATING)
def test_answers_that_know_nothing_say_so(task: str) -> None:
    """Dealt answers: resampled places lie hundreds of units apart; control: exact answers, beside them."""
    one = survey((task,))
    controls = one.controls()
    assert np.median(controls[DEALT].radius(task)) > 500
    assert controls[DEALT].errors(task).mean() > 400
    assert np.median(controls[TRUE].radius(task)) < 2 * RESOLUTION[task] + 2


def test_a_constant_answer_leaves_every_place_open() -> None:
    one = survey(("compass",))
    located = one.locate(lambda asked: np.zeros(asked.rows.shape[:2]))
    assert np.median(located.radius("compass")) > 500


def test_unreadable_answers_carry_no_information() -> None:
    """Half of the answers lost: the place stays; control: with those answers wrong it moves."""
    one = survey(("distance",))
    asked, new = one.asked["distance"], one.cities.is_new
    answers = exact(one)(asked)
    lost, wrong = answers.copy(), answers.copy()
    lost[:, ::2] = np.nan
    wrong[:, :40] = wrong[:, :40] / 2
    assert one.locate(lambda _: lost).errors("distance")[new].mean() <= 1
    assert one.locate(lambda _: wrong).errors("distance")[new].mean() > 20
    assert one.locate(lambda _: lost).read["distance"].tolist() == [0.5] * len(new)
    assert one.locate(lambda _: np.full_like(answers, np.nan)).implied == {}


@settings(max_examples=10)
@given(st.integers(-400, 400), st.integers(-400, 400))
def test_a_shift_of_everything_shifts_the_place(x: int, y: int) -> None:
    """Answers know differences of coordinates only, so partners and place move together."""
    one = survey(("distance",), 24)
    asked, (points, step) = one.asked["distance"], first_grid(WORLD.xy)
    answers, shift = exact(one)(asked), np.array([x, y])
    moved = replace(asked, xy=asked.xy + shift)
    noise = NumberNoise(0.0, 0.0)
    first, second = (
        implied_coordinates(questions, answers[:3], noise, where, np.random.default_rng(0), draws=20).xy
        for questions, where in ((asked, (points, step)), (moved, (points + shift, step)))
    )
    np.testing.assert_allclose(second, first + shift, atol=1e-9)


def test_noise_of_numbers_is_that_of_the_answers() -> None:
    """Laplace noise of scale 3 sqrt(1 + f) is found again, to 4 standard errors of 20,000 answers."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 200_000, 20_000)
    scale = 3 * np.sqrt(1 + truth)
    noise = fit_noise(TASKS["trianglearea"], truth, truth + rng.laplace(scale=scale))
    assert isinstance(noise, NumberNoise)
    np.testing.assert_allclose(
        noise.scale(np.array([1_000, 100_000])), 3 * np.sqrt([1_001, 100_001]), rtol=0.1
    )
    exact_noise = fit_noise(TASKS["trianglearea"], truth, truth.astype(float))
    assert isinstance(exact_noise, NumberNoise)
    assert exact_noise.scale(truth).max() < 0.51  # rounding, not 0


def test_noise_of_labels_is_a_table_of_probabilities() -> None:
    """Compass: a quarter of the answers one sector clockwise, of any heading; TRUE, FALSE: as counted."""
    truth = np.arange(8_000) % 8
    noise = fit_noise(TASKS["compass"], truth, ((truth + (np.arange(8_000) // 8 % 4 == 0)) % 8).astype(float))
    assert isinstance(noise, LabelNoise)
    share = np.exp(noise.table)
    np.testing.assert_allclose(share.sum(axis=1), 1)
    for heading in range(len(COMPASS)):
        np.testing.assert_allclose(share[heading, [heading, (heading + 1) % 8]], [0.75, 0.25], atol=0.01)
    never_true = fit_noise(TASKS["inside"], truth % 2, np.zeros(8_000))
    assert isinstance(never_true, LabelNoise)
    np.testing.assert_allclose(np.exp(never_true.table[:, 0]), 1, atol=0.001)


def test_questions_name_the_city_at_every_position_and_partners_once() -> None:
    for task in PAPER_TASKS:
        one = Survey(WORLD, [task], 48, seed=0, draws=20)
        asked = one.asked[task]
        definition = TASKS[task]
        used = np.arange(definition.n_max) < asked.sizes[:, None]
        assert (asked.rows >= 0).tolist() == np.broadcast_to(used, asked.rows.shape).tolist()
        assert set(asked.slot) == set(range(definition.n_max))
        for city, rows in zip(one.cities.rows, asked.rows, strict=True):
            assert (rows[np.arange(48), asked.slot] == city).all()
            for row in rows:
                named = row[row >= 0]
                assert len(set(named)) == len(named)
                assert set(named) - {city} <= set(one.cities.partners)
    assert not set(one.cities.rows) & set(one.cities.partners)
    assert WORLD.is_new[one.cities.rows].sum() == 4 == (~WORLD.is_new[one.cities.rows]).sum()


def test_what_cannot_be_asked() -> None:
    with pytest.raises(UnknownName, match="distnce"):
        Survey(WORLD, ["distnce"])
    with pytest.raises(AnalysisError, match="3 questions"):
        Survey(WORLD, ["distance"], 3)
    with pytest.raises(AnalysisError, match="too few"):
        Survey(load_world(n_cities=13), ["distance"])
    with pytest.raises(AnalysisError, match="can be read"):
        fit_noise(TASKS["distance"], np.arange(100), np.full(100, np.nan))


@pytest.fixture(scope="module")
def shipped():
    """Base, tuned on distance, tuned on compass, and new cities in pretraining; one seed, few questions."""
    names = ("small", "small-ft-distance", "small-ft-compass", "small-all-cities")
    runs = [load_run(paths.ROOT / "zoo" / name) for name in names]
    asked: list[int] = []
    one = Survey(runs[0].world(), ("distance", "compass"), 32, draws=40)
    result = locate_result(runs, one, advance=asked.append)
    assert sum(asked) == 4 * one.answers
    return result


def test_the_trained_task_uses_other_coordinates_than_the_rest(shipped) -> None:
    """The shipped models: the trained task puts new cities within 130 of the truth, the other one beyond; the
    base beyond 600; a model that met them in pretraining, and training cities, within 130."""
    error = {(row["run"], row["task"], row["cities"]): row["error"] for row in shipped.tables["errors"]}
    for run, own, other in (("distance", "distance", "compass"), ("compass", "compass", "distance")):
        assert error[f"zoo:small-ft-{run}", own, "new"] < 130 < error[f"zoo:small-ft-{run}", other, "new"]
    for task in ("distance", "compass"):
        assert error["zoo:small", task, "new"] > 600
        assert error["zoo:small", task, "training"] < 130
        assert error["zoo:small-all-cities", task, "new"] < 130
    index = {row["run"]: row for row in shipped.tables["divergence"] if row["task"] == ALL_OTHERS}
    assert set(index) == {"zoo:small-ft-distance", "zoo:small-ft-compass"}
    for row in index.values():
        assert row["index_lo"] > 0.3
        assert row["excess"] == pytest.approx(row["index"] - row["control"])


def test_the_result_is_shown(shipped, tmp_path) -> None:
    path = shipped.save(tmp_path, "locate")
    assert load_result(path) == shipped
    assert len(draw(shipped, tmp_path, "locate")) == 2
    text = locating(shipped)
    for word in ("Divergence index", "zoo:small-ft-compass", DEALT):
        assert word in text
    lines = error_lines(shipped)
    assert {(line["run"], line["task"]) for line in lines} >= {("zoo:small", "distance"), (TRUE, "compass")}
    assert {row["task"] for row in shipped.tables["divergence"]} == {ALL_OTHERS, "distance", "compass"}
    (first, _) = index_groups(shipped)
    assert first["models"] == "fine-tuned on distance"
    assert float(first["excess"]) == pytest.approx(
        next(row["excess"] for row in shipped.tables["divergence"]), abs=0.01
    )
    needed = {(row["task"], row["answers"]): row for row in questions_needed(shipped)}
    assert needed["distance", TRUE]["50"] == 4
    assert needed["compass", TRUE]["50"] is None or needed["compass", TRUE]["50"] > 4
    assert shipped.arrays["implied"].shape == (4, 2, 32, 2)


def test_runs_are_named_once() -> None:
    run = load_run(paths.ROOT / "zoo" / "small-ft-distance")
    with pytest.raises(AnalysisError, match="once"):
        locate_result([run, run], Survey(run.world(), ("distance",)))


def test_of_many_runs_the_map_shows_each_kind() -> None:
    result = load_result(paths.ROOT / "reports" / "routing" / "results" / "locate-rehearsed.json")
    titles = [ax.get_title() for ax in map_figure(result).axes if ax.get_visible()]
    assert titles == [
        "ripe",
        *(f"ripe-ft-{kind}" for kind in ("distance", "distance-replay-all", "compass-replay-all")),
    ]
    assert len(result.params["runs"]) > len(titles)  # control: there were more to choose from


def test_errors_of_several_models_are_averaged_by_factors() -> None:
    errors = {"a": 10.0, "b": 40.0, "c": 160.0}
    rows: list[Row] = [{"run": run, "task": "distance", "error": error} for run, error in errors.items()]
    labels = dict.fromkeys("abc", "tuned")
    (mean,) = group_rows(rows, labels, ("task",), "error", geometric=True)
    assert mean["error"] == pytest.approx(40)
    assert mean["lo"] * mean["hi"] == pytest.approx(40**2)
    assert 0 < mean["lo"] < 10 < 160 < mean["hi"]  # plain ones would have an end below 0
    (plain,) = group_rows(rows, labels, ("task",), "error")
    assert plain["error"] == pytest.approx(70)
    assert plain["lo"] < 0
    (none,) = group_rows([rows[0] | {"error": None}], labels, ("task",), "error", geometric=True)
    assert none["error"] is None
