"""What --device, --precision and --compile mean, and what is refused."""

import pytest
import torch

from cwr_mech.config import ModelConfig
from cwr_mech.devices import Compute, choose
from cwr_mech.engine import Engine
from cwr_mech.errors import ConfigError, UnknownName
from cwr_mech.parameters import FlatParameters

# a GPU is there, options, what they mean
CHOICES = [
    (False, {}, Compute("cpu", "float32", "off", by_hand=True)),
    (False, {"device": "cpu", "precision": "bfloat16"}, Compute("cpu", "bfloat16", "off", by_hand=False)),
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
    assert Compute("cuda").on("cuda:1").device == "cuda:1"
