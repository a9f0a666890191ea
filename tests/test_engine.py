"""The fast training step equals the plain model, in loss and in every gradient."""

import numpy as np
import pytest
import torch

from cwr_mech.config import ModelConfig
from cwr_mech.engine import Engine, MicroBatch
from cwr_mech.model import HookedQwen2
from cwr_mech.parameters import FlatParameters

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


def plain(model: HookedQwen2, tokens: np.ndarray, lengths: np.ndarray, first: np.ndarray) -> torch.Tensor:
    """Each row's summed loss by the plain model, one padded batch."""
    x = torch.from_numpy(tokens.astype(np.int64))
    logp = model(x).log_softmax(-1)
    place = torch.arange(1, x.shape[1])
    counts = (place >= torch.from_numpy(first)[:, None]) & (place < torch.from_numpy(lengths)[:, None])
    picked = logp[:, :-1].gather(2, x[:, 1:, None])[..., 0]
    return -(picked * counts).sum(1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("answers_only", [False, True])
def test_loss_and_every_gradient_equal_the_plain_model(shape: dict, answers_only: bool) -> None:
    config = ModelConfig(**shape)
    model = randomised(config)
    tokens, lengths, answer = rows(1)
    first = answer if answers_only else np.ones_like(answer)
    total = float((lengths - first).sum())
    expected = plain(model, tokens, lengths, first)
    (expected.sum() / total).backward()

    flat = FlatParameters(config)
    flat.load(model)
    engine = Engine(flat)
    engine.fold()
    got = torch.zeros(len(lengths))
    batches = list(MicroBatch.cut(tokens, lengths, first, budget=100))
    for micro in batches:
        got[micro.rows] = engine.loss_and_grad(micro, total)
    engine.unfold()
    assert len(batches) > 2
    torch.testing.assert_close(got, expected.detach(), rtol=1e-5, atol=1e-5)
    ours = HookedQwen2(config, seed=0)
    flat.store_grads(ours)
    for (name, weight), other in zip(model.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(
            other.grad, weight.grad, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_weights_survive_the_flat_vector() -> None:
    config = ModelConfig(**SHAPES[1])
    model, other = randomised(config), HookedQwen2(config, seed=9)
    flat = FlatParameters(config)
    flat.load(model)
    flat.store(other)
    assert sum(p.numel() for p in model.parameters()) == len(flat.values)
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_micro_batches_hold_every_row_once_and_little_padding() -> None:
    tokens, lengths, _ = rows(2, n=200)
    batches = list(MicroBatch.cut(tokens, lengths, np.ones_like(lengths), budget=300))
    assert sorted(np.concatenate([m.rows.numpy() for m in batches]).tolist()) == list(range(200))
    assert sum(m.tokens.numel() for m in batches) < 1.06 * lengths.sum()
    assert sum(float(m.weights.sum()) for m in batches) == (lengths - 1).sum()
