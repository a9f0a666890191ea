"""The flat optimiser equals torch's on the plain model; the schedule has the values its name says."""

from typing import Literal

import pytest
import torch
from torch import Tensor

from cwr_mech.config import ModelConfig, TrainConfig
from cwr_mech.errors import SchemaMismatch
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.training.batched import BatchedModels, StepInput
from cwr_mech.training.optimizer import Muon, Optimizer, rate_at
from cwr_mech.training.parameters import FlatParameters

MODEL = ModelConfig(n_layers=2, d_model=16, n_heads=2, d_mlp=24)

# schedule, steps, warmup, decay, {step: share of the peak rate}
RATES = [
    ("linear", 100, 0, 0.3, {0: 1.0, 50: 0.5, 99: 0.01}),
    ("linear", 100, 20, 0.3, {0: 0.05, 9: 0.5, 19: 1.0, 20: 1.0, 60: 0.5, 99: 1 / 80}),
    ("cosine", 100, 0, 0.3, {0: 1.0, 50: 0.5, 25: 0.8535534, 99: 0.00024672}),
    ("constant", 100, 10, 0.3, {0: 0.1, 10: 1.0, 99: 1.0}),
    ("hold", 100, 10, 0.4, {4: 0.5, 10: 1.0, 60: 1.0, 80: 0.5, 99: 0.025}),
]


@pytest.mark.parametrize(("schedule", "steps", "warmup", "decay", "expected"), RATES)
def test_rates(schedule: str, steps: int, warmup: int, decay: float, expected: dict[int, float]) -> None:
    train = TrainConfig(steps=steps, lr=2.0, schedule=schedule, warmup=warmup, decay=decay)
    for step, share in expected.items():
        assert rate_at(train, step) == pytest.approx(2.0 * share, rel=1e-5), step


def plain_adamw(model: HookedQwen2, train: TrainConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, as the paper's trainer groups them."""
    decayed = [p for name, p in model.named_parameters() if ".W_" in name]
    others = [p for name, p in model.named_parameters() if ".W_" not in name]
    groups = [
        {"params": decayed, "weight_decay": train.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=train.lr, betas=(train.beta1, train.beta2), eps=1e-8)


@pytest.mark.parametrize("clip", [0.01, 1e9])
def test_updates_equal_torch_on_the_plain_model(clip: float) -> None:
    train = TrainConfig(lr=1e-2, warmup=2, steps=8, weight_decay=0.1, clip=clip)
    model = HookedQwen2(MODEL, seed=1)
    flat = FlatParameters(MODEL)
    flat.load(model)
    ours, theirs = Optimizer(flat, train), plain_adamw(model, train)
    copy = HookedQwen2(MODEL, seed=2)
    generator = torch.Generator().manual_seed(0)
    for step in range(8):
        flat.grads.copy_(torch.randn(flat.grads.shape, generator=generator))
        flat.store_grads(model)
        norm = ours.norm()
        expected = float(torch.nn.utils.clip_grad_norm_(model.parameters(), clip))
        assert norm == pytest.approx(expected, rel=1e-5)
        for group in theirs.param_groups:
            group["lr"] = rate_at(train, step)
        theirs.step()
        ours.step(step, norm)
    assert not flat.grads.any()
    flat.store(copy)
    for (name, a), b in zip(model.named_parameters(), copy.parameters(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def processor(monkeypatch: pytest.MonkeyPatch, quick: bool) -> None:
    """With instructions for bfloat16, or without."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": quick})


@pytest.mark.parametrize("quick", [False, True])
def test_muon_equals_torch_on_transformers_matrices(monkeypatch: pytest.MonkeyPatch, quick: bool) -> None:
    """Matrices of the blocks move as torch's Muon moves transformers' own, all else as AdamW moves it."""
    processor(monkeypatch, quick)
    train = TrainConfig(lr=1e-2, warmup=2, steps=6, weight_decay=0.1, optimizer="muon")
    start = HookedQwen2(MODEL, seed=1)
    flat, adam_flat = FlatParameters(MODEL), FlatParameters(MODEL)
    flat.load(start)
    adam_flat.load(start)
    ours = Optimizer(flat, train)
    adamw = Optimizer(adam_flat, train.model_copy(update={"optimizer": "adamw"}))
    theirs = start.to_hf()
    matrices = {name: p for name, p in theirs.named_parameters() if "layers" in name and p.ndim == 2}
    muon = torch.optim.Muon(matrices.values(), weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    gradient = HookedQwen2(MODEL, seed=3)
    generator = torch.Generator().manual_seed(0)
    for step in range(6):
        flat.grads.copy_(torch.randn(flat.grads.shape, generator=generator)).div_(flat.grads.norm())
        adam_flat.grads.copy_(flat.grads)
        flat.store_grads(gradient)
        for parameter in gradient.parameters():
            assert parameter.grad is not None
            parameter.data, parameter.grad = parameter.grad, None
        grads = dict(gradient.to_hf().named_parameters())
        for name, parameter in matrices.items():
            parameter.grad = grads[name].detach().clone()
        muon.param_groups[0]["lr"] = rate_at(train, step)
        muon.step()
        ours.step(step, 1.0)
        adamw.step(step, 1.0)
    found, others = HookedQwen2(MODEL, seed=0), HookedQwen2(MODEL, seed=0)
    flat.store(found)
    adam_flat.store(others)
    before = dict(start.to_hf().named_parameters())
    as_adamw = dict(others.to_hf().named_parameters())
    for name, value in found.to_hf().named_parameters():
        if name in matrices:  # torch orthogonalises in bfloat16, and the matrix that is not transposed
            moved = (matrices[name] - before[name]).norm()
            assert (value - matrices[name]).norm() < 0.02 * moved, name
            assert (value - as_adamw[name]).norm() > 0.1 * moved, name
        else:
            torch.testing.assert_close(value, as_adamw[name], rtol=0, atol=0)


@pytest.mark.parametrize("quick", [False, True])
def test_muon_computes_in_bfloat16_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, quick: bool
) -> None:
    """On others such products take twenty times as long."""
    processor(monkeypatch, quick)
    met: list[torch.dtype] = []

    def seen(x: Tensor) -> Tensor:
        met.append(x.dtype)
        return x

    monkeypatch.setattr(Muon, "orthogonal", staticmethod(seen))
    train, flat = TrainConfig(optimizer="muon"), FlatParameters(MODEL)
    alone = Optimizer(flat, train)
    alone.step(0, 1.0)
    one = len(met)
    values = flat.values[None].clone()
    together = BatchedModels(MODEL, [train], values, torch.zeros_like(values), torch.zeros_like(values))
    tokens = torch.ones(1, 2, 5, dtype=torch.uint8)
    together.step(StepInput(tokens, tokens > 0, torch.tensor([[1e-3, 0.1, 0.1]])))
    assert len(met) == 2 * one > 0
    assert set(met) == {torch.bfloat16 if quick else torch.float32}


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_state_restores_every_number(kind: Literal["adamw", "muon"]) -> None:
    train = TrainConfig(lr=1e-2, steps=9, warmup=0, optimizer=kind)

    def begin() -> tuple[FlatParameters, Optimizer]:
        flat = FlatParameters(MODEL)
        flat.load(HookedQwen2(MODEL, seed=1))
        return flat, Optimizer(flat, train)

    def advance(flat: FlatParameters, optimizer: Optimizer, steps: range) -> None:
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            flat.grads.copy_(torch.randn(flat.grads.shape, generator=generator))
            optimizer.step(step, optimizer.norm())

    flat, optimizer = begin()
    advance(flat, optimizer, range(4))
    saved = {name: value.clone().contiguous() for name, value in optimizer.state().items()}
    advance(flat, optimizer, range(4, 9))
    other_flat, other = begin()
    other.load_state(saved)
    advance(other_flat, other, range(4, 9))
    assert torch.equal(flat.values, other_flat.values)
    for name, value in optimizer.state().items():
        assert torch.equal(value, other.state()[name]), name
    with pytest.raises(SchemaMismatch, match="exp_avg"):  # the names of an earlier version
        other.load_state({name.split(".", 1)[-1]: value for name, value in saved.items() if "exp" in name})
