"""The best constant answers: no other constant does better, and counting cities helps where it should."""

import numpy as np
import pytest

from cwr_mech.config import PAPER
from cwr_mech.data.rows import concat, generate
from cwr_mech.data.summary import baseline, gain
from cwr_mech.errors import AnalysisError
from cwr_mech.tasks.registry import PAPER_TASKS, TASKS
from cwr_mech.world.cities import load_world

WORLD = load_world(n_cities=300)


@pytest.mark.parametrize("name", PAPER_TASKS)
def test_no_constant_is_better(name):
    task, rows = TASKS[name], generate(WORLD, name, 1200)
    best = baseline(rows)
    assert best.kind == task.kind
    values = range(len(task.labels)) if task.labels else np.unique(rows.values)
    if task.labels:
        scores = [(rows.values == value).mean() for value in values]
        assert best.score == max(scores)
        assert best.median_error is None
        assert best.score_by_size >= best.score
    else:
        scores = [np.abs(rows.values - value).mean() for value in values]
        assert best.score <= min(scores) + 0.5  # the median may lie between two answers, rounded
        assert best.score_by_size <= best.score
    assert task.parse(best.answer) is not None


def test_counting_cities():
    """inside: worth nothing under strict, more than a constant under paper; perimeter: always."""
    strict, paper = (baseline(generate(WORLD, "inside", 6144, **kind)) for kind in ({}, {"protocol": PAPER}))
    assert strict.score == strict.score_by_size == paper.score == 0.5
    assert paper.score_by_size > 0.58
    perimeter = baseline(generate(WORLD, "perimeter", 4000))
    assert perimeter.score_by_size < 0.9 * perimeter.score


def test_refused():
    rows = generate(WORLD, "distance", 10)
    with pytest.raises(AnalysisError, match="2 tasks"):
        baseline(concat([rows, generate(WORLD, "angle", 10)]))
    with pytest.raises(AnalysisError, match="got 0"):
        baseline(rows.take(slice(0, 0)))


@pytest.mark.parametrize(("metric", "perfect", "other"), [("error", 0.0, 7.0), ("accuracy", 1.0, 0.25)])
def test_a_perfect_constant_leaves_no_gap_to_close(metric, perfect, other):
    """One question: the median is the answer. Control: with a gap its share, and perfect answers close it."""
    assert baseline(generate(WORLD, "distance", 1)).score == 0
    assert (gain(metric, perfect, perfect), gain(metric, other, perfect)) == (1.0, 0.0)
    assert (gain(metric, perfect, 0.5), gain(metric, 0.5, 0.5)) == (1.0, 0.0)
