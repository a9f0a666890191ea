"""Pairs of questions: one city apart, both answered, with sources that are what they claim to be."""

import numpy as np
import pytest
from patching_cases import WORLD, some_pairs, truth_of

from cwr_mech.analysis.patching.pairs import correct, digits_differ, find_pairs
from cwr_mech.errors import AnalysisError, UnknownName
from cwr_mech.tasks.registry import TASKS
from cwr_mech.world.cities import load_world

NEW = load_world(n_cities=40, new="scattered", n_new=30, seed=3)


@pytest.mark.parametrize("task", TASKS)
def test_pairs_differ_in_one_city_and_in_their_answer(task):
    pairs = some_pairs(task, 30)
    changed = pairs.clean != pairs.corrupt
    assert (changed.sum(1) == 1).all()
    assert (changed.argmax(1) == pairs.slot).all()
    assert (pairs.clean_answer != pairs.corrupt_answer).all()
    assert np.isin(pairs.corrupt[pairs.corrupt >= 0], WORLD.ids).all(), "never noise: real cities"
    here = np.arange(len(pairs)), pairs.slot
    differ = digits_differ(pairs.clean[here], pairs.corrupt[here], 4)
    np.testing.assert_array_equal(differ, pairs.n_differ)
    prompts = [TASKS[task].prompt(ids) for ids in (pairs.clean, pairs.corrupt, pairs.third)]
    assert all(len(a) == len(b) == len(c) for a, b, c in zip(*prompts, strict=True))
    assert (pairs.third[here] != pairs.clean[here]).all()
    assert (pairs.third[here] != pairs.corrupt[here]).all()
    assert len({row.tobytes() for row in np.hstack([pairs.clean, pairs.corrupt])}) == len(pairs)
    truth = TASKS[task].answer
    for row in range(len(pairs)):
        ids = pairs.clean[row][pairs.clean[row] >= 0]
        assert truth(WORLD.xy_of(ids[None]))[0] == pairs.clean_answer[row]


def test_strata_of_digits_are_all_there():
    """Drawn evenly where cities allow; drawn at random hardly a pair would differ in one digit only."""
    counts = np.bincount(some_pairs("distance", 64).n_differ, minlength=5)
    assert (counts[1:] > 0).all()


@pytest.mark.parametrize(("task", "has_order"), [("distance", True), ("angle", True), ("compass", False)])
def test_control_sources_keep_the_answer(task, has_order):
    pairs = some_pairs(task, 60)
    answer = truth_of(task)
    given = pairs.equal[:, 0] >= 0
    assert given.any()
    equal = pairs.take(given)
    assert (np.array(answer(TASKS[task].prompt(equal.equal))) == equal.clean_answer).all()
    assert (equal.equal != equal.clean).any(1).all()
    assert (pairs.order is not None) == has_order
    if pairs.order is not None:
        assert (np.array(answer(TASKS[task].prompt(pairs.order))) == pairs.clean_answer).all()
        assert (pairs.order != pairs.clean).any(1).all()


def test_attrition_counts_every_candidate_and_its_fate():
    right = truth_of("compass")

    def half_right(prompts):
        return [word if i % 2 else "?" for i, word in enumerate(right(prompts))]

    pairs = find_pairs(half_right, WORLD, "compass", 20)
    assert pairs.attrition["clean answer wrong"] > 0.4 * sum(pairs.attrition.values())
    assert pairs.attrition["kept"] >= len(pairs) == 20
    assert sum(pairs.attrition.values()) % 512 == 0


def test_a_model_that_answers_nothing_is_told_with_the_counts():
    with pytest.raises(
        AnalysisError, match=r"only 0 usable distance pairs of 4096 tried: 4096 clean answer wrong"
    ):
        find_pairs(lambda prompts: ["?"] * len(prompts), WORLD, "distance", 16)
    with pytest.raises(UnknownName, match="unknown task 'size'"):
        find_pairs(lambda prompts: prompts, WORLD, "size", 16)
    with pytest.raises(AnalysisError, match="no city 3 to swap"):
        find_pairs(truth_of("distance"), WORLD, "distance", 16, slot=2)
    with pytest.raises(UnknownName, match="unknown group of cities 'all'"):
        find_pairs(truth_of("distance"), WORLD, "distance", 16, group="all")


def test_new_cities_are_swapped_for_old_ones_where_asked():
    def answer(prompts):
        ids = [[int(part[:4]) for part in prompt.split("c_")[1:]] for prompt in prompts]
        return [TASKS["compass"].answer(NEW.xy_of(np.array([row])))[0] for row in ids]

    for slot in (None, 0, 1):
        pairs = find_pairs(answer, NEW, "compass", 20, group="new", slot=slot)
        here = np.arange(len(pairs)), pairs.slot
        assert NEW.is_new[NEW.rows(pairs.clean[here])].all()
        assert not NEW.is_new[NEW.rows(pairs.corrupt[here])].any()
        assert not NEW.is_new[NEW.rows(pairs.third[here])].any()
        assert slot is None or (pairs.slot == slot).all()
    old = find_pairs(answer, NEW, "compass", 20)
    assert not NEW.is_new[NEW.rows(old.corrupt[:, :2])].any()


CORRECT = [
    ("distance", "100", 105, 5.0, True),
    ("distance", "100", 106, 5.0, False),
    ("distance", "1x0", 100, 50.0, False),
    ("compass", "NE", 1, 9.0, True),
    ("compass", "N", 1, 9.0, False),
]


@pytest.mark.parametrize(("task", "word", "truth", "tolerance", "right"), CORRECT)
def test_correct(task, word, truth, tolerance, right):
    assert correct(TASKS[task], np.array([word]), np.array([truth]), tolerance)[0] == right
