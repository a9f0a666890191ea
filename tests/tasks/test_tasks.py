"""The seven tasks: golden answers, text, parsers, and which orders of cities ask the same question."""

import json
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import GOLDEN

from cwr_mech.errors import UnknownName, WorldError
from cwr_mech.tasks.registry import PAPER_TASKS, TASKS, get_task

ANSWERS = json.loads((GOLDEN / "task_answers.json").read_text())["rows"]

# task, cities, the question, beginning with the first city, tokens of the longest row (the reference's)
TEXTS = [
    ("distance", [865, 4879], "dist(c_0865,c_4879)=", "dist(c_0865,", 26),
    ("trianglearea", [1234, 5678, 9012], "triarea(c_1234,c_5678,c_9012)=", "triarea(c_1234,", 39),
    ("angle", [2345, 6789, 123], "angle(c_2345,c_6789,c_0123)=", "angle(c_2345,", 33),
    ("compass", [1234, 5678], "compass(c_1234,c_5678)=", "compass(c_1234,", 27),
    ("inside", [9012, 3456, 7890, 1122], "inside(c_9012;c_3456,c_7890,c_1122)=", "inside(c_9012;", 57),
    ("perimeter", [4567, 8901, 2345], "perimeter(c_4567,c_8901,c_2345)=", "perimeter(c_4567,", 53),
    ("crossing", [2345, 6789, 123, 4567], "cross(c_2345,c_6789;c_0123,c_4567)=", "cross(c_2345,", 42),
]

# task, text, value
PARSED = [
    ("distance", "769", 769),
    ("distance", "dist(c_0865,c_4879)=769", 769),
    ("distance", "0", 0),
    ("distance", "", None),
    ("distance", "769a", None),
    ("distance", "-5", None),
    ("distance", "7.5", None),
    ("distance", "٣", None),  # a digit, but none of ours
    ("distance", "9" * 40, None),
    ("compass", "N", 0),
    ("compass", "compass(c_1,c_2)=NW", 7),
    ("compass", "n", None),
    ("compass", "NN", None),
    ("inside", "TRUE", 1),
    ("inside", "FALSE", 0),
    ("crossing", "TRUEE", None),
    ("crossing", "1", None),
]


def test_order_of_tasks():
    """Splits and seeds follow from this order."""
    seven = ["distance", "trianglearea", "angle", "compass", "inside", "perimeter", "crossing"]
    assert list(PAPER_TASKS) == seven
    assert [TASKS[name].key for name in seven] == [0, 1, 2, 3, 4, 5, 6]
    assert [TASKS.at(index).name for index in range(7)] == seven == list(TASKS)[:7]


@pytest.mark.parametrize("name", PAPER_TASKS)
def test_golden_answers_of_the_reference(name):
    rows = [row for row in ANSWERS if row["task"] == name]
    assert len(rows) == 60
    task = TASKS[name]
    found = [task.answer(np.array([row["xy"]]))[0] for row in rows]
    assert found == [row["answer"] for row in rows]
    # Control: with the points in the opposite order the answers of an asymmetric task differ.
    turned = [task.answer(np.array([row["xy"][::-1]]))[0] for row in rows]
    assert (turned == found) == (name not in ("compass", "inside"))


@pytest.mark.parametrize("name", ["inside", "perimeter"])
def test_golden_answers_of_padded_rows_at_once(name):
    rows = [row for row in ANSWERS if row["task"] == name]
    task = TASKS[name]
    xy = np.zeros((60, task.n_max, 2), dtype=np.int64)
    for row, place in zip(rows, xy, strict=True):
        place[: len(row["xy"])] = row["xy"]
    sizes = np.array([len(row["xy"]) for row in rows])
    assert len(set(sizes.tolist())) > 2
    assert task.answer(xy, sizes) == [row["answer"] for row in rows]


@pytest.mark.parametrize(("name", "ids", "question", "begin", "tokens"), TEXTS)
def test_texts(name, ids, question, begin, tokens):
    task = TASKS[name]
    assert task.prompt(np.array([ids])) == [question]
    padded = ids + [-1] * (task.n_max - len(ids))
    assert task.prompt(np.array([padded])) == [question]
    assert task.city_prompt(np.array(ids[:1])) == [begin]
    assert task.max_tokens() == tokens
    short = task.prompt(np.array([[i % 1000 for i in ids]]), id_digits=3)[0]
    assert len(short) == len(question) - len(ids)


@pytest.mark.parametrize(("name", "text", "value"), PARSED)
def test_parse(name, text, value):
    assert TASKS[name].parse(text) == value


@given(st.sampled_from(PAPER_TASKS), st.integers(0, 10**7 - 1))
def test_parse_reads_what_format_writes(name, number):
    task = TASKS[name]
    value = number % len(task.labels) if task.labels else number % 10**task.max_digits
    text = task.format(value)
    assert task.parse(text) == value
    assert len(text) < task.max_answer_tokens
    assert task.parse(text + "?") is None


def test_errors():
    with pytest.raises(UnknownName, match="unknown task 'distanse'"):
        get_task("distanse")
    with pytest.raises(WorldError, match="inside takes 4 to 6 cities, got 3"):
        TASKS["inside"].prompt(np.array([[1, 2, 3, -1]]))
    with pytest.raises(WorldError, match="crossing takes 4 cities, got 5"):
        TASKS["crossing"].answer(np.zeros((1, 5, 2), dtype=np.int64))


ORDERS = [
    (name, size, expected)
    for name, size, expected in [
        ("distance", 2, 1),
        ("trianglearea", 3, 1),
        ("angle", 3, 3),
        ("compass", 2, 1),
        ("inside", 4, 4),
        ("inside", 5, 5),
        ("inside", 6, 6),
        ("perimeter", 2, 1),
        ("perimeter", 3, 1),
        ("perimeter", 4, 3),
        ("perimeter", 5, 12),
        ("crossing", 4, 3),
    ]
]


@pytest.mark.parametrize(("name", "size", "expected"), ORDERS)
def test_canonical_merges_exactly_the_orders_that_ask_the_same(name, size, expected):
    """All orders of distinct cities fall into the right number of equally large classes, one answer each."""
    task = TASKS[name]
    rng = np.random.default_rng(size)
    cities = rng.permutation(9000)[:size] + 1000
    place = dict(zip(cities.tolist(), rng.integers(-900, 900, size=(size, 2)), strict=True))
    ids = np.array(list(permutations(cities.tolist())))
    padded = np.pad(ids, ((0, 0), (0, task.n_max - size)), constant_values=-1)
    canonical = [tuple(row) for row in task.canonical(padded).tolist()]
    assert [tuple(row[:size]) for row in canonical] == [tuple(row) for row in task.canonical(ids).tolist()], (
        "padding changes nothing"
    )
    classes = Counter(canonical)
    assert len(classes) == expected
    assert len(set(classes.values())) == 1
    assert {tuple(row) for row in task.canonical(np.array(list(classes))).tolist()} == set(classes)
    if name != "compass":  # whose two directions are one query with two opposite answers
        answers = task.answer(np.array([[place[city] for city in row] for row in ids.tolist()]))
        assert all(len({a for a, c in zip(answers, canonical, strict=True) if c == k}) == 1 for k in classes)


@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=50).map(np.array))
def test_crossing_canonical_with_repeated_cities(ids):
    task = TASKS["crossing"]
    once = task.canonical(ids)
    for order in ((1, 0, 2, 3), (0, 1, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0)):
        assert (task.canonical(ids[:, order]) == once).all()
