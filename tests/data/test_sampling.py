"""Drawn queries: balance, groups, protocols, tiny worlds, and splits that never share a query."""

from collections import Counter
from functools import cache
from itertools import combinations

import numpy as np
import pytest

from cwr_mech.config import PAPER, Protocol
from cwr_mech.data.rows import generate
from cwr_mech.data.splits import SPLITS, query_hash, split_of
from cwr_mech.tasks.registry import BLOCK_ROWS, PAPER_TASKS, TASKS
from cwr_mech.world.cities import load_world

names = pytest.mark.parametrize("name", PAPER_TASKS)


@cache
def world(**settings):
    return load_world(**({"n_cities": 300, "new": "atlantis", "n_new": 20} | settings))


def queries(rows, name):
    """Hash of the canonical query of each row."""
    return query_hash(TASKS[name], rows.cities[:, : TASKS[name].n_max].astype(np.int64))


def sizes(rows):
    return (rows.cities >= 0).sum(axis=1)


@names
def test_strata_share_a_block_equally(name):
    for strata in (TASKS[name].strata, TASKS[name].reference_strata):
        assert not strata or BLOCK_ROWS % len(strata) == 0


@names
@pytest.mark.parametrize("group", ["old", "new", "all"])
def test_groups(name, group):
    w = world()
    rows = generate(w, name, 2000, group=group)
    used = rows.cities >= 0
    is_new = np.zeros_like(used)
    is_new[used] = w.is_new[w.rows(rows.cities[used].astype(np.int64))]
    has_new = is_new.any(axis=1)
    if group == "all":
        assert 0 < has_new.mean() < 1
    else:
        assert (has_new == (group == "new")).all()
    if group == "new":  # new cities stand at every place
        assert is_new.any(axis=0)[: TASKS[name].n_max].all()
    ordered = np.sort(np.where(used, rows.cities, -1 - np.arange(6)), axis=1)
    assert (np.diff(ordered, axis=1) != 0).all(), "all cities of a query are distinct"


def test_cities_are_drawn_uniformly():
    rows = generate(world(), "trianglearea", 30 * BLOCK_ROWS)
    for place in range(3):
        count = np.bincount(world().rows(rows.cities[:, place].astype(np.int64)), minlength=300)[:300]
        expected = count.sum() / 300
        chi2 = float(((count - expected) ** 2 / expected).sum())
        assert 200 < chi2 < 420  # 299 degrees of freedom: mean 299, sd 24


def test_inside_is_balanced_within_every_number_of_hull_points():
    rows = generate(world(), "inside", 6 * 200, start=6 * 5)
    counts = Counter(zip(sizes(rows).tolist(), rows.values.tolist(), strict=True))
    assert counts == {(size, label): 200 for size in (4, 5, 6) for label in (0, 1)}
    paper = generate(world(), "inside", 2 * BLOCK_ROWS, protocol=PAPER)
    assert paper.values.mean() == 0.5
    true_share = [paper.values[sizes(paper) == size].mean() for size in (4, 5, 6)]
    assert true_share[0] < 0.4 < 0.6 < true_share[2]  # the number of hull points gives the label away


def test_each_switch_of_the_protocol_works_alone():
    only = Protocol(inside_balance_within_n=False)
    rows = generate(world(), "inside", 4000, protocol=only)
    assert rows.values[sizes(rows) == 6].mean() > 0.6
    assert (split_of(TASKS["inside"], rows.cities.astype(np.int64)) == 0).all()
    only = Protocol(crossing_keeps_label=False)
    rows = generate(world(), "crossing", 4000, protocol=only, split="test")
    assert 0.22 < rows.values.mean() < 0.31
    assert (split_of(TASKS["crossing"], rows.cities[:, :4].astype(np.int64)) == 2).all()
    only = Protocol(refill_repeats=False)
    rows = generate(world(n_cities=30), "angle", 4000, protocol=only)
    assert 0.85 < len(rows) / 4000 < 0.95  # about 3 in 30 triples name a city twice
    assert len(generate(world(n_cities=30), "angle", 4000)) == 4000
    assert len(generate(world(n_cities=30), "perimeter", 4000, protocol=only)) == 4000
    only = Protocol(split_by_hash=False)
    rows = generate(world(), "distance", 4000, protocol=only)
    assert set(split_of(TASKS["distance"], rows.cities[:, :2].astype(np.int64)).tolist()) == {0, 1, 2}


def test_crossing_is_balanced_and_written_in_every_way():
    rows = generate(world(), "crossing", 20_000)
    assert rows.values.mean() == 0.5
    assert (rows.values.reshape(-1, 2).sum(axis=1) == 1).all()
    a, b, c, d = rows.cities[:, :4].T
    smaller_first = [(a < b).mean(), (c < d).mean(), (np.minimum(a, b) < np.minimum(c, d)).mean()]
    for label in (0, 1):
        chosen = rows.values == label
        assert abs(np.mean(a[chosen] < b[chosen]) - 0.5) < 0.02
    assert np.allclose(smaller_first, 0.5, atol=0.02)


def test_perimeter_has_every_number_of_cities_equally_often():
    rows = generate(world(), "perimeter", 400)
    assert Counter(sizes(rows).tolist()) == dict.fromkeys((2, 3, 4, 5), 100)


@names
def test_tiny_worlds_repeat_rows_but_never_across_splits(name):
    w = world(source="uniform", n_cities=12, new="none")
    rows = {split: queries(generate(w, name, 3000, split=split), name) for split in SPLITS}
    assert len(set(rows["train"].tolist())) < 3000 or name in ("inside", "perimeter", "crossing")
    assert not set(rows["train"].tolist()) & set(rows["test"].tolist())
    assert not set(rows["val"].tolist()) & set(rows["test"].tolist())


def test_paper_deals_pairs_without_replacement_and_only_distance_has_disjoint_splits():
    w = world(n_cities=150)
    deck, third = 150 * 149 // 2, 150 * 149 // 6
    for name in ("distance", "compass"):
        one = generate(w, name, deck, protocol=PAPER, split="val")
        n_once = third if name == "distance" else deck  # distance's deck is shared by its three splits
        assert len(set(queries(one, name)[:n_once].tolist())) == n_once
        asked = [
            set(queries(generate(w, name, third, protocol=PAPER, split=s), name).tolist()) for s in SPLITS
        ]
        shared = sum(len(a & b) for a, b in combinations(asked, 2))
        assert (shared == 0) == (name == "distance")
        a, b = one.cities[:, :2].T
        assert abs((a < b).mean() - 0.5) < 0.03
    strict = generate(w, "distance", third)
    assert len(set(queries(strict, "distance").tolist())) < third
