"""Where a city is read, by cause: a planted reader is found, and a trained model agrees with the review."""

import numpy as np
import pytest
import torch
from paths import ROOT

from cwr_mech.activations.site import Site
from cwr_mech.analysis.patching.cells import ends_of_id
from cwr_mech.analysis.patching.interchange import moved, through_origin
from cwr_mech.analysis.patching.pairs import NoPairs
from cwr_mech.analysis.patching.parts import Question, subspace_part
from cwr_mech.analysis.patching.sites import (
    CausalSites,
    causal_sites,
    known_sites,
    sites_result,
)
from cwr_mech.analysis.patching.subspaces import SUBSPACES
from cwr_mech.training.runs import load_run

ZOO = ROOT / "zoo"


def at(layer: int | str, position: str = "last_digit") -> Site:
    """A site of a model of four layers."""
    return Site.parse(layer, 4, position=position)


def test_an_answer_moves_only_if_it_arrives() -> None:
    """Near the source's, near the clean one's, between the two, beyond, unreadable."""
    source, clean = np.full(5, 100.0), np.full(5, 0.0)
    given = np.array([104.0, 3.0, 60.0, 120.0, np.nan])
    assert moved(given, source, clean, 5.0).tolist() == [True, False, False, False, False]
    assert moved(given, source, clean, 50.0).tolist() == [True, False, True, True, False]
    # Control: a tolerance wider than the gap does not count an answer that stayed.
    assert not moved(np.zeros(5), source, clean, 1000.0).any()


def test_slope_goes_through_the_origin_and_skips_what_cannot_be_read() -> None:
    true, rng = np.array([10.0, -20.0, 30.0, 40.0]), np.random.default_rng(0)
    boot = rng.multinomial(4, np.full(4, 0.25), size=200).astype(float)
    slope, low, high = through_origin(true, np.array([5.0, -10.0, 15.0, np.nan]), boot)
    assert (slope, low, high) == pytest.approx((0.5, 0.5, 0.5))
    assert np.isnan(through_origin(true, np.full(4, np.nan), boot)).all()


@pytest.fixture(scope="module")
def found() -> dict[str, CausalSites]:
    run = load_run(ZOO / "small-seed2")
    model, world = run.model(), run.world()
    return {task: causal_sites(model, world, task) for task in ("distance", "compass")}


def test_a_city_is_read_after_block_1_where_no_probe_reads_it_best(found: dict[str, CausalSites]) -> None:
    """Numbers of an independent patching of these weights: whole state at L1, last digit, 1.00; L2 .00 and
    .19; delimiter .00. At 64 pairs a share of .19 has a standard error of .05."""
    for task, after in (("distance", 0.0), ("compass", 0.19)):
        sites = found[task]
        assert sites.primary == Site(1, "resid_post", "last_digit")
        assert sites.row(at("L1"))["truth"] >= 0.98
        assert sites.row(at("L2"))["truth"] == pytest.approx(after, abs=0.15)
        assert max(sites.row(at(layer, "delimiter"))["iia"] for layer in range(-1, 4)) < 0.05
        assert not sites.flag(at("L1"))
        assert all(sites.flag(at(layer, "delimiter")) for layer in ("embed", "L0", "L1", "L2", "final"))
        row = sites.row(at("L1"))
        assert row["lo"] < row["iia"] <= row["hi"]
        assert row["hi"] - row["lo"] < 0.25
    assert found["distance"].row(at("L1"))["slope"] == pytest.approx(1.0, abs=0.05)
    assert found["distance"].row(at("L2", "delimiter"))["slope"] == pytest.approx(0.0, abs=0.05)
    assert np.isnan(found["compass"].row(at("L1"))["slope"])


def test_a_model_with_its_readers_cut_reads_the_city_nowhere() -> None:
    """Control: the same pairs cannot be found in a model that has unlearnt to answer."""
    run = load_run(ZOO / "small-seed2")
    model, world = run.model(), run.world()
    assert known_sites(model, world, "compass").primary.label == "L1"
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_O.zero_()
    with pytest.raises(NoPairs, match="usable compass pairs"):
        known_sites(model, world, "compass")


def test_what_was_found_or_refused_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run, asked = load_run(ZOO / "small-seed2"), []

    def answered(_model: object, _world: object, task: str, **_more: object) -> CausalSites:
        asked.append(task)
        if task == "angle":
            raise NoPairs("too few", "train it")
        return CausalSites(task, "old", 4, 0.1, ())

    monkeypatch.setattr("cwr_mech.analysis.patching.sites.causal_sites", answered)
    monkeypatch.setattr("cwr_mech.analysis.patching.sites._KNOWN", {})
    model, world = run.model(), run.world()
    for _ in range(3):
        with pytest.raises(NoPairs, match=r"too few \(train it\)"):
            known_sites(model, world, "angle")
        assert known_sites(model, world, "compass").task == "compass"
    assert asked == ["angle", "compass"]
    with torch.no_grad():
        model.ln_final.w.mul_(2)
    known_sites(model, world, "compass")  # control: another model
    assert asked == ["angle", "compass", "compass"]


def test_reading_is_the_last_site_with_the_whole_effect_and_weak_ones_are_named() -> None:
    def sites(**share: float) -> CausalSites:
        rows = tuple(
            {"slot": 0, "layer": layer, "component": "resid_post", "position": "last_digit", "n": 64}
            | {"iia": value, "lo": value, "hi": value, "truth": value, "weak": value < 0.5}
            | dict.fromkeys(("slope", "slope_lo", "slope_hi"), float("nan"))
            for layer, value in enumerate(share.values())
        )
        return CausalSites("compass", "old", len(rows), 0.0, rows)

    assert sites(a=1.0, b=0.98, c=0.73, d=0.0).primary.layer == 1
    assert sites(a=0.7, b=0.7, c=0.66, d=0.0).primary.layer == 2
    nowhere = sites(a=0.1, b=0.3, c=0.0)
    assert nowhere.flag(nowhere.primary)
    result = sites_result([sites(a=1.0, b=0.2), nowhere], run="quick")
    assert [row["weak"] for row in result.tables["reading"]] == [False, True]
    assert len(result.notes) == 2
    assert "No site carries a city in compass" in result.notes[1]


def test_the_fewest_positions_that_carry_the_whole_effect_are_the_site() -> None:
    def sites(**share: float) -> CausalSites:
        rows = tuple(
            {"slot": 0, "layer": 1, "component": "resid_post", "position": name, "n": 64}
            | {"iia": value, "lo": value, "hi": value, "truth": value, "weak": value < 0.5}
            for name, value in share.items()
        )
        return CausalSites("compass", "old", 4, 0.0, rows)

    both = {"digit1+digit2+last_digit": 0.97, "digit2+last_digit": 0.95, "digit2": 0.3, "last_digit": 0.4}
    assert sites(**both).primary.position == "digit2+last_digit"
    assert not sites(**both).flag(sites(**both).primary)
    assert sites(**both).flag(at("L1", "last_digit"))
    assert sites(**(both | {"last_digit": 0.96})).primary.position == "last_digit"
    assert sites(**(both | {"digit2+last_digit": 0.6})).primary.position == "digit1+digit2+last_digit"


def test_positions_are_interchanged_together(found: dict[str, CausalSites]) -> None:
    """All digits of an id at the embedding are the whole city; each alone is another city."""
    for sites in found.values():
        together = sites.row(at("embed", "digit1+digit2+last_digit"))["iia"]
        alone = [sites.row(at("embed", name))["iia"] for name in ("digit1", "digit2", "last_digit")]
        assert together == 1.0 > max(alone) + 0.3
        assert sites.row(at("L1", "digit2+last_digit"))["iia"] >= sites.row(at("L1"))["iia"] - 0.05
    assert ends_of_id(4) == [
        "digit1+digit2+digit3+last_digit",
        "digit2+digit3+last_digit",
        "digit3+last_digit",
    ]
    assert ends_of_id(1) == []


def test_a_subspace_counts_only_beside_strong_controls() -> None:
    """Numbers of an independent patching of these weights, by the truth within a quarter of the constant's
    error: PCA .95 beside the manifold's .95, covariance-matched directions .59, the probe's plane .03. Other
    pairs, so a share near .9 has a standard error of .05 with 32 of them."""
    run = load_run(ZOO / "small-seed2")
    rows, n = subspace_part(run.model(), run.world(), Question("distance", 32, seed=0), SUBSPACES)
    at = {row["subspace"]: row for row in rows if row["layer"] == 1}
    assert n == 32
    assert at["pca"]["rank"] == at["manifold"]["rank"] == at["covariance-matched"]["rank"]
    assert (at["covariance-matched"]["draws"], at["probe"]["rank"]) == (5, 2)
    for name, share, error in (
        (None, 1.0, 0.02),
        ("manifold", 0.95, 0.2),
        ("pca", 0.95, 0.2),
        ("covariance-matched", 0.59, 0.25),
        ("probe", 0.03, 0.1),
        ("random", 0.0, 0.02),
        ("null-space", 0.0, 0.02),
        ("manifold-null-space", 0.0, 0.02),
    ):
        assert at[name]["truth"] == pytest.approx(share, abs=error), name
    assert at["manifold-row-space"]["truth"] >= at["manifold"]["truth"] - 0.15
    # The strict measure: near the model's own answer to the source question. It tells the manifold from the
    # whole state, and all of them go the whole way on average.
    assert at[None]["iia"] - at["manifold"]["iia"] > 0.1
    assert at["manifold"]["iia"] - at["covariance-matched"]["iia"] > 0.2
    assert at["manifold"]["slope_lo"] > 0.9 > at["probe"]["slope_hi"]
    layers = {row["layer"] for row in rows if row["subspace"] == "row-space"}
    assert layers == {0, 1, 2}  # nothing reads a city after the last block
