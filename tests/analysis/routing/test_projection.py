"""The hooks do to the gradient what they say: against autograd, and by projecting what comes out."""

import numpy as np
import pytest
import torch
from routing_cases import TASKS, D, model, rows, world

from cwr_mech.analysis.manifold.bases import random_basis
from cwr_mech.analysis.routing.gradients import engine_of
from cwr_mech.analysis.routing.projection import (
    Frame,
    Place,
    RowsHook,
    keep_part,
    penalise,
    project,
)
from cwr_mech.data.mentions import mentions_of
from cwr_mech.data.rows import Rows
from cwr_mech.errors import AnalysisError


def frames(layer: int, rank: int = 3) -> dict[Place, Frame]:
    rng = np.random.default_rng(5)
    return {
        Place(layer, site, task, slot): Frame(random_basis(D, rank, rng), rng.standard_normal(D), 2.0)
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

    got, expected = gradient(penalise(some, 5.0, ids)), by_autograd(1, change)
    assert (got - expected).norm() < 1e-5 * expected.norm()
    assert (got - gradient(None)).norm() > 1e-2 * expected.norm()


@pytest.mark.parametrize("keep", ["inside", "outside"])
def test_routing_projects_mentions_of_the_cities_chosen_and_keeps_their_norm(keep: str) -> None:
    ids = world().ids[world().new()]
    some, seen = frames(0), []
    routed = project(some, keep, ids)(rows())

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


@pytest.mark.parametrize("keep", ["inside", "outside"])
def test_without_rescaling_the_projection_is_what_is_left(keep: str) -> None:
    rng = np.random.default_rng(0)
    g = torch.from_numpy(rng.standard_normal((5, D)))
    columns = torch.from_numpy(np.stack([random_basis(D, 3, rng) for _ in range(5)]))
    plain, scaled = (keep_part(g, columns, keep, rescale=rescale) for rescale in (False, True))
    inside = torch.stack([c @ c.T @ v for c, v in zip(columns, g, strict=True)])
    assert torch.allclose(plain, inside if keep == "inside" else g - inside)
    assert torch.allclose(scaled, plain * (g.norm() / plain.norm()))
    assert plain.norm() < g.norm()


def test_a_full_basis_changes_nothing() -> None:
    whole = {place: Frame(np.eye(D), frame.centre, 1.0) for place, frame in frames(0).items()}
    assert gradient(project(whole, "inside", None)) == pytest.approx(gradient(None), abs=1e-6)
    assert (gradient(project(frames(0), "inside", None)) - gradient(None)).norm() > 1e-3


def test_mentions_without_a_frame_are_left_alone() -> None:
    some = frames(0)
    first = {place: frame for place, frame in some.items() if place.task == "distance"}
    only = rows().take(rows().task == 0)
    a, b = (gradient(project(given, "inside", None), only) for given in (some, first))
    assert torch.equal(a, b)
    assert not torch.equal(gradient(project(some, "inside", None)), gradient(project(first, "inside", None)))
    odd = dict(some) | {Place(0, "delimiter", "inside", 5): Frame(np.eye(D)[:, :2], np.zeros(D), 1.0)}
    with pytest.raises(AnalysisError, match="differ in shape"):
        project(odd, "inside", None)


@pytest.mark.parametrize("keep", ["inside", "all"])
def test_cut_questions_teach_through_their_cities_alone(keep: str) -> None:
    """By autograd with every other token's gradient set to zero, from the first city's id on."""
    ids = world().ids[world().new()][:1]
    some, where = frames(0), spots(ids)
    every = mentions_of(rows(), "digit1")
    begins = {int(r): int(p) for r, p in zip(every.row[::-1], every.position[::-1], strict=True)}
    asked = {row for row, _, _ in where}
    assert 0 < len(asked) < len(rows())
    assert min(begins.values()) > 1

    def change(g: torch.Tensor, _h: torch.Tensor) -> torch.Tensor:
        kept = {}
        for row, position, place in where:
            columns = torch.from_numpy(some[place].columns).float()
            whole = g[row, position].clone()
            kept[row, position] = columns @ (columns.T @ whole) if keep == "inside" else whole
        for row in asked:
            g[row, begins[row] :] = 0
        for spot, value in kept.items():
            g[spot] = value
        return g

    got = gradient(project(some, keep, ids, rescale=False, cut=True))
    expected = by_autograd(1, change)
    assert (got - expected).norm() < 1e-5 * expected.norm()
    assert (got - gradient(project(some, keep, ids, rescale=False))).norm() > 1e-2 * expected.norm()
    if keep == "all":  # and so does a penalty of no weight
        assert (gradient(penalise(some, 0.0, ids, cut=True)) - expected).norm() < 1e-5 * expected.norm()
