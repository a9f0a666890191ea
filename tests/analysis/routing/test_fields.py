"""Updates planted on the map, off it, and half and half: the instruments recover share and direction."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from routing_cases import model, world

from cwr_mech.analysis.manifold.bases import fit_space, random_bases_like, random_basis_like
from cwr_mech.analysis.manifold.manifold import fit_manifold
from cwr_mech.analysis.routing import tables
from cwr_mech.analysis.routing.fields import (
    LIKE_DRAWS,
    Field,
    Ground,
    directions,
    shares,
    unit_fields,
)
from cwr_mech.analysis.routing.tables import Asked, subspace_result
from cwr_mech.analysis.stats.subspaces import energy
from cwr_mech.config import WorldConfig
from cwr_mech.errors import AnalysisError
from cwr_mech.world.cities import load_world

P, N, NEW, RANK = 20, 160, 40, 4


@lru_cache
def planted() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mixing matrix, places and activations: a curved surface in the first four of P directions."""
    rng = np.random.default_rng(0)
    mix = np.linalg.qr(rng.standard_normal((P, P)))[0]
    xy = rng.uniform(-900, 900, (N + NEW, 2))
    unit = xy / 900
    surface = np.c_[unit, 0.5 * unit**2 - 0.2] @ mix[:RANK]
    return mix, xy, surface + 0.02 * rng.standard_normal((len(xy), P))


def ground(turn: np.ndarray | None = None) -> Ground:
    _, xy, x = planted()
    x = x if turn is None else x @ turn
    return Ground.fit(x[:N], xy[:N], np.arange(N) % 2 == 0, RANK)


def updates(share: float, seed: int = 1) -> np.ndarray:
    """Updates of all cities with this share of their energy in the surface's directions."""
    mix = planted()[0]
    rng = np.random.default_rng(seed)
    inside = rng.standard_normal((N + NEW, RANK)) @ mix[:RANK] / np.sqrt(RANK)
    outside = rng.standard_normal((N + NEW, P - RANK)) @ mix[RANK:] / np.sqrt(P - RANK)
    return np.sqrt(share) * inside + np.sqrt(1 - share) * outside


def field(u: np.ndarray, *, old: bool = False, turn: np.ndarray | None = None) -> Field:
    _, xy, x = planted()
    turn, rows = np.eye(P) if turn is None else turn, slice(0, N) if old else slice(N, None)
    return Field(u[rows] @ turn, x[rows] @ turn, xy[rows], True, np.arange(N) % 2 == 0 if old else None)


def measured(u: np.ndarray, *, old: bool, turn: np.ndarray | None = None) -> dict[str, dict]:
    found = shares(field(u, old=old, turn=turn), ground(turn), None, np.random.default_rng(2))
    return {row["basis"]: row for row in found}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_planted_share_is_recovered_within_its_interval(share: float, old: bool) -> None:
    covered = 0
    for seed in range(6):
        row = measured(updates(share, seed), old=old)["manifold"]
        slack = 0.02  # the surface's directions are themselves estimated from noisy cities
        covered += row["lo"] - slack <= share <= row["hi"] + slack
    assert covered >= 5
    assert row["null"] == RANK / P
    assert (row["share"] > row["null_hi"]) == (share >= 0.5)


def test_shares_do_not_depend_on_the_frame_of_the_residual_stream() -> None:
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((P, P)))[0]
    plain, turned = (measured(updates(0.5), old=True, turn=t) for t in (None, turn))
    for basis, row in plain.items():
        assert turned[basis]["share"] == pytest.approx(row["share"], abs=1e-6), basis
        assert turned[basis]["null_hi"] == pytest.approx(row["null_hi"])
    odd = measured(updates(0.5) * np.linspace(0.2, 2, P), old=True)  # a stretch, which does matter
    assert abs(odd["manifold"]["share"] - plain["manifold"]["share"]) > 0.02


def test_in_sample_bases_flatter_and_held_out_ones_do_not() -> None:
    """Updates along what a city has of its own: a basis fitted on the same cities takes it for structure."""
    rng = np.random.default_rng(6)
    xy, noise = rng.uniform(-900, 900, (44, 2)), rng.standard_normal((44, P))
    half = np.arange(44) % 2 == 0
    found = shares(Field(noise, noise, xy, True, half), Ground.fit(noise, xy, half, RANK), None, rng)
    pca = next(row for row in found if row["basis"] == "pca")
    assert pca["in_sample"] > pca["null_hi"]
    assert pca["null_lo"] < pca["share"] < pca["null_hi"]
    on_map = measured(updates(1.0), old=True)["manifold"]  # the control: what is on the map stays there
    assert on_map["share"] == pytest.approx(on_map["in_sample"], abs=0.02)


def test_bases_are_those_of_the_cities_that_were_not_measured() -> None:
    _, xy, x = planted()
    half = np.arange(N) % 2 == 0
    spaces = ground()
    pieces = list(spaces.parts(field(updates(0.5), old=True)))
    for (part, space), mine in zip(pieces, (half, ~half), strict=True):
        assert np.array_equal(part.xy, xy[:N][mine])
        alone = fit_space(x[:N][~mine], xy[:N][~mine], RANK).bases["manifold"]
        assert space.bases["manifold"] == pytest.approx(alone)
    ((whole, space),) = spaces.parts(field(updates(0.5)))
    assert (len(whole.xy), space) == (NEW, spaces.whole)


def test_own_and_other_tasks_directions() -> None:
    rng = np.random.default_rng(7)
    spread = rng.standard_normal((N + NEW, 3))
    mine, unlike = (spread @ rng.standard_normal((3, P)) for _ in range(2))
    for others, like in ((mine, True), (unlike, False)):
        found = shares(field(mine), ground(), others[N:], np.random.default_rng(0))
        share = {row["basis"]: row["share"] for row in found}
        assert share["own"] > 0.99
        assert (share["others"] > 0.99) == like
    two = unit_fields([mine, 1000 * unlike])
    assert np.sum(two[: len(mine)] ** 2) == pytest.approx(np.sum(two[len(mine) :] ** 2))


def test_directions_tell_steps_towards_the_true_place_from_steps_away() -> None:
    """New cities that stand where another one does; the update brings them home, or the other way."""
    _, xy, x = planted()
    surface = fit_manifold(x[:N], xy[:N])
    elsewhere = np.roll(xy, 7, axis=0)
    at, home = surface.map(elsewhere), surface.map(xy)
    rng = np.random.default_rng(8)
    for sign in (1, -1):
        some = Field(sign * 0.1 * (home - at)[N:], at[N:], xy[N:], True)
        found = directions(some, ground(), rng)
        for key in ("cosine", "cosine_on", "target"):
            assert sign * found[key] > 0.9, key
        assert abs(found["cosine_shuffled"]) < 0.4
        length = np.linalg.norm(xy - elsewhere, axis=1)[N:].mean()
        assert found["gain"] == pytest.approx(sign * 0.1 * length, rel=0.1)
        assert found["gain"] == pytest.approx(found["gain_on"] + found["gain_off"])
    off = Field(updates(0.0)[N:], at[N:], xy[N:], True)
    assert abs(directions(off, ground(), rng)["gain_on"]) < 1
    assert directions(Field(off.updates, off.x, off.xy, False), ground(), rng)["gain"] is None


def test_a_random_models_shares_sit_in_their_null() -> None:
    """Gradients of an untrained model know no map; its steps lean to where its activations vary at all."""
    asked = Asked([0, 1], rank=3, n_rows=256, batch=32)
    result = subspace_result(model(), world(), ["distance", "angle"], asked, run="r")
    rows = [row for row in result.tables["shares"] if row["basis"] in ("manifold", "probe")]
    gradients = [row for row in rows if row["update"] == "gradient"]
    inside = [row["null_lo"] - 0.1 <= row["share"] <= row["null_hi"] + 0.1 for row in gradients]
    assert len(inside) == 16
    assert np.mean(inside) >= 0.8
    steps = [
        row["share"] <= max(row["like_hi"], row["null_hi"]) + 0.1 for row in rows if row["update"] == "adam"
    ]
    assert np.mean(steps) >= 0.8
    assert {row["layer"] for row in gradients} == {0}  # nothing reads a city after the last block
    assert {row["update"] for row in rows} == {"gradient", "plain", "adam"}
    assert result.values == {"n_new": 6, "n_old": 60, "d_model": 16}


def test_several_sites_are_read_in_one_pass_as_each_alone() -> None:
    sites = ("last_digit", "delimiter", "digit1+last_digit")
    asked = Asked([0, 1], sites, rank=3, n_rows=128, batch=32)
    grounds, fields = tables.measured(model(), world(), ["distance"], asked)
    for site in sites:
        alone, mine = tables.measured(model(), world(), ["distance"], replace(asked, sites=[site]))
        assert set(mine) == {key for key in fields if key[3] == site}
        for key, found in mine.items():
            assert found.updates.shape[1] == 16 * len(site.split("+"))
            for name, values in found.arrays().items():
                np.testing.assert_array_equal(values, fields[key].arrays()[name])
        for place, found_there in alone.items():
            assert found_there.whole.rank == grounds[place].whole.rank == 3


def test_subspaces_like_the_activations_are_drawn_once_for_all_updates() -> None:
    here, u = ground(), updates(0.5)
    drawn = random_bases_like(here.x, 3, LIKE_DRAWS, np.random.default_rng([here.seed, 2, 3]))
    expected = [energy(u, columns).share for columns in drawn]
    for _ in range(2):
        np.testing.assert_allclose(here.like(u, 3), expected, rtol=1e-12)
    one_by_one = np.random.default_rng(5)
    together = random_bases_like(here.x, 2, 4, np.random.default_rng(5))
    for columns in together:
        np.testing.assert_allclose(columns, random_basis_like(here.x, 2, one_by_one), atol=1e-12)


def test_what_cannot_be_measured_is_refused() -> None:
    asked = Asked([0], ["last_digit"], n_rows=128, batch=32)
    with pytest.raises(AnalysisError, match="no new cities"):
        subspace_result(model(), load_world(WorldConfig(n_cities=60)), ["distance"], asked, run="r")
    few = load_world(WorldConfig(n_cities=30, new="atlantis", n_new=6))
    with pytest.raises(AnalysisError, match="too few to split"):
        subspace_result(model(), few, ["distance"], asked, run="r")
    with pytest.raises(AnalysisError, match="rank 17 was asked for"):
        subspace_result(model(), world(), ["distance"], replace(asked, rank=17), run="r")
    wide = np.ones((N, P + 1))
    _, xy, _ = planted()
    with pytest.raises(AnalysisError, match="same model and layer"):
        shares(Field(wide, wide, xy[:N], True), ground(), None, np.random.default_rng(0))
