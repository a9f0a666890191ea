"""The gradient by autograd equals the one by hand, and compiles once for a mixture."""

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from cwr_mech.analysis.routing.projection import Frame, Place, penalise
from cwr_mech.config import DataConfig, ModelConfig, WorldConfig
from cwr_mech.data.batches import Batches
from cwr_mech.data.rows import concat, generate
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.training.autograd import (
    ROWS,
    WIDTH,
    AutogradEngine,
    padded,
)
from cwr_mech.training.engine import Engine, GradientHook
from cwr_mech.training.parameters import FlatParameters
from cwr_mech.world.cities import load_world

# layers, width, heads, key/value heads, MLP, tied
SHAPES = [
    (2, 32, 4, 4, 48, False),
    (2, 32, 4, 2, 48, False),
    (1, 32, 2, 2, 64, True),
    (3, 48, 2, 1, 40, True),
]
WORLD = load_world(WorldConfig(n_cities=30, new="atlantis", n_new=5))
ROWS_SEEN = concat([generate(WORLD, task, 5, group="all") for task in ("perimeter", "compass", "crossing")])


def model_of(shape: tuple) -> HookedQwen2:
    names = ("n_layers", "d_model", "n_heads", "n_key_value_heads", "d_mlp", "tied")
    model = HookedQwen2(ModelConfig(**dict(zip(names, shape, strict=True))), seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith((".w", "b_Q", "b_K", "b_V")):  # away from their special starting values
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.3)
    return model


def step(
    engine: Callable[..., Engine | AutogradEngine],
    model: HookedQwen2,
    *,
    answers_only: bool = False,
    hook: GradientHook | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses per predicted token and the flat gradient of one batch."""
    flat = FlatParameters(model.config)
    flat.load(model)
    rows = ROWS_SEEN
    first = rows.answer_start if answers_only else np.ones_like(rows.lengths)
    counts = rows.lengths - first
    losses = engine(flat).batch(rows.tokens, rows.lengths, first, float(counts.sum()), hook)
    return losses / torch.from_numpy(counts), flat.grads


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("answers_only", [False, True])
def test_loss_and_gradient_equal_those_by_hand(shape: tuple, answers_only: bool) -> None:
    model = model_of(shape)
    losses, gradient = step(AutogradEngine, model, answers_only=answers_only)
    expected, by_hand = step(Engine, model, answers_only=answers_only)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, by_hand, rtol=1e-4, atol=1e-5)
    assert by_hand.norm() > 0.1


def test_a_route_does_the_same_to_both() -> None:
    model = model_of(SHAPES[1])
    columns = np.linalg.qr(np.random.default_rng(0).normal(size=(32, 3)))[0]
    frames = {
        Place(0, "last_digit", task, slot): Frame(columns, np.zeros(32), 1.0)
        for task in ("perimeter", "compass", "crossing")
        for slot in range(2)
    }
    hook = penalise(frames, 50.0, None)(ROWS_SEEN)
    losses, gradient = step(AutogradEngine, model, hook=hook)
    expected, by_hand = step(Engine, model, hook=hook)
    _, without = step(Engine, model)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, by_hand, rtol=1e-4, atol=1e-5)
    assert (by_hand - without).norm() > 0.05 * without.norm()


def test_a_hook_sees_real_places_and_nothing_behind_them() -> None:
    seen: dict[str, list[tuple[int, torch.Tensor]]] = {}

    def watch(name: str) -> GradientHook:
        def at(layer: int, grad: torch.Tensor, x: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
            wide = torch.zeros(2, len(ROWS_SEEN), 64, grad.shape[2])
            wide[0, which, : grad.shape[1]], wide[1, which, : x.shape[1]] = grad, x
            seen.setdefault(name, []).append((layer, wide))
            return grad

        return at

    model = model_of(SHAPES[0])
    step(AutogradEngine, model, hook=watch("autograd"))
    step(lambda flat: Engine(flat, pack_tokens=10_000), model, hook=watch("by hand"))
    mentions = slice(14, None)  # behind what the rows of a task share at their beginning
    for (layer, ours), (other, theirs) in zip(seen["autograd"], seen["by hand"], strict=True):
        assert layer == other
        torch.testing.assert_close(ours[:, :, mentions], theirs[:, :, mentions], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(
    os.environ.get("ATEN_CPU_CAPABILITY") in ("default", "avx2"),
    reason="torch takes its bfloat16 attention by the processor and then lacks AVX-512, forbidden here",
)
def test_bfloat16_stays_near_and_keeps_parameters_in_float32() -> None:
    model = model_of(SHAPES[1])
    losses, gradient = step(lambda flat: AutogradEngine(flat, bfloat16=True), model)
    expected, exact = step(Engine, model)
    assert gradient.dtype == losses.dtype == torch.float32
    off = (gradient - exact).norm() / exact.norm()
    assert 1e-4 < off < 0.05
    torch.testing.assert_close(losses, expected, rtol=0.02, atol=0.02)


def test_gradients_add_up_over_batches() -> None:
    model = model_of(SHAPES[2])
    flat = FlatParameters(model.config)
    flat.load(model)
    engine = AutogradEngine(flat)
    rows, seen = ROWS_SEEN, []
    for _ in range(2):
        engine.batch(rows.tokens, rows.lengths, rows.answer_start, 3.0)
        seen.append(flat.grads.clone())
    torch.testing.assert_close(seen[1], 2 * seen[0], rtol=1e-5, atol=1e-6)


def test_a_mixture_has_few_shapes() -> None:
    batches = Batches(DataConfig(), WORLD, 61, 1)
    shapes = set()
    for index in range(40):
        rows = batches.at(index)
        inputs, targets, counts = padded(rows.tokens, rows.lengths, rows.answer_start, 256)
        assert counts.sum() == (rows.lengths - rows.answer_start).sum()
        assert (targets[counts] != 0).all()
        assert (inputs[:, 1:] == targets[:, :-1]).all()
        shapes.add(inputs.shape)
    assert len(shapes) <= 2
    assert all(rows % ROWS == 0 and width % WIDTH == 0 for rows, width in shapes)
    assert padded(rows.tokens, rows.lengths, rows.answer_start, 57)[0].shape[1] == 57


COMPILED = """
import torch
from torch._dynamo.testing import CompileCounter
counter, plain = CompileCounter(), torch.compile
torch.compile = lambda step, mode, dynamic: plain(step, backend=counter, fullgraph=True, dynamic=dynamic)
import numpy as np
from cwr_mech.training.autograd import AutogradEngine
from cwr_mech.data.batches import Batches
from cwr_mech.config import DataConfig, ModelConfig, WorldConfig
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.training.parameters import FlatParameters
from cwr_mech.world.cities import load_world
flat = FlatParameters(ModelConfig(n_layers=1, d_model=16, n_heads=2, d_mlp=16))
flat.load(HookedQwen2(flat.cfg, seed=0))
engine = AutogradEngine(flat, compiled="default")
batches = Batches(DataConfig(), load_world(WorldConfig(n_cities=30)), 13, 1)
for step in range(6):
    rows = batches.at(step)
    engine.batch(rows.tokens, rows.lengths, np.ones_like(rows.lengths), 1.0)
    flat.values.sub_(flat.grads, alpha=1e-4)
print(counter.frame_count)
"""


def test_a_compiled_step_is_one_graph_and_compiled_once() -> None:
    # In a process of its own: the checks that the tests put around functions would break the graph.
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "1"
