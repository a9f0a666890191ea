"""The hooks do to the gradient what they say, and the arms repair or ruin as they must."""

from functools import lru_cache

import numpy as np
import pytest
import torch

from cwr_mech.analysis.arms import ARMS, arm_hook, fit_frames, read_mentions
from cwr_mech.analysis.bases import leading_directions, random_basis
from cwr_mech.analysis.gradients import at_mentions, engine_of
from cwr_mech.analysis.manifold import fit_manifold
from cwr_mech.config import ModelConfig, RouteConfig, WorldConfig
from cwr_mech.dataset import Rows, concat, generate
from cwr_mech.errors import AnalysisError
from cwr_mech.mentions import mentions_of
from cwr_mech.model import HookedQwen2
from cwr_mech.routes import Frame, Place, RowsHook, keep_part, pull, route
from cwr_mech.world import World, load_world

TASKS = ("distance", "inside")
D = 16


@lru_cache
def world() -> World:
    return load_world(WorldConfig(n_cities=60, new="atlantis", n_new=5))


@lru_cache
def model(n_layers: int = 2) -> HookedQwen2:
    config = ModelConfig(n_layers=n_layers, d_model=D, n_heads=2, d_mlp=24, init_std=0.3)
    return HookedQwen2(config, seed=3).eval()


@lru_cache
def rows() -> Rows:
    return concat([generate(world(), task, 8, group="new", seed=1) for task in TASKS])


def frames(layer: int, rank: int = 3) -> dict[Place, Frame]:
    rng = np.random.default_rng(5)
    return {
        Place(layer, site, task, slot): Frame(random_basis(D, rank, rng).columns, rng.standard_normal(D), 2.0)
        for site in ("last_digit", "delimiter")
        for task, slots in (("distance", 2), ("inside", 6))
        for slot in range(slots)
    }


def gradient(hook: RowsHook | None, some: Rows | None = None) -> torch.Tensor:
    """Gradient of the mean loss by the engine."""
    engine = engine_of(model())
    some = some or rows()
    first = np.ones_like(some.lengths)
    given = hook(some) if hook else None
    engine.batch(some.tokens, some.lengths, first, float((some.lengths - first).sum()), given)
    engine.flat.store_grads(model())
    found = torch.cat([p.grad.flatten() for p in model().parameters()]).double()
    model().zero_grad()
    return found


def by_autograd(layer: int, change: object) -> torch.Tensor:
    """The same by autograd on the plain model, with `change(gradient, activation)` at the layer's input."""
    some = rows()
    x = torch.from_numpy(some.tokens.astype(np.int64))

    def tap(h: torch.Tensor, hook: object) -> torch.Tensor:
        held = h.detach()
        h.register_hook(lambda g: change(g.clone(), held))
        return h

    place = torch.arange(1, x.shape[1])
    counts = place < torch.from_numpy(some.lengths.astype(np.int64))[:, None]
    with model().hooks(fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", tap)]):
        logp = model()(x).log_softmax(-1)[:, :-1].gather(2, x[:, 1:, None])[..., 0]
    (-(logp * counts).sum() / counts.sum()).backward()
    found = torch.cat([p.grad.flatten() for p in model().parameters()]).double()
    model().zero_grad()
    return found


def spots(ids: np.ndarray | None) -> list[tuple[int, int, Place]]:
    found = []
    for site in ("last_digit", "delimiter"):
        for m in [mentions_of(rows(), site, ids)]:
            names = [TASKS[0] if int(t) == 0 else TASKS[1] for t in rows().task[m.row]]
            found += [
                (int(r), int(p), Place(0, site, t, int(s)))
                for r, p, t, s in zip(m.row, m.position, names, m.slot, strict=True)
            ]
    return found


@pytest.mark.parametrize("everyone", [False, True])
def test_a_penalty_hook_equals_autograd(everyone: bool) -> None:
    ids = None if everyone else world().ids[world().new()]
    some, where = frames(0), spots(ids)

    def change(g: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        for row, position, place in where:
            frame = some[place]
            columns, moved = (
                torch.from_numpy(frame.columns).float(),
                h[row, position] - torch.from_numpy(frame.centre).float(),
            )
            off = moved - columns @ (columns.T @ moved)
            g[row, position] += 5.0 / len(where) / frame.unit**2 * off
        return g

    got, expected = gradient(pull(some, 5.0, ids)), by_autograd(1, change)
    assert (got - expected).norm() < 1e-5 * expected.norm()
    assert (got - gradient(None)).norm() > 1e-2 * expected.norm()


@pytest.mark.parametrize("keep", ["inside", "outside"])
def test_routing_projects_mentions_of_the_cities_chosen_and_keeps_their_norm(keep: str) -> None:
    ids = world().ids[world().new()]
    some, seen = frames(0), []
    routed = route(some, keep, ids)(rows())

    def spy(layer: int, g: torch.Tensor, h: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        before = g.clone()
        after = routed(layer, g, h, which)
        if layer != 1:
            assert torch.equal(after, before)
            return after
        mine = [(which.tolist().index(r), p, place) for r, p, place in spots(ids) if r in which.tolist()]
        untouched = torch.ones(g.shape[:2], dtype=torch.bool)
        was, now = [], []
        for row, position, place in mine:
            untouched[row, position] = False
            columns = torch.from_numpy(some[place].columns).float()
            inside = columns @ (columns.T @ after[row, position])
            left = after[row, position] - inside if keep == "inside" else inside
            assert left.norm() <= 1e-4 * after[row, position].norm() + 1e-12
            was.append(before[row, position])
            now.append(after[row, position])
        assert torch.equal(after[untouched], before[untouched])
        if mine:
            assert torch.stack(now).norm() == pytest.approx(float(torch.stack(was).norm()), rel=1e-4)
        seen.extend(mine)
        return after

    engine = engine_of(model())
    engine.batch(rows().tokens, rows().lengths, np.ones_like(rows().lengths), 1.0, spy)
    assert len(seen) == len(spots(ids))


def test_a_full_basis_changes_nothing() -> None:
    whole = {place: Frame(np.eye(D), frame.centre, 1.0) for place, frame in frames(0).items()}
    assert gradient(route(whole, "inside", None)) == pytest.approx(gradient(None), abs=1e-6)
    assert (gradient(route(frames(0), "inside", None)) - gradient(None)).norm() > 1e-3


def test_mentions_without_a_frame_are_left_alone() -> None:
    some = frames(0)
    first = {place: frame for place, frame in some.items() if place.task == "distance"}
    only = rows().take(rows().task == 0)
    a, b = (gradient(route(given, "inside", None), only) for given in (some, first))
    assert torch.equal(a, b)
    assert not torch.equal(gradient(route(some, "inside", None)), gradient(route(first, "inside", None)))
    odd = dict(some) | {Place(0, "delimiter", "inside", 5): Frame(np.eye(D)[:, :2], np.zeros(D), 1.0)}
    with pytest.raises(AnalysisError, match="differ in shape"):
        route(odd, "inside", None)


def test_the_placebos_frames_stand_to_each_other_as_the_maps_do() -> None:
    """A gradient passes the frames of two layers in turn: what gets through both must not differ."""
    given = {"rank": 2, "n_rows": 200, "least_map": -1.0}
    found, turned, again = (
        fit_frames(model(3), world(), ["distance"], [0, 1], at_random=at_random, **given)
        for at_random in (False, True, True)
    )
    assert len(found) == 8
    overlaps = []
    for a in found:
        assert turned[a].columns == pytest.approx(again[a].columns)
        for b in found:
            overlap = found[a].columns.T @ found[b].columns
            assert turned[a].columns.T @ turned[b].columns == pytest.approx(overlap, abs=1e-9)
            overlaps.append(np.sum((found[a].columns.T @ turned[b].columns) ** 2) / 2)
    assert np.mean(overlaps) < 0.35  # 2 of 16 directions by chance; 1 if nothing were turned


@pytest.mark.parametrize("site", ["last_digit", "delimiter"])
def test_activations_at_mentions_are_those_that_gradients_are_taken_at(site: str) -> None:
    found = at_mentions(model(), rows(), site)
    read = read_mentions(model(), rows(), found.mentions, [0, -1], batch=5)
    for layer in (-1, 0):
        assert read[layer] == pytest.approx(found.activations[layer + 1], abs=1e-5)
    with pytest.raises(AnalysisError, match="after block 1"):
        read_mentions(model(), rows(), found.mentions, [0, 1])


def test_arms_are_fitted_for_every_slot_and_refuse_what_cannot_be() -> None:
    found = fit_frames(model(), world(), ["distance"], [0], rank=2, n_rows=200, least_map=-1.0)
    places = {(site, slot) for site in ("last_digit", "delimiter") for slot in (0, 1)}
    assert set(found) == {Place(0, site, "distance", slot) for site, slot in places}
    for frame in found.values():
        assert frame.columns.T @ frame.columns == pytest.approx(np.eye(2), abs=1e-9)
    assert arm_hook(RouteConfig(), model(), world(), TASKS) is None
    with pytest.raises(AnalysisError, match="no layer"):
        arm_hook(RouteConfig(arm="manifold"), model(), world(), TASKS)
    with pytest.raises(AnalysisError, match="no new cities"):
        arm_hook(
            RouteConfig(arm="manifold", layers=(0,)), model(), load_world(WorldConfig(n_cities=30)), TASKS
        )
    with pytest.raises(AnalysisError, match="no map to route along"):
        arm_hook(RouteConfig(arm="manifold", layers=(0,)), model(), world(), ["distance"])
    with pytest.raises(AnalysisError, match="rank 60"):
        fit_frames(model(), world(), ["distance"], [0], rank=60, n_rows=200, least_map=-1.0)
    assert set(ARMS) > {"none", "manifold", "complement", "random"}


# Planted truth for the arms. Activations h of ordinary cities lie on a curved surface f(z); the other tasks
# read places off the surface's directions. A convergent task reads the same directions; a divergent one reads
# them, too, and more strongly directions that ordinary cities do not use. Learning a new city is gradient
# descent on its own h. The divergent task then puts it off the surface, and only there.

P = 24


def surface(z: np.ndarray, mix: np.ndarray) -> np.ndarray:
    return np.c_[z, 0.3 * z**2, 0.3 * z[:, :1] * z[:, 1:]] @ mix[:5]


@lru_cache
def planted() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(11)
    mix = np.linalg.qr(rng.standard_normal((P, P)))[0]
    places = rng.uniform(-1, 1, (300, 2))
    h = surface(places, mix) + 0.01 * rng.standard_normal((300, P))
    mapped = fit_manifold(h, places).map(places)
    columns, _ = leading_directions(mapped - mapped.mean(axis=0), 5)
    return mix, places, h, columns


def learn(off: float, arm: str, seed: int) -> tuple[float, float, float]:
    """Fine-tune new cities; returns errors of the task, of transfer, and the distance off the surface."""
    mix, _, h, manifold = planted()
    rng = np.random.default_rng(seed)
    reader = torch.from_numpy(mix[:2] + off * mix[10:12])
    random = random_basis(P, 5, rng).columns
    columns = {"none": None, "random": random, "random-complement": random}.get(arm, manifold)
    target = torch.from_numpy(rng.uniform(-0.8, 0.8, (12, 2)))
    new = torch.from_numpy(np.tile(h.mean(axis=0), (12, 1))).requires_grad_()
    for _ in range(600):
        (0.5 * ((new @ reader.T - target) ** 2).sum()).backward()
        g = new.grad
        if columns is not None:
            keep = "outside" if arm.endswith("complement") else "inside"
            stacked = torch.from_numpy(columns).expand(12, P, 5)
            g = keep_part(g, stacked, keep)
        with torch.no_grad():
            new -= 0.02 / (1 + off**2) * g
        new.grad = None
    end = new.detach().numpy()
    task = np.linalg.norm(end @ reader.numpy().T - target.numpy(), axis=1).mean()
    transfer = np.linalg.norm(end @ mix[:2].T - target.numpy(), axis=1).mean()
    centred = end - h.mean(axis=0)
    return (
        float(task),
        float(transfer),
        float(np.linalg.norm(centred - centred @ manifold @ manifold.T, axis=1).mean()),
    )


def test_the_arms_repair_and_ruin_as_planted() -> None:
    start = np.linalg.norm(np.random.default_rng(0).uniform(-0.8, 0.8, (1000, 2)), axis=1).mean()
    task, transfer, off = learn(2.0, "none", 0)
    assert task < 0.02
    assert transfer > 0.7 * start
    assert off > 0.2
    task, transfer, off = learn(2.0, "manifold", 0)  # repairs
    assert task < 0.05
    assert transfer < 0.1
    assert off < 0.05
    for arm in ("none", "manifold"):  # costs a convergent task nothing
        task, transfer, off = learn(0.0, arm, 0)
        assert max(task, transfer, off) < 0.05
    _, transfer, _ = learn(0.0, "complement", 0)  # ruins a convergent task
    assert transfer > 0.7 * start
    for seed in range(3):  # the placebos do neither
        _, transfer, _ = learn(2.0, "random", seed)
        assert transfer > 0.4 * start
        _, transfer, _ = learn(0.0, "random-complement", seed)
        assert transfer < 0.1
