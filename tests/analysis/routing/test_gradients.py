"""Every kind of update equals what automatic differentiation gives on the plain model."""

from functools import lru_cache
from itertools import product

import numpy as np
import pytest
import torch
from routing_cases import model, world
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from cwr_mech.activations.cities import city_prompts, city_states, residual_stream
from cwr_mech.analysis.routing.gradients import batch_gradient, city_gradients, engine_of
from cwr_mech.analysis.routing.updates import step_direction, stepped
from cwr_mech.data.mentions import mentions
from cwr_mech.data.rows import Rows, concat, generate
from cwr_mech.errors import AnalysisError, UnknownName
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.tokenizer import Tokenizer

MIXED = ("distance", "inside", "perimeter", "crossing")


@lru_cache
def rows(group: str = "new", n: int = 6) -> Rows:
    return concat([generate(world(), task, n, group=group, seed=1) for task in MIXED])


def row_losses(model: HookedQwen2, rows: Rows, first: np.ndarray) -> torch.Tensor:
    """Mean loss of each row by the plain model."""
    x = torch.from_numpy(rows.tokens.astype(np.int64))
    logp = model(x).log_softmax(-1)[:, :-1].gather(2, x[:, 1:, None])[..., 0]
    place = np.arange(1, x.shape[1])[None]
    counts = torch.from_numpy((place >= first[:, None]) & (place < rows.lengths[:, None]))
    return -(logp * counts).sum(1) / counts.sum(1)


@pytest.mark.parametrize(("site", "characters"), [("last_digit", "0123456789"), ("delimiter", ",;)")])
def test_every_mention_is_found_where_it_stands(site: str, characters: str) -> None:
    found = mentions(rows(), site)
    assert len(found) == int((rows().cities >= 0).sum())
    for row, slot, city, position in zip(found.row, found.slot, found.city, found.position, strict=True):
        text = Tokenizer().decode(rows().tokens[row, 1 : position + 1])
        assert text[-1] in characters
        assert text.removesuffix(text[-1] if site == "delimiter" else "").endswith(f"c_{city:04d}")
        assert rows().cities[row, slot] == city
    with pytest.raises(UnknownName, match="site"):
        mentions(rows(), "middle")


def test_gradients_at_cities_equal_automatic_differentiation() -> None:
    new = world().ids[world().new()]
    ids, gradients = city_gradients(model(), rows(), "last_digit", new)
    kept: dict[int, torch.Tensor] = {}

    def keep(x: torch.Tensor, hook: object, layer: int) -> torch.Tensor:
        x.retain_grad()
        kept[layer] = x
        return x

    hooks = [(f"blocks.{i}.hook_resid_pre", lambda x, hook, i=i: keep(x, hook, i)) for i in range(2)]
    with model().hooks(fwd_hooks=hooks):
        row_losses(model(), rows(), rows().answer_start).sum().backward()
    model().zero_grad()
    found = mentions(rows(), "last_digit")
    assert set(ids) == set(rows().cities[:, 0]) & set(new)
    assert max(np.sum(rows().cities[:, 0] == city) for city in ids) > 1  # there is something to average
    for layer, (city, mine) in product(range(2), zip(ids, gradients.swapaxes(0, 1), strict=True)):
        at = (found.city == city) & (found.slot == 0)
        expected = kept[layer].grad[found.row[at], found.position[at]].numpy().mean(axis=0)
        assert mine[layer] == pytest.approx(expected, abs=2e-6)
    with pytest.raises(AnalysisError, match="names the cities"):
        city_gradients(model(), rows("old"), "delimiter", new)


def test_gradients_after_one_block_are_those_of_the_whole_pass() -> None:
    ids, whole = city_gradients(model(), rows(), "last_digit", world().ids)
    for layer, other in ((-1, 1), (0, 0)):
        again, alone = city_gradients(model(), rows(), "last_digit", world().ids, layer=layer)
        np.testing.assert_array_equal(again, ids)
        np.testing.assert_array_equal(alone[layer + 1], whole[layer + 1])
        assert np.isnan(alone[other]).all()
    assert np.isfinite(whole).all()
    with pytest.raises(AnalysisError, match="after block 1"):
        city_gradients(model(), rows(), "last_digit", world().ids, layer=1)


def test_without_weights_a_batch_leaves_the_gradient_vector_alone() -> None:
    engine = engine_of(model())
    engine.flat.grads.zero_()
    first = rows().answer_start
    given = engine.batch(rows().tokens, rows().lengths, first, 1.0, weights=False)
    assert not engine.flat.grads.any()
    torch.testing.assert_close(engine.batch(rows().tokens, rows().lengths, first, 1.0), given, rtol=0, atol=0)
    assert engine.flat.grads.any()
    alone = engine.flat.grads.clone()
    engine.flat.grads.zero_()
    engine.batch(rows().tokens, rows().lengths, first, 1.0)
    assert torch.equal(engine.flat.grads, alone)  # nothing of the pass without weights was left behind


def test_the_gradient_of_a_batch_equals_automatic_differentiation() -> None:
    engine = engine_of(model())
    for index in (0, 1):
        part = rows().take(slice(index * 12, index * 12 + 12))
        weight = torch.from_numpy((part.lengths - 1) / (part.lengths - 1).sum())
        (row_losses(model(), part, np.ones_like(part.lengths)) * weight).sum().backward()
        found = batch_gradient(engine, rows(), index, 12)
        for name, key in (("embed.W_E", "embed"), ("blocks.1.mlp.W_out", "1.down")):
            expected = model().get_parameter(name).grad.numpy()
            assert np.abs(expected).max() > 1e-3
            assert found[key] == pytest.approx(expected, rel=1e-4, abs=5e-6)
        model().zero_grad()


class Read(torch.nn.Module):
    """A model that is read at the last digit of every city, as a module whose parameters can be replaced."""

    def __init__(self, model: HookedQwen2) -> None:
        super().__init__()
        self.model = model

    def forward(self) -> torch.Tensor:
        tokens, position = city_prompts("distance", world().ids)
        stream = residual_stream(self.model, torch.from_numpy(tokens))
        return torch.stack([resid[:, position] for _, resid in stream])


def derivative(model: HookedQwen2, direction: dict[str, torch.Tensor]) -> torch.Tensor:
    """The Jacobian of what is read times `direction`, by forward differentiation."""
    before = {name: value.detach() for name, value in model.named_parameters()}

    def run(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional_call(Read(model), {f"model.{name}": value for name, value in weights.items()}, ())

    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        return jvp(run, (before,), (direction,))[1]


@pytest.mark.parametrize("kind", ["plain", "adam"])
@torch.no_grad()
def test_the_change_of_a_small_step_is_what_the_jacobian_predicts(kind: str) -> None:
    double = HookedQwen2(model().config, seed=3).double().eval()
    direction = step_direction(model(), rows(), 6, kind)
    wide = {name: value.double() for name, value in direction.items()}
    predicted, before = derivative(double, wide), Read(double)()
    errors = []
    for size in (1e-3, 1e-4, 1e-5):
        measured = (Read(stepped(double, wide, size))() - before) / size
        errors.append(float((measured - predicted).norm() / predicted.norm()))
    assert errors[2] < 1e-2
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.3)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.3)
    assert predicted.abs().amax(dim=(1, 2)).min() > 0
    assert torch.equal(Read(double)(), before)  # the model itself has not moved


def test_both_steps_have_one_length_and_go_down_the_loss() -> None:
    plain, adam = (step_direction(model(), rows(), 6, kind) for kind in ("plain", "adam"))
    lengths = [sum(float(v.pow(2).sum()) for v in step.values()) ** 0.5 for step in (plain, adam)]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-4)
    first = np.ones_like(rows().lengths)
    before = row_losses(model(), rows(), first).mean()
    for step in (plain, adam):
        assert row_losses(stepped(model(), step, 1e-4), rows(), first).mean() < before
    with pytest.raises(AnalysisError, match="at least 2"):
        step_direction(model(), rows(), 20, "adam")


def test_what_is_read_of_cities_is_what_the_hooks_hold() -> None:
    ids = world().ids[:9]
    tokens, position = city_prompts("inside", ids, "delimiter")
    _, cache = model().run_with_cache(torch.from_numpy(tokens))
    found = city_states(model(), "inside", ids, "delimiter")
    assert found[0] == pytest.approx(cache["hook_embed"][:, position].numpy())
    for layer in range(2):
        hook = f"blocks.{layer}.hook_resid_post"
        assert found[layer + 1] == pytest.approx(cache[hook][:, position].numpy(), abs=1e-5)


def test_several_positions_are_read_side_by_side() -> None:
    sites = ("digit3", "last_digit", "digit3+last_digit")
    one, other, both = (city_states(model(), "inside", world().ids[:9], site) for site in sites)
    assert np.array_equal(both, np.concatenate([one, other], axis=-1))
    assert not np.allclose(one, other)


def test_gradients_at_several_positions_stand_side_by_side() -> None:
    sites = ("digit3", "last_digit", "digit3+last_digit")
    one, other, both = (city_gradients(model(), rows(), site, world().ids)[1] for site in sites)
    assert not np.allclose(one, other)
    assert np.array_equal(both, np.concatenate([one, other], axis=-1))


def test_mentions_at_a_digit_stand_before_the_last() -> None:
    last = mentions(rows(), "last_digit")
    for n in range(1, 5):
        found = mentions(rows(), f"digit{n}")
        assert (last.position - found.position == 4 - n).all()
        assert (found.city == last.city).all()
    with pytest.raises(UnknownName, match="digit5"):
        mentions(rows(), "digit5")
