"""Tables of a sweep: ratios, intervals and tests against values that can be worked out by hand."""

import numpy as np
import pytest
from patching_cases import model_of, some_pairs

from cwr_mech.analysis.patching.cells import Cell, grid
from cwr_mech.analysis.patching.layout import CONDITIONS, INTERCHANGE
from cwr_mech.analysis.patching.summary import course, turning_points
from cwr_mech.analysis.patching.survey import patch_result, pooled_result, tasks_result
from cwr_mech.analysis.patching.sweep import Sweep, sweep
from cwr_mech.analysis.patching.table import (
    confirm,
    pool,
    pool_followed,
    resample,
    tabulate,
)
from cwr_mech.errors import AnalysisError
from cwr_mech.results import Result, load_result

CELLS = tuple(Cell("resid_post", layer, None, "equals") for layer in range(3))


def made_up(effect, n=40, noise=0.3, seed=0):
    """A sweep whose cells recover these shares of a gap of 4 (2 pairs a city), with noise."""
    rng = np.random.default_rng(seed)
    clean, corrupt = rng.normal(2, 0.5, (1, n)), rng.normal(-2, 0.5, (1, n))
    gap = (clean - corrupt).mean()
    moved = np.array(effect)[:, None, None] * gap + noise * rng.normal(size=(len(effect), 1, n))
    patched = np.stack([corrupt + moved, clean - moved])
    return Sweep(CELLS[: len(effect)], INTERCHANGE, ("logit_diff",), clean, corrupt, patched), np.arange(
        n
    ) // 2


def test_recovered_is_the_ratio_of_means_and_its_interval_covers_it():
    swept, cities = made_up([0.0, 0.5, 1.0])
    rows = tabulate(swept, cities, np.random.default_rng(0))
    for condition, direction in enumerate(("denoise", "noise")):
        for c, truth in enumerate((0.0, 0.5, 1.0)):
            row = rows[3 * condition + c]
            sign = 1 if direction == "denoise" else -1
            start = swept.corrupt if direction == "denoise" else swept.clean
            ratio = sign * (swept.patched[condition, c] - start).mean() / (swept.clean - swept.corrupt).mean()
            assert (row["direction"], row["n"]) == (direction, 40)
            assert row["recovered"] == pytest.approx(ratio)
            assert row["lo"] < row["recovered"] < row["hi"]
            assert row["recovered"] == pytest.approx(truth, abs=0.1)
            assert (row["p_adj"] < 0.05) == (truth > 0)


def test_cells_without_pairs_are_not_numbers():
    swept, cities = made_up([0.5])
    swept.patched[:, 0, 0, 5:] = np.nan
    row = tabulate(swept, cities, np.random.default_rng(0))[0]
    assert row["n"] == 5
    swept.patched[:] = np.nan
    row = tabulate(swept, cities, np.random.default_rng(0))[0]
    assert row["n"] == 0
    assert np.isnan([row["effect"], row["recovered"], row["p"], row["lo"]]).all()


def test_pairs_of_one_city_are_resampled_together():
    cities = np.repeat(np.arange(6), 3)
    draws = resample(cities, np.random.default_rng(0))
    assert draws.exact
    assert draws.signs.shape == (64, 18)
    for weights in (draws.boot, draws.signs):
        assert (weights.reshape(len(weights), 6, 3).std(2) == 0).all()
    assert (draws.boot.sum(1) == 18).all()
    assert not resample(np.arange(40), np.random.default_rng(0)).exact


def test_confirmation_keeps_what_is_there_and_drops_noise():
    swept, cities = made_up([0.0, 0.5, 1.0], n=80)
    assert confirm(swept, cities, np.random.default_rng(1)) == {"discovered": 2, "confirmed": 2, "cells": 3}
    nothing, cities = made_up([0.0, 0.0, 0.0], n=80, seed=3)
    assert confirm(nothing, cities, np.random.default_rng(1))["confirmed"] == 0


def test_pooling_takes_models_as_units():
    """Eight models of share 0.5: the interval is about models, however many pairs each had."""
    tables = []
    for seed in range(8):
        swept, cities = made_up([0.5 + 0.05 * (seed % 2), 0.0], seed=seed)
        rows = [row | {"null": 0.1} for row in tabulate(swept, cities, np.random.default_rng(0))]
        tables.append([row for row in rows if row["source"] == "counterfactual"])
    pooled = pool(tables, np.random.default_rng(0))
    assert pooled[0]["n"] == 8
    assert pooled[0]["lo"] < 0.525 < pooled[0]["hi"]
    assert pooled[0]["hi"] - pooled[0]["lo"] < 0.15
    assert pooled[0]["p"] == pytest.approx(2 / 256)
    assert pooled[1]["p_adj"] > 0.05
    heads = [[row | {"head": 0} if i % 2 else row for i, row in enumerate(table)] for table in tables]
    assert len(pool(heads, np.random.default_rng(0))) == len(pooled) / 2, (
        "heads of two models have nothing in common"
    )
    with pytest.raises(AnalysisError, match="cannot be pooled"):
        pool([tables[0], tables[1][1:]], np.random.default_rng(0))


def test_pooled_answers_are_means_over_models():
    tables = [[{"layer": 0, "n": 64, "iia": share, "lo": 0.0, "hi": 1.0, "slope": None}]
              for share in (0.4, 0.5, 0.6)]  # fmt: skip
    (row,) = pool_followed(tables)
    assert (row["n"], row["iia"]) == (3, pytest.approx(0.5))
    assert 0 < row["lo"] < 0.4
    assert np.isnan(row["slope"])


def rows_of(last, equals, null):
    """The residual stream's rows at two places, and a head that brings the city to '='."""
    base = {"component": "resid_post", "direction": "denoise", "subspace": None, "head": None, "null": null}
    spans = [("swapped_last", i, v) for i, v in enumerate(last)] + [
        ("equals", i, v) for i, v in enumerate(equals)
    ]
    rows = [
        base | {"span": span, "layer": i, "recovered": v, "lo": v and v - 0.1, "hi": v and v + 0.1}
        for span, i, v in spans
    ]
    head = {"component": "z", "head": 3, "layer": 2, "recovered": 0.3, "lo": 0.2, "hi": 0.4}
    return [
        *rows,
        base | {"span": "equals"} | head,
        base | {"span": "equals"} | head | {"head": 1, "lo": -0.1},
    ]


COURSES = [
    ([1.0, 0.9, 0.1], [0.0, 0.2, 0.9], 0.0, (1, 2)),
    ([0.2, 0.1, 0.0], [0.0, 0.0, 0.1], 0.0, (None, None)),
    ([None, 0.7, 0.0], [0.0, None, 0.6], 0.0, (1, 2)),
    ([1.0, 0.7, 0.1], [0.0, 0.6, 0.9], 0.5, (0, 2)),
]


@pytest.mark.parametrize(("last", "equals", "null", "turns"), COURSES)
def test_turning_points_are_what_exceeds_an_unrelated_city(last, equals, null, turns):
    rows = rows_of(last, equals, null)
    assert turning_points(rows) == turns
    words = " ".join(course(rows))
    assert (f"'=' holds what the answer needs from layer {turns[1]}" in words) == (turns[1] is not None)
    assert "heads (layer.head) 2.3, 0.30 [0.20, 0.40]" in words
    assert ("most after layer 2: 0.10" in words) == (turns[1] is None)
    assert "2.1" not in words, "its interval holds 0"
    assert ("Read: after layer" in words) == (turns[0] is not None)


def test_results_are_saved_pooled_compared_and_read_back(tmp_path):
    model, pairs = model_of(), some_pairs("compass", 10)
    cells = grid(model.cfg, ("resid_post", "z"), ["swapped_last", "equals"])
    swept = sweep(model, pairs, cells, metrics=("logit_diff", "digit1"), conditions=CONDITIONS)
    results = [patch_result(swept, pairs, seed=0, runs=[run]) for run in ("a", "b")]
    path = results[0].save(tmp_path, "patch-compass")
    assert load_result(path) == results[0]
    assert results[0].values["self_patch_max"] < 1e-5
    assert {row["source"] for row in results[0].tables["controls"]} == {"unrelated", "self", "equal", "order"}
    assert len(results[0].tables["cells"]) == 2 * 2 * len(cells)
    assert {row["metric"] for row in results[0].tables["digits"]} == {"digit1"}
    pooled = pooled_result(results, seed=0)
    assert isinstance(pooled, Result)
    assert pooled.params["runs"] == ["a", "b"]
    assert pooled.tables["cells"][0]["n"] == 2
    compared = tasks_result(results)
    assert [row["task"] for row in compared.tables["tasks"]] == ["compass", "compass"]
    assert compared.params["runs"] == ["a", "b"]  # b answers other tasks only
    assert len(compared.tables["lines"]) == 2 * 2 * model.cfg.n_layers
