"""Rows: pure functions of their range, equal to the string route, refused when they cannot be made."""

import hashlib
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from cwr_mech.config import PAPER, STRICT, WorldConfig
from cwr_mech.data.rows import (
    Rows,
    Stream,
    concat,
    generate,
)
from cwr_mech.data.sampling import BLOCK_ROWS
from cwr_mech.data.splits import SPLITS
from cwr_mech.errors import ConfigError, UnknownName, WorldError
from cwr_mech.tasks.registry import PAPER_TASKS, TASKS
from cwr_mech.tasks.tokenizer import Tokenizer
from cwr_mech.world.cities import World, load_world

names = pytest.mark.parametrize("name", PAPER_TASKS)


@cache
def world(**settings):
    return load_world(**({"n_cities": 300, "new": "atlantis", "n_new": 20} | settings))


def same(a, b):
    return all(
        np.array_equal(getattr(a, key), getattr(b, key))
        for key in ("tokens", "lengths", "answer_start", "task", "cities", "values")
    )


@names
def test_tokens_equal_the_string_route(name):
    """Every token, length and place against prompt + answer + Tokenizer.encode, row by row."""
    task, w = TASKS[name], world()
    rows = concat([generate(w, name, 300, group=group) for group in ("old", "new", "all")])
    for row in range(len(rows)):
        ids = rows.cities[row][rows.cities[row] >= 0].astype(np.int64)
        prompt = task.prompt(ids[None])[0]
        text = prompt + task.answer(w.xy_of(ids[None]))[0]
        tokens = Tokenizer().encode(text)
        assert rows.tokens[row].tolist() == tokens + [0] * (rows.tokens.shape[1] - len(tokens))
        assert rows.lengths[row] == len(tokens)
        assert rows.answer_start[row] == len(Tokenizer().encode_prompt(prompt))
        assert rows.text(row) == text
        assert task.parse(text) == rows.values[row]
    assert rows.prompts() == [rows.text(row).partition("=")[0] + "=" for row in range(len(rows))]
    assert rows.tokens.shape[1] == task.max_tokens()


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(PAPER_TASKS),
    st.sampled_from(SPLITS),
    st.sampled_from(["old", "new", "all"]),
    st.booleans(),
    st.integers(0, 2 * BLOCK_ROWS),
    st.integers(1, 700),
    st.integers(1, 700),
)
def test_a_range_does_not_depend_on_the_rows_around_it(name, split, group, paper, start, n, more):
    options = {"split": split, "group": group, "protocol": PAPER if paper else STRICT}
    whole = generate(world(), name, n + more, start=start, **options)
    tail = generate(world(), name, more, start=start + n, **options)
    assert same(whole.take(slice(len(whole) - len(tail), None)), tail)
    if not paper:
        assert len(whole) == n + more
        assert len(tail) == more
    stream = Stream(world(), name, start=start, **options)
    assert same(concat([stream.take(n), stream.take(more)]), whole)
    assert stream.position == start + n + more
    stream.position = start + n
    assert same(stream.take(more), tail)


@names
def test_seed_split_and_group_each_change_the_rows(name):
    base = {"split": "train", "seed": 42, "group": "old"}
    first = generate(world(), name, 200, **base)
    for change in ({"split": "test"}, {"seed": 43}, {"group": "all"}, {"group": "new"}):
        other = generate(world(), name, 200, **(base | change))
        assert not same(first, other)


# Digests of the tokens of 200 test rows of a world made by hand. A change here changes every data set that
# was ever trained or tested on, so it must be on purpose.
PINNED = {
    "distance": "e3c388b8efd2296a",
    "trianglearea": "459549b9e52c557d",
    "angle": "76571d186c1f267b",
    "compass": "5a925ee02f054897",
    "inside": "98fdf1bad5ed3554",
    "perimeter": "5880750d14a58136",
    "crossing": "03fbc078a8f5b0ef",
}


@names
def test_pinned(name):
    number = np.arange(100)
    w = World(
        ids=1000 + 89 * number,
        names=tuple(map(str, number)),
        xy=np.stack([(number * 613) % 3601 - 1800, (number * 389) % 1801 - 900], axis=1),
        region=np.full(100, "Nowhere"),
        is_new=number >= 90,
        config=WorldConfig(n_cities=90),
    )
    parts = [generate(w, name, 100, split="test", group=group) for group in ("old", "new")]
    digest = hashlib.sha256(b"".join(rows.tokens.tobytes() for rows in parts)).hexdigest()
    assert digest[:16] == PINNED[name]


def test_the_same_bytes_in_another_process():
    """Nothing depends on salted hashes."""
    code = (
        "import hashlib; from cwr_mech.data.rows import generate\n"
        "from cwr_mech.world.cities import load_world\n"
        "w = load_world(source='grid', n_cities=100)\n"
        "d = hashlib.sha256()\n"
        f"for name in {PAPER_TASKS!r}: d.update(generate(w, name, 50, split='test').tokens.tobytes())\n"
        "print(d.hexdigest())"
    )
    digest = hashlib.sha256()
    for name in PAPER_TASKS:
        rows = generate(load_world(source="grid", n_cities=100), name, 50, split="test")
        digest.update(rows.tokens.tobytes())
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for salt in ("1", "2")
    }
    assert found == {digest.hexdigest()}


# settings of the world, options of generate, error, message
REFUSED = [
    ({}, {"name": "distanse"}, UnknownName, "unknown task 'distanse'"),
    ({}, {"split": "dev"}, UnknownName, "unknown split 'dev'"),
    ({}, {"group": "both"}, UnknownName, "unknown group 'both'"),
    ({}, {"label_noise_kind": "loud"}, UnknownName, "unknown kind of label noise 'loud'"),
    ({}, {"label_noise": 1.5}, ConfigError, "share between 0 and 1, got 1.5"),
    ({}, {"n": 0}, ConfigError, "at least one row"),
    ({}, {"start": -1}, ConfigError, "start=-1"),
    ({}, {"seed": -1}, ConfigError, "seed=-1"),
    ({"new": "none"}, {"group": "new"}, WorldError, "this world has none"),
    (
        {"n_cities": 5},
        {"name": "inside"},
        WorldError,
        "task 'inside' needs 6 cities and this world has 5 training cities",
    ),
    (
        {"source": "uniform", "n_cities": 2, "new": "none"},
        {"split": "val"},
        WorldError,
        "hardly any, distance query in split 'val'",
    ),
    (
        {"source": "uniform", "n_cities": 4, "new": "none"},
        {"name": "crossing", "split": "test"},
        WorldError,
        "crossing query with answer",
    ),
]


@pytest.mark.parametrize(("settings", "options", "error", "message"), REFUSED)
def test_refused(settings, options, error, message):
    options = {"name": "distance", "n": 5} | options
    with pytest.raises(error) as caught:
        generate(world(**settings), options.pop("name"), options.pop("n"), **options)
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_three_digit_ids():
    rows = generate(world(id_digits=3), "distance", 10)
    assert rows.tokens.shape[1] == 24
    assert len(rows.text(0).partition("=")[0]) == len("dist(c_123,c_456)")


def test_rows_take_and_concat():
    rows = concat([generate(world(), name, 4) for name in ("distance", "inside")])
    assert rows.tokens.shape == (8, 57)
    assert rows.task.tolist() == [0] * 4 + [4] * 4
    picked = rows.take(np.array([7, 0]))
    assert isinstance(picked, Rows)
    assert [picked.text(0), picked.text(1)] == [rows.text(7), rows.text(0)]
    assert rows.take(rows.task == 4).texts() == rows.texts()[4:]
    with pytest.raises(ConfigError):
        concat([])


def test_rows_as_a_table_and_as_a_torch_dataset() -> None:
    rows = concat([generate(load_world(n_cities=50), task, 20) for task in ("distance", "perimeter")])
    table = rows.to_pandas()
    assert (table["question"] + table["answer"]).tolist() == rows.texts() == list(rows)
    assert table["task"].value_counts().to_dict() == {"distance": 20, "perimeter": 20}
    assert table.loc[0, "question"] == f"dist(c_{table.loc[0, 'city1']},c_{table.loc[0, 'city2']})="
    assert table["city3"].isna().sum() >= 20, "distance has two cities"
    assert repr(rows) == f"Rows(40 of distance, perimeter, {rows.tokens.shape[1]} tokens wide)"
    batch = next(iter(DataLoader(rows.to_dataset(), batch_size=40)))
    assert (batch["input_ids"].numpy() == rows.tokens).all()
    assert (batch["attention_mask"].sum(1).numpy() == rows.lengths).all()
    for row, labels in enumerate(batch["labels"].numpy()):
        kept = labels[labels != -100].tolist()
        assert Tokenizer().decode(kept) == table.loc[row, "answer"]
        assert kept[-1] == Tokenizer.eos
    assert (batch["labels"] == -100).any(1).all(), "control: questions do not count"
