"""What --device, --precision and --compile mean, and what is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cwr_mech_cli.main import build_app
from typer.testing import CliRunner

import cwr_mech.training.engine as engine_module
from cwr_mech.config import DataConfig, ModelConfig, RunConfig, TrainConfig, WorldConfig
from cwr_mech.errors import ConfigError, UnknownName
from cwr_mech.training.compute import Compute, choose
from cwr_mech.training.engine import Engine
from cwr_mech.training.loop import train
from cwr_mech.training.parameters import FlatParameters
from cwr_mech.training.runs import Run

# a GPU is there, options, what they mean
CHOICES = [
    (False, {}, Compute("cpu", "float32", "off", by_hand=True)),
    (False, {"device": "cpu", "precision": "bfloat16"}, Compute("cpu", "bfloat16", "off", by_hand=True)),
    (False, {"compiled": "default"}, Compute("cpu", "float32", "default", by_hand=False)),
    (True, {}, Compute("cuda", "bfloat16", "default", by_hand=False)),
    (True, {"device": "cpu"}, Compute("cpu", "float32", "off", by_hand=True)),
    (
        True,
        {"device": "cuda", "precision": "float32", "compiled": "off"},
        Compute("cuda", "float32", "off", by_hand=False),
    ),
    (True, {"compiled": "reduce-overhead"}, Compute("cuda", "bfloat16", "reduce-overhead", by_hand=False)),
]
# options, CUDA version of torch, error, words of message and hint
REFUSED = [
    ({"device": "mps"}, None, ConfigError, "wrong gradients.*177116.*--device cpu"),
    ({"device": "cuda"}, None, ConfigError, r"CPU only.*make env TORCH=torch==\d+\.\d+\.\d+\)"),
    ({"device": "cuda"}, "12.8", ConfigError, "finds no GPU.*nvidia-smi"),
    ({"device": "gpu"}, None, UnknownName, "unknown device 'gpu'.*cuda"),
    ({"precision": "float16"}, None, UnknownName, "did you mean 'bfloat16'"),
    ({"compiled": "fast"}, None, UnknownName, "reduce-overhead"),
]


@pytest.mark.parametrize(("gpu", "options", "expected"), CHOICES)
def test_options_name_a_way_to_compute(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, options: dict[str, str], expected: Compute
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert choose(**options) == expected


@pytest.mark.parametrize(("options", "version", "error", "words"), REFUSED)
def test_what_cannot_be_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, str],
    version: str | None,
    error: type[Exception],
    words: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", version)
    with pytest.raises(error, match=words) as caught:
        choose(**options)
    assert "\n" not in str(caught.value)


def test_the_command_line_refuses_in_one_line_and_writes_nothing(tmp_path: Path) -> None:
    args = ["train", "--preset", "tiny", "--device", "mps", "--out", str(tmp_path / "t")]
    done = CliRunner().invoke(build_app(args), args)
    assert done.exit_code == 2
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]
    assert not (tmp_path / "t").exists()


def test_each_way_has_its_engine_and_is_described() -> None:
    flat = FlatParameters(ModelConfig(n_layers=1, d_model=8, n_heads=2, d_mlp=8))
    assert isinstance(Compute().engine(flat), Engine)
    engine = Compute(precision="bfloat16", by_hand=False).engine(flat)
    assert not isinstance(engine, Engine)
    assert engine.bfloat16
    assert Compute().described() == {
        "device": "cpu",
        "gradient": "by hand",
        "precision": "float32",
        "compiled": "off",
    }


CONFIG = RunConfig(
    name="t",
    world=WorldConfig(n_cities=24),
    data=DataConfig(tasks=("distance", "compass")),
    model=ModelConfig(n_layers=1, d_model=16, n_heads=2, d_mlp=16),
    train=TrainConfig(
        steps=12, batch_size=8, lr=1e-2, warmup=3, save_every=5, eval_every=12, eval_rows=2, checkpoints=1
    ),
)
BY_HAND, AUTOGRAD = Compute(), Compute(by_hand=False)


def interrupt(record: Mapping[str, Any]) -> None:
    if record["step"] == 7:
        raise KeyboardInterrupt


def cut(folder: Path, before: Compute, after: Compute) -> Run:
    """A run stopped at step 7 and resumed with another way to compute."""
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, folder, compute=before, listener=interrupt)
    return train(CONFIG, folder, compute=after, resume=True)


def test_autograd_trains_the_same_model_and_resumes(tmp_path: Path) -> None:
    by_hand = train(CONFIG, tmp_path / "h")
    autograd = train(CONFIG, tmp_path / "a", compute=AUTOGRAD)
    again = cut(tmp_path / "aa", AUTOGRAD, AUTOGRAD)
    assert again.sha256() == autograd.sha256() != by_hand.sha256()
    mixed = [cut(tmp_path / "ha", BY_HAND, AUTOGRAD), cut(tmp_path / "ah", AUTOGRAD, BY_HAND)]
    for run in (autograd, *mixed):
        for ours, theirs in zip(run.model().parameters(), by_hand.model().parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    told = [(entry["from_step"], entry["gradient"]) for entry in mixed[0].manifest["computed"]]
    assert told == [(0, "by hand"), (7, "autograd")]
    assert [entry["from_step"] for entry in again.manifest["computed"]] == [0]


@pytest.mark.parametrize("known", [{}, {"amx_bf16": True}, {"avx512_bf16": True, "amx_bf16": False}])
def test_bfloat16_is_said_to_be_slower_where_the_processor_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, known: dict[str, bool]
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    args = ["train", "--preset", "tiny", "--set", "steps=2", "--precision", "bfloat16", "--device", "cpu"]
    done = CliRunner().invoke(build_app(args), [*args, "--out", str(tmp_path / "t")])
    assert done.exit_code == 0, done.output
    assert done.output.count("has no instructions for bfloat16") == (not known)


def test_bfloat16_by_hand_resumes_to_the_bit(tmp_path: Path) -> None:
    wide = CONFIG.with_settings(["d_model=64", "d_mlp=64"])
    low = Compute(precision="bfloat16")
    whole = train(wide, tmp_path / "w", compute=low)
    with pytest.raises(KeyboardInterrupt):
        train(wide, tmp_path / "c", compute=low, listener=interrupt)
    again = train(wide, tmp_path / "c", compute=low, resume=True)
    assert again.sha256() == whole.sha256() != train(wide, tmp_path / "f").sha256()


@pytest.mark.slow
def test_bfloat16_learns_as_float32_does(tmp_path: Path) -> None:
    """Three seeds each: the losses of a seed differ by less than those of two seeds."""
    wide = ["n_layers=2", "d_model=64", "d_mlp=128", "steps=300", "batch_size=32", "optimizer=muon"]
    curves: dict[str, list[list[float]]] = {}
    for precision in ("float32", "bfloat16"):
        for seed in range(3):
            config = CONFIG.with_settings([*wide, f"train.seed={seed}"])
            run = train(config, tmp_path / f"{precision}{seed}", compute=Compute(precision=precision))
            curves.setdefault(precision, []).append(
                [line["loss"] for line in run.metrics() if "loss" in line]
            )
    late = {name: np.array(found)[:, -100:].mean(1) for name, found in curves.items()}
    early = np.array(curves["float32"])[:, :20].mean(1)
    assert (late["float32"] < early - 0.5).all()
    assert abs(late["bfloat16"].mean() - late["float32"].mean()) < np.ptp(late["float32"])


@pytest.mark.parametrize("by_hand", [False, True])
def test_bfloat16_trains_to_nearly_the_same_loss(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, by_hand: bool
) -> None:
    monkeypatch.setattr(engine_module, "BFLOAT16_PAYS", 0)
    exact = train(CONFIG, tmp_path / "h")
    short = train(CONFIG, tmp_path / "b", compute=Compute(precision="bfloat16", by_hand=by_hand))
    losses = [[line["loss"] for line in run.metrics() if "loss" in line] for run in (exact, short)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1] != pytest.approx(losses[0], rel=1e-6)
    assert losses[1][-1] < losses[1][0]
    assert all(weight.dtype == torch.float32 for weight in short.model().parameters())
