"""The fast training step equals the plain model, in loss and in every gradient."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

import cwr_mech.training.engine as engine_module
from cwr_mech.config import ModelConfig, WorldConfig
from cwr_mech.data.rows import concat, generate
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.tokenizer import CHAR_ID
from cwr_mech.training.engine import Engine, GradientHook
from cwr_mech.training.parameters import FlatParameters
from cwr_mech.world.cities import load_world

SHAPES = [
    {"n_layers": 2, "d_model": 32, "n_heads": 4, "d_mlp": 48},
    {"n_layers": 2, "d_model": 32, "n_heads": 4, "n_key_value_heads": 2, "d_mlp": 48},
    {"n_layers": 1, "d_model": 32, "n_heads": 2, "d_mlp": 64, "tied": True},
    {
        "n_layers": 3,
        "d_model": 48,
        "n_heads": 2,
        "n_key_value_heads": 1,
        "d_mlp": 40,
        "tied": True,
        "rope_theta": 500.0,
    },
]


def rows(seed: int, n: int = 13) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random rows of unequal length with the start of their answers."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(6, 30, n)
    tokens = rng.integers(4, 98, (n, 30)) * (np.arange(30) < lengths[:, None])
    return (
        tokens.astype(np.uint8),
        lengths.astype(np.int32),
        (lengths - rng.integers(2, 5, n)).astype(np.int32),
    )


def randomised(config: ModelConfig) -> HookedQwen2:
    """A model whose gains and biases are not at their special starting values."""
    model = HookedQwen2(config, seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith((".w", "b_Q", "b_K", "b_V")):
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.3)
    return model


def loaded(model: HookedQwen2) -> FlatParameters:
    flat = FlatParameters(model.config)
    flat.load(model)
    return flat


def plain(model: HookedQwen2, tokens: np.ndarray, lengths: np.ndarray, first: np.ndarray) -> torch.Tensor:
    """Each row's summed loss by the plain model, one padded batch."""
    x = torch.from_numpy(tokens.astype(np.int64))
    logp = model(x).log_softmax(-1)
    place = torch.arange(1, x.shape[1])
    counts = (place >= torch.from_numpy(first)[:, None]) & (place < torch.from_numpy(lengths)[:, None])
    picked = logp[:, :-1].gather(2, x[:, 1:, None])[..., 0]
    return -(picked * counts).sum(1)


def families(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of three tasks, which begin alike, and two rows without relatives."""
    world = load_world(WorldConfig(n_cities=30))
    parts = [generate(world, task, 5, seed=seed) for task in ("perimeter", "compass", "crossing")]
    made = concat(parts)
    tokens, lengths, answer = rows(seed, n=2)
    tokens = np.concatenate([np.pad(tokens, ((0, 0), (0, made.tokens.shape[1] - 30))), made.tokens])
    order = np.random.default_rng(seed).permutation(len(tokens))
    lengths = np.concatenate([lengths, made.lengths])
    return tokens[order], lengths[order], np.concatenate([answer, made.answer_start])[order]


def no_change(layer: int, grad: torch.Tensor, x: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """A hook that changes nothing."""
    return grad


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("answers_only", [False, True])
@pytest.mark.parametrize("made", [rows, families])
@pytest.mark.parametrize("hook", [None, no_change])
def test_loss_and_every_gradient_equal_the_plain_model(
    shape: dict, answers_only: bool, made: Callable, hook: GradientHook | None
) -> None:
    config = ModelConfig(**shape)
    model = randomised(config)
    tokens, lengths, answer = made(1)
    first = answer if answers_only else np.ones_like(answer)
    total = float((lengths - first).sum())
    expected = plain(model, tokens, lengths, first)
    (expected.sum() / total).backward()

    flat = loaded(model)
    got = Engine(flat, pack_tokens=100).batch(tokens, lengths, first, total, hook)
    torch.testing.assert_close(got, expected.detach(), rtol=1e-5, atol=1e-5)
    ours = HookedQwen2(config, seed=0)
    flat.store_grads(ours)
    for (name, weight), other in zip(model.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(
            other.grad, weight.grad, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("made", [rows, families])
@pytest.mark.parametrize("answers_only", [False, True])
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_products_in_bfloat16_change_the_gradient_by_their_rounding(
    monkeypatch: pytest.MonkeyPatch, shape: dict, answers_only: bool, made: Callable
) -> None:
    monkeypatch.setattr(engine_module, "BFLOAT16_PAYS", 0)  # these models are too small to gain
    config = ModelConfig(**shape)
    tokens, lengths, answer = made(1)
    first = answer if answers_only else np.ones_like(answer)
    found = []
    for low in (False, True, True):
        flat = loaded(randomised(config))
        losses = Engine(flat, bfloat16=low, pack_tokens=150).batch(tokens, lengths, first, 5.0)
        found.append((losses, flat.grads.clone(), {name: grad.clone() for name, grad in flat.g.items()}))
    (loss, grads, by_name), (low_loss, low_grads, low_by_name), again = found
    torch.testing.assert_close(low_loss, loss, rtol=0.02, atol=0.02)
    for name, grad in by_name.items():
        # A rounding is 2^-9 at most; a gradient has passed some ten products.
        assert (low_by_name[name] - grad).norm() < 10 * 2**-9 * grad.norm(), name
    assert (low_grads - grads).norm() > 2**-12 * grads.norm()
    assert torch.equal(low_loss, again[0])
    assert torch.equal(low_grads, again[1])


def test_small_products_stay_in_float32() -> None:
    config = ModelConfig(**SHAPES[0])
    tokens, lengths, first = families(4)
    found = []
    for low in (False, True):
        flat = loaded(randomised(config))
        Engine(flat, bfloat16=low).batch(tokens, lengths, first, 5.0)
        found.append(flat.grads)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("made", [rows, families])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_hook_that_changes_nothing_changes_no_bit(
    monkeypatch: pytest.MonkeyPatch, made: Callable, bfloat16: bool
) -> None:
    monkeypatch.setattr(engine_module, "BFLOAT16_PAYS", 0)
    config = ModelConfig(**SHAPES[1])
    tokens, lengths, first = made(4)
    found = []
    for hook in (None, no_change):
        flat = loaded(randomised(config))
        engine = Engine(flat, bfloat16=bfloat16, pack_tokens=120)
        losses = engine.batch(tokens, lengths, first, 5.0, hook)
        found.append((losses, flat.grads))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_what_a_hook_adds_at_shared_tokens_counts_for_all_rows() -> None:
    config = ModelConfig(**SHAPES[0])
    tokens, lengths, first = families(5)
    flat = loaded(randomised(config))
    engine = Engine(flat)

    def add(layer: int, grad: torch.Tensor, x: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        grad = grad.clone()
        if layer == 0:
            grad[:, 0] += 1.0
        return grad

    engine.batch(tokens, lengths, first, 5.0, no_change)
    before = flat.g["embed"].clone()
    flat.grads.zero_()
    engine.batch(tokens, lengths, first, 5.0, add)
    added = (flat.g["embed"] - before).sum(0)
    torch.testing.assert_close(added, torch.full_like(added, float(len(lengths))), atol=1e-4, rtol=1e-4)


def test_gradients_add_up_over_batches() -> None:
    config = ModelConfig(**SHAPES[1])
    flat = loaded(randomised(config))
    tokens, lengths, first = families(2)
    engine = Engine(flat)
    engine.batch(tokens, lengths, first, 3.0)
    once = flat.grads.clone()
    engine.batch(tokens, lengths, first, 3.0)
    torch.testing.assert_close(flat.grads, 2 * once, rtol=1e-5, atol=1e-6)


def test_a_hook_sees_the_gradient_and_the_input_of_every_layer() -> None:
    config = ModelConfig(**SHAPES[1])
    model = randomised(config)
    tokens, lengths, _ = families(3)
    first, total = np.ones_like(lengths), 7.0
    kept: list[torch.Tensor] = []

    def keep(resid: torch.Tensor, hook: object) -> torch.Tensor:
        resid.retain_grad()
        kept.append(resid)
        return resid

    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(config.n_layers)]
    with model.hooks([(name, keep) for name in names]):
        (plain(model, tokens, lengths, first).sum() / total).backward()
    seen = np.zeros((config.n_layers, len(lengths)), dtype=int)
    related = np.flatnonzero((tokens == CHAR_ID["_"]).any(1))

    def check(layer: int, grad: torch.Tensor, x: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        for row, index in enumerate(which.tolist()):
            own = tokens[index].tolist().index(CHAR_ID["_"]) + 1 if index in related else 0
            span = slice(own, int(lengths[index]) - 1)
            torch.testing.assert_close(x[row, span], kept[layer][index, span], rtol=1e-4, atol=1e-5)
            expected = kept[layer].grad
            assert expected is not None
            torch.testing.assert_close(grad[row, span], expected[index, span], rtol=1e-4, atol=1e-5)
            assert not grad[row, span.stop :].any()
            seen[layer, index] += 1
        return grad

    flat = loaded(model)
    Engine(flat, pack_tokens=150).batch(tokens, lengths, first, total, check)
    assert (seen == 1).all()


def test_weights_survive_the_flat_vector() -> None:
    config = ModelConfig(**SHAPES[1])
    model, other = randomised(config), HookedQwen2(config, seed=9)
    flat = loaded(model)
    flat.store(other)
    assert sum(p.numel() for p in model.parameters()) == len(flat.values)
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
