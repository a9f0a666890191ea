"""Checkpoints as transformers writes them, old and new: the same logits, or one line that refuses them."""

import json
from codecs import BOM_UTF8
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from cwr_mech.analysis.patching.forward import Forward, Tree
from cwr_mech.errors import ArtifactError, ConfigError
from cwr_mech.model.checkpoint import pad_token
from cwr_mech.model.decoding import greedy_decode
from cwr_mech.model.folded import foldable
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.model.settings import DEFAULTS, MOST_POSITIONS
from cwr_mech.training.parameters import FlatParameters

SIZES = {
    "vocab_size": 98, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 128,
    "initializer_range": 0.2,
}  # fmt: skip
TOKENS = torch.randint(4, 98, (2, 20), generator=torch.Generator().manual_seed(0))
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
INV_FREQ = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(4) for layer in range(2)}


def settings(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def sharded(folder: Path) -> None:
    Qwen2ForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()


def in_bfloat16(folder: Path) -> None:
    weights(folder, lambda t: t.update({name: value.bfloat16() for name, value in t.items()}))


def saved(folder: Path, **changes: Any) -> None:
    """A model of transformers with random weights, in `folder`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(Qwen2Config(**(SIZES | changes)))
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)


READ: dict[str, Callable[[Path], object]] = {
    "as it is": lambda f: None,
    "sharded": sharded,
    "bfloat16": in_bfloat16,
    "float64": lambda f: weights(f, lambda t: t.update({name: value.double() for name, value in t.items()})),
    "old rotary buffers": lambda f: weights(f, lambda t: t.update(INV_FREQ)),
    "old key of theta": lambda f: settings(f, rope_parameters=..., rope_theta=5e5, rope_scaling=None),
    "no theta": lambda f: settings(f, rope_parameters=...),
    "default named as type": lambda f: settings(f, rope_parameters=..., rope_scaling={"type": "default"}),
    "window above all layers": lambda f: settings(
        f, use_sliding_window=True, sliding_window=8, max_window_layers=2, layer_types=...
    ),
    "tied": lambda f: (
        settings(f, tie_word_embeddings=True),
        weights(f, lambda t: t.pop(HEAD)),
    ),
    "tied with the copy": lambda f: (
        settings(f, tie_word_embeddings=True),
        weights(f, lambda t: t.update({HEAD: t[EMBED].clone()})),
    ),
    "said to be tied, with a head of its own": lambda f: settings(f, tie_word_embeddings=True),
}

YARN = {"factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 32}
WINDOW = {"use_sliding_window": True, "sliding_window": 7}
HEADS = {
    "heads wider than the stream": {"head_dim": 16},
    "a width that heads do not divide": {"hidden_size": 30},
}
HEADS["a width that heads do not divide"] |= {"head_dim": 8, "num_key_value_heads": 4}
FOREIGN: dict[str, dict[str, Any]] = {
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 4.0}},
    "yarn, as Qwen2.5 writes it": {"rope_theta": 1e6, "rope_scaling": {"type": "yarn"} | YARN},
    "yarn, as transformers 5 writes it": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e3} | YARN},
    "yarn with its own factor": {
        "rope_scaling": {"rope_type": "yarn", "attention_factor": 1.7, "beta_fast": 16} | YARN
    },
    "llama3": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4} | LLAMA3},
    "a window from the second layer on": WINDOW | {"max_window_layers": 1, "layer_types": ...},
    "a sliding layer": WINDOW | {"layer_types": ["sliding_attention", "full_attention"]},
    "both": WINDOW | {"max_window_layers": 0, "layer_types": ..., "rope_scaling": {"type": "yarn"} | YARN},
}
"""Changes of config.json that no model trained here has."""
READ |= {
    name: lambda f, changes=changes: settings(f, **({"rope_parameters": ...} | changes))
    for name, changes in FOREIGN.items()
}

READ |= {name: lambda f, changes=changes: saved(f, **changes) for name, changes in HEADS.items()}
READ["wide heads with yarn"] = lambda f: saved(
    f, head_dim=16, rope_parameters={"rope_type": "yarn", "rope_theta": 5e3} | YARN
)

REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    **{
        f"{key} {word} {kind}": (
            lambda f, key=key, word=word, kind=kind: settings(
                f, rope_theta=1e4, **({"rope_parameters": ...} | {key: {word: kind, "factor": 4.0}})
            ),
            f"rope type is '{kind}'; supported are default, linear",
        )
        for key in ("rope_scaling", "rope_parameters")
        for word in ("type", "rope_type")
        for kind in ("longrope", "spiral")
    },
    "yarn without a factor": (
        lambda f: settings(f, rope_scaling={"type": "yarn"}),
        "rope type yarn cannot be computed.*factor",
    ),
    "a factor that is a word": (
        lambda f: settings(f, rope_scaling={"type": "linear", "factor": "four"}),
        "rope type linear cannot be computed",
    ),
    "a factor of nothing": (
        lambda f: settings(f, rope_scaling={"type": "linear", "factor": 0.0}),
        "rope type linear",
    ),
    "rope by layer": (
        lambda f: settings(f, rope_parameters={"full_attention": {"rope_type": "default"}}),
        "differs between layers",
    ),
    "rope is no table": (lambda f: settings(f, rope_parameters=[1]), "no table"),
    "partly rotated": (lambda f: settings(f, rope_parameters={"partial_rotary_factor": 0.5}), "partial"),
    "a window of no width": (
        lambda f: settings(
            f, use_sliding_window=True, sliding_window=0, max_window_layers=1, layer_types=...
        ),
        "1 layers have a sliding window, but use_sliding_window is True and sliding_window 0",
    ),
    "a sliding layer, and no window": (
        lambda f: settings(f, layer_types=["full_attention", "sliding_attention"]),
        "use_sliding_window is False",
    ),
    "a layer of another kind": (
        lambda f: settings(f, layer_types=["full_attention", "linear_attention"]),
        "each of 2 layers must be full_attention or sliding_attention",
    ),
    "a layer whose kind is a list": (
        lambda f: settings(f, layer_types=["full_attention", ["sliding_attention"]]),
        "each of 2 layers must be full_attention or sliding_attention",
    ),
    "kinds of other layers": (lambda f: settings(f, layer_types=["full_attention"] * 3), "each of 2 layers"),
    "wider heads than the weights have": (lambda f: settings(f, head_dim=16), "has shape"),
    "heads of an odd width": (lambda f: settings(f, head_dim=7), "head_dim 7 must be even"),
    "heads of a width that is a word": (lambda f: settings(f, head_dim="wide"), "head_dim"),
    "quantised": (lambda f: settings(f, quantization_config={"quant_method": "fp8"}), "quantised"),
    "bytes": (
        lambda f: weights(f, lambda t: t.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)})),
        "model.norm.weight is I8",
    ),
    "short floats": (
        lambda f: weights(f, lambda t: t.update({EMBED: t[EMBED].to(torch.float8_e4m3fn)})),
        "F8_E4M3",
    ),
    "not a number": (lambda f: weights(f, lambda t: t[EMBED].view(-1)[5:6].fill_(torch.nan)), "not finite"),
    "infinite in float32": (
        lambda f: weights(f, lambda t: t.update({EMBED: t[EMBED].double() * 1e300})),
        "not finite",
    ),
    "a byte order mark": (
        lambda f: (f / "config.json").write_bytes(BOM_UTF8 + (f / "config.json").read_bytes()),
        "byte order mark",
    ),
    "pickled weights": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "no model.safetensors.*save_pretrained",
    ),
    "an index into another folder": (
        lambda f: (
            (f / "model.safetensors").rename(f.parent / "outside.safetensors"),
            (f / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "../outside.safetensors"}}'
            ),
        ),
        "does not say which files",
    ),
    "an index of a missing shard": (
        lambda f: (
            (f / "model.safetensors").unlink(),
            (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "a.safetensors"}}'),
        ),
        "no such file.*a.safetensors",
    ),
    "a billion layers": (lambda f: settings(f, num_hidden_layers=10**9), "1000000000 layers"),
    "a huge width": (lambda f: settings(f, hidden_size=2**40), "has shape"),
    "a huge context": (lambda f: settings(f, max_position_embeddings=2**40), "max_position_embeddings"),
    "a folder for weights": (
        lambda f: ((f / "model.safetensors").unlink(), (f / "model.safetensors").mkdir()),
        "is a folder",
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    saved(tmp_path / "m")
    return tmp_path / "m"


def farthest(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, as a share of the largest number."""
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("change", READ.values(), ids=READ)
def test_what_is_read_has_the_logits_and_states_of_transformers(
    change: Callable[[Path], object], folder: Path
) -> None:
    change(folder)
    theirs = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = theirs(TOKENS, output_hidden_states=True)
    for ours in (HookedQwen2.from_pretrained(folder), HookedQwen2.from_hf(theirs)):
        with torch.no_grad():
            logits, cache = ours.run_with_cache(TOKENS)
        states = [cache[f"blocks.{layer}.hook_resid_pre"] for layer in range(2)]
        states.append(cache["unembed.hook_in"])
        # Sums of 32 to 128 products of float32, two layers deep; a wrong rope or head is off by whole units.
        for found, wanted in zip([logits, *states], [expected.logits, *expected.hidden_states], strict=True):
            assert farthest(found, wanted) < 1e-5
        assert logits.std() > 1, "the control: logits are large enough to differ"


@pytest.mark.parametrize("name", [*FOREIGN, *HEADS])
def test_scaled_angles_windows_and_wide_heads_change_logits_and_are_kept(
    name: str, folder: Path, tmp_path: Path
) -> None:
    plain = HookedQwen2.from_pretrained(folder)
    READ[name](folder)
    ours = HookedQwen2.from_pretrained(folder)
    with torch.no_grad():
        fused, whole = ours(TOKENS), ours.run_with_cache(TOKENS)[0]
        past = ours.new_past()
        steps = [
            ours(TOKENS[:, :9], past=past),
            *(ours(TOKENS[:, t : t + 1], past=past) for t in range(9, 20)),
        ]
        assert farthest(fused, whole) < 1e-5, "fused attention is that with its scores"
        assert farthest(torch.cat(steps, 1), whole) < 1e-5, "token by token as at once"
        if name != "dynamic":  # that changes nothing within max_position_embeddings
            assert farthest(plain(TOKENS), whole) > 1e-2, "the control: the settings matter"
        ours.save_pretrained(tmp_path / "again")
        again = HookedQwen2.from_pretrained(tmp_path / "again")
        assert again.config == ours.config
        assert torch.equal(again(TOKENS), fused)
        assert farthest(ours.to_hf()(TOKENS).logits, fused) < 1e-5


@pytest.mark.parametrize(("change", "said"), REFUSED.values(), ids=REFUSED)
def test_what_would_be_read_wrongly_is_refused(
    change: Callable[[Path], object], said: str, folder: Path
) -> None:
    HookedQwen2.from_pretrained(folder)
    change(folder)
    with pytest.raises(ArtifactError, match=said) as error:
        HookedQwen2.from_pretrained(folder)
    assert "\n" not in str(error.value)


def test_what_is_read_but_not_trained_or_patched_is_said(folder: Path) -> None:
    READ["a sliding layer"](folder)
    model = HookedQwen2.from_pretrained(folder)
    with pytest.raises(ConfigError, match=r"sliding windows and .* read, but not trained"):
        FlatParameters(model.config)
    with torch.no_grad():
        kept = Forward(model).record(TOKENS[:, :7], Tree(7)).resid[-1]
        assert farthest(kept, model(TOKENS[:, :7], stop_at_layer=2)) < 1e-5
    with pytest.raises(ConfigError, match="questions of 8 tokens are longer than the sliding window of 7"):
        Forward(model).record(TOKENS[:, :8], Tree(8))


@pytest.mark.parametrize("name", HEADS)
def test_heads_of_another_width_are_decoded_and_patched_as_they_are_run(name: str, folder: Path) -> None:
    READ[name](folder)
    model = HookedQwen2.from_pretrained(folder)
    with torch.no_grad():
        kept = Forward(model).record(TOKENS, Tree(TOKENS.shape[1])).resid[-1]
        assert farthest(kept, model(TOKENS, stop_at_layer=2)) < 1e-5
        theirs = model.to_hf().generate(TOKENS, max_new_tokens=6, do_sample=False, eos_token_id=-1)
    assert foldable(model)
    assert torch.equal(greedy_decode(model, TOKENS, 6, eos=-1), theirs[:, TOKENS.shape[1] :])
    with pytest.raises(ConfigError, match="heads of another width are read, but not trained"):
        FlatParameters(model.config)


def test_defaults_are_those_of_transformers() -> None:
    theirs = Qwen2Config()
    assert {key: getattr(theirs, key) for key in DEFAULTS} == DEFAULTS
    assert MOST_POSITIONS > 1_010_000, "the longest published Qwen2"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}, 0),
        ({"pad_token_id": 151643, "bos_token_id": 151643, "eos_token_id": 151645}, None),
        ({"pad_token_id": 7, "eos_token_id": [6, 7]}, None),
        ({}, None),
    ],
)
def test_padding_is_a_token_that_is_nothing_else(given: dict[str, Any], expected: int | None) -> None:
    assert pad_token(given) == expected


def test_saving_over_a_folder_leaves_what_is_not_ours(tmp_path: Path, folder: Path) -> None:
    model = HookedQwen2.from_pretrained(folder)
    (folder / "notes.txt").write_text("two years of work")
    model.save_pretrained(folder)
    assert (folder / "notes.txt").read_text() == "two years of work"
    (tmp_path / "link").symlink_to(folder)
    model.save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ArtifactError, match="is a file"):
        model.save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"
