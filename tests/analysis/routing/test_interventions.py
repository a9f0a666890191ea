"""Frames are where they should be, and the arms repair or ruin as they must in models that are understood."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from routing_cases import D, model, rows, world

from cwr_mech.analysis.manifold.bases import map_directions, random_rotation
from cwr_mech.analysis.manifold.manifold import fit_manifold
from cwr_mech.analysis.routing import interventions
from cwr_mech.analysis.routing.fields import Field, Ground, shares
from cwr_mech.analysis.routing.interventions import (
    KEPT,
    LEAST_PROJECTED,
    condition_hook,
    fit_frames,
    random_directions,
    read_mentions,
)
from cwr_mech.analysis.routing.projection import Frame, Place, keep_part
from cwr_mech.config import CONDITIONS, Part, RouteConfig, WorldConfig
from cwr_mech.data.mentions import mentions
from cwr_mech.errors import AnalysisError
from cwr_mech.world.cities import load_world

TAUGHT = [Part(task="distance", group="new")]


def test_the_placebos_frames_stand_to_each_other_as_the_maps_do() -> None:
    """A gradient passes the frames of two layers in turn: what gets through both must not differ."""
    given = {"rank": 2, "n_rows": 200, "least_map": -1.0}
    found, turned, again, other = (
        fit_frames(model(3), world(), ["distance"], [0, 1], choose=choose, **given)
        for choose in (None, *(random_directions("random", D, world(), draw) for draw in (0, 0, 1)))
    )
    assert len(found) == 8
    overlaps = []
    for a in found:
        assert turned[a].columns == pytest.approx(again[a].columns)
        assert np.sum((turned[a].columns.T @ other[a].columns) ** 2) < 1.9  # 2 for the same plane
        for b in found:
            overlap = found[a].columns.T @ found[b].columns
            assert turned[a].columns.T @ turned[b].columns == pytest.approx(overlap, abs=1e-9)
            overlaps.append(np.sum((found[a].columns.T @ turned[b].columns) ** 2) / 2)
    assert np.mean(overlaps) < 0.35  # 2 of 16 directions by chance; 1 if nothing were turned


def test_covariance_matched_directions_lie_where_activations_vary() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((len(world().old()), D)) * np.r_[10 * np.ones(4), 0.1 * np.ones(D - 4)] + 3
    surface = np.eye(D)[:, 4:6]
    shares = []
    for draw in range(3):
        found, again = (
            random_directions("covariance-matched", D, world(), d)(surface, x) for d in (draw, draw)
        )
        assert found == pytest.approx(again)
        assert found.T @ found == pytest.approx(np.eye(2), abs=1e-9)
        shares.append(np.sum(found[:4] ** 2) / 2)
        turned = random_directions("random", D, world(), draw)(surface, x)
        assert np.sum(turned[:4] ** 2) / 2 < 0.9  # control: 4 of 16 by chance
    assert min(shares) > 0.99
    assert random_directions("on-manifold", D, world(), 0) is None


@pytest.mark.parametrize("site", ["last_digit", "delimiter"])
def test_activations_at_mentions_are_those_that_hooks_hold(site: str) -> None:
    found = mentions(rows(), site)
    read = read_mentions(model(), rows(), found, [0, -1], batch=5)
    _, cache = model().run_with_cache(torch.from_numpy(rows().tokens.astype(np.int64)))
    for layer, hook in ((-1, "hook_embed"), (0, "blocks.0.hook_resid_post")):
        assert read[layer] == pytest.approx(cache[hook][found.row, found.position].numpy(), abs=1e-5)
    with pytest.raises(AnalysisError, match="after block 1"):
        read_mentions(model(), rows(), found, [0, 1])


def test_arms_are_fitted_for_every_slot_and_refuse_what_cannot_be() -> None:
    found = fit_frames(model(), world(), ["distance"], [0], rank=2, n_rows=200, least_map=-1.0)
    places = {(site, slot) for site in ("last_digit", "delimiter") for slot in (0, 1)}
    assert set(found) == {Place(0, site, "distance", slot) for site, slot in places}
    for frame in found.values():
        assert frame.columns.T @ frame.columns == pytest.approx(np.eye(2), abs=1e-9)
    only = fit_frames(
        model(), world(), ["distance"], [0], sites=("last_digit",), rank=2, n_rows=200, least_map=-1.0
    )
    assert set(only) == {place for place in found if place.site == "last_digit"}
    assert condition_hook(RouteConfig(), model(), world(), TAUGHT) is None
    with pytest.raises(AnalysisError, match="no layer"):  # cutting has to know where, too
        condition_hook(RouteConfig(elsewhere="cut"), model(), world(), TAUGHT)
    assert {*KEPT, "penalty"} == {*CONDITIONS}
    with pytest.raises(AnalysisError, match="no layer"):
        condition_hook(RouteConfig(condition="on-manifold"), model(), world(), TAUGHT)
    with pytest.raises(AnalysisError, match="no new cities"):
        condition_hook(
            RouteConfig(condition="on-manifold", layers=(0,)),
            model(),
            load_world(WorldConfig(n_cities=30)),
            TAUGHT,
        )
    with pytest.raises(AnalysisError, match="no map to project onto"):
        condition_hook(RouteConfig(condition="on-manifold", layers=(0,)), model(), world(), TAUGHT)
    with pytest.raises(AnalysisError, match="rank 60"):
        fit_frames(model(), world(), ["distance"], [0], rank=60, n_rows=200, least_map=-1.0)
    assert set(CONDITIONS) > {"unprojected", "on-manifold", "off-manifold", "random"}


def test_only_tasks_that_name_the_cities_need_a_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replay of training cities is not projected, so it may be of tasks that hold no map at the site."""
    asked: list[str] = []

    def fitted(*given: object, **_: object) -> dict[Place, Frame]:
        asked.extend(given[2])
        return {}

    monkeypatch.setattr(interventions, "fit_frames", fitted)
    route, replay = RouteConfig(condition="on-manifold", layers=(0,)), Part(task="inside")
    condition_hook(route, model(), world(), [replay, *TAUGHT, Part(task="distance")])
    assert asked == ["distance"]
    asked.clear()
    condition_hook(route.model_copy(update={"cities": "all"}), model(), world(), [replay, *TAUGHT])
    assert asked == ["inside", "distance"]
    with pytest.raises(AnalysisError, match="names a new city"):
        condition_hook(route, model(), world(), [replay])


def test_no_position_named_is_left_unprojected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a city is read from two tokens, a gradient that passes at one of them undoes the projection."""
    shares = iter([])

    def with_share(x: np.ndarray, xy: np.ndarray) -> object:
        return replace(fit_manifold(x, xy), variance=next(shares))

    monkeypatch.setattr(interventions, "fit_manifold", with_share)
    both = {"layers": [0, 1], "sites": ("last_digit", "digit2"), "rank": 2, "n_rows": 200}
    for given, missing in (
        ([0.5, 0.0, 0.2, 0.0, 0.0, 0.2, 0.5, 0.5], ""),  # each city of each token: in some layer
        ([0.5, 0.5, 0.5, 0.5, 0.0, 0.05, 0.5, 0.5], r"at digit2 \(city 1 of distance\).* 0.05 "),
    ):
        shares = iter(given)
        if missing:
            with pytest.raises(AnalysisError, match=missing):
                fit_frames(model(3), world(), ["distance"], **both)
        else:
            found = fit_frames(model(3), world(), ["distance"], **both)
            assert [share >= LEAST_PROJECTED for share in given].count(True) == len(found)


# Planted truth for the arms. Activations h of ordinary cities lie on a curved surface; the other tasks read
# places off its directions. A task reads two directions, a share `on` of each inside the surface's: 1 is a
# convergent task, little is a divergent one. The gradient at h then has that share inside, by construction.
# Learning a new city is descent on its own code; h and the answer are linear or bent functions of it.

P, RANK, N_OLD, N_NEW = 24, 5, 300, 12
LEARN_STEPS, CONVERGENT, DIVERGENT = 400, 1.0, 0.2


@lru_cache
def planted() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mixing matrix, places, activations of ordinary cities, and the fitted directions of their surface."""
    rng = np.random.default_rng(11)
    mix = np.linalg.qr(rng.standard_normal((P, P)))[0]
    z = rng.uniform(-1, 1, (N_OLD, 2))
    h = np.c_[z, 0.3 * z**2, 0.3 * z[:, :1] * z[:, 1:]] @ mix[:RANK]
    h += 0.01 * rng.standard_normal(h.shape)
    return mix, z, h, map_directions(fit_manifold(h, z), z, RANK)


class Learner:
    """New cities' codes, what they become inside, and a task that reads them."""

    def __init__(self, on: float, bent: bool, seed: int) -> None:
        mix, _, h, _ = planted()
        self.rng = np.random.default_rng(seed)
        off = np.sqrt(1 / on - 1) if on else 1.0
        self.reader = torch.from_numpy((on > 0) * mix[:2] + off * mix[10:12])
        self.rate = 0.02 / (1 + off**2)
        self.places = self.rng.uniform(-0.8, 0.8, (N_NEW, 2))
        self.target = torch.from_numpy(self.places)
        self.centre = torch.from_numpy(h.mean(axis=0))
        self.bend = torch.from_numpy(0.15 * self.rng.standard_normal((P, P))) if bent else None
        self.code = torch.zeros(N_NEW, P, dtype=torch.float64, requires_grad=True)

    def inside(self) -> torch.Tensor:
        """Activations of the new cities."""
        bent = self.code if self.bend is None else self.code + torch.tanh(self.code @ self.bend)
        return self.centre + bent

    def loss(self, h: torch.Tensor) -> torch.Tensor:
        """The task's; a bent one answers through a squashing function."""
        found, wanted = h @ self.reader.T, self.target
        if self.bend is not None:
            found, wanted = torch.tanh(found), torch.tanh(wanted)
        return 0.5 * ((found - wanted) ** 2).sum()

    def learn(self, condition: str) -> tuple[float, float, float]:
        """Errors of the task and of transfer, and the distance off the surface, after learning."""
        mix, _, _, surface = planted()
        columns = random_rotation(P, self.rng) @ surface if condition.startswith("random") else surface
        keep = KEPT[condition]
        optimizer = torch.optim.SGD([self.code], lr=self.rate)
        for _ in range(LEARN_STEPS):
            h = self.inside()
            if condition != "unprojected":
                stacked = torch.from_numpy(columns).expand(N_NEW, P, RANK)
                h.register_hook(lambda g, stacked=stacked: keep_part(g, stacked, keep))
            optimizer.zero_grad()
            self.loss(h).backward()
            optimizer.step()
        end = self.inside().detach()
        off = (end - self.centre).numpy()
        off = off - off @ surface @ surface.T
        return (
            float((end @ self.reader.T - self.target).norm(dim=1).mean()),
            float(np.linalg.norm((end.numpy() @ mix[:2].T) - self.places, axis=1).mean()),
            float(np.linalg.norm(off, axis=1).mean()),
        )


@pytest.mark.parametrize("bent", [False, True])
@pytest.mark.parametrize("on", [0.0, 0.5, 1.0])
def test_the_share_of_a_planted_tasks_gradient_is_recovered(on: float, bent: bool) -> None:
    _, z, h, _ = planted()
    learner = Learner(on, bent, 0)
    inside = learner.inside()
    inside.retain_grad()
    learner.loss(inside).backward()
    ground = Ground.fit(h, z, np.arange(N_OLD) % 2 == 0, RANK)
    field = Field(-inside.grad.numpy(), inside.detach().numpy(), learner.places, False)
    found = shares(field, ground, None, np.random.default_rng(1))
    row = next(row for row in found if row["basis"] == "manifold")
    assert row["share"] == pytest.approx(on, abs=0.03)
    assert row["lo"] - 0.03 <= on <= row["hi"] + 0.03
    assert (row["share"] > row["null_hi"]) == (on >= 0.5)


@pytest.mark.parametrize("bent", [False, True])
def test_the_arms_repair_and_ruin_as_planted(bent: bool) -> None:
    start = np.linalg.norm(np.random.default_rng(0).uniform(-0.8, 0.8, (1000, 2)), axis=1).mean()
    task, ruined, left = Learner(DIVERGENT, bent, 0).learn("unprojected")
    assert task < 0.05
    assert ruined > 0.7 * start
    task, transfer, off = Learner(DIVERGENT, bent, 0).learn("on-manifold")  # repairs
    assert task < 0.1
    assert transfer < (0.5 * ruined if bent else 0.05)
    if not bent:  # bent codes leave the surface's directions whichever way they are pushed
        assert off < 0.05 < left
    for condition in ("unprojected", "on-manifold"):  # costs a convergent task nothing
        task, transfer, off = Learner(CONVERGENT, bent, 0).learn(condition)
        assert max(task, transfer) < 0.05
    _, transfer, _ = Learner(CONVERGENT, bent, 0).learn("off-manifold")  # ruins a convergent task
    assert transfer > 0.7 * start
    for seed in range(3):  # the placebos do neither
        _, transfer, _ = Learner(DIVERGENT, bent, seed).learn("random")
        assert transfer > 0.4 * start
        _, transfer, _ = Learner(CONVERGENT, bent, seed).learn("random-complement")
        assert transfer < 0.1
