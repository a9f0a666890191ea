"""Qwen2 weights and settings between TransformerLens' names and Hugging Face's, and checkpoint folders.

A checkpoint is a Hugging Face folder: `config.json`, `model.safetensors` and the tokenizer's files;
`AutoModelForCausalLM.from_pretrained(folder)` reads it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from einops import EinopsError, rearrange
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cwr_mech.artifacts import atomic_folder, read_json
from cwr_mech.config import ModelConfig, parse
from cwr_mech.errors import ConfigError, CorruptArtifact, MissingArtifact

LAYER_NAMES = (
    ("ln1.w", "input_layernorm.weight", "d -> d"),
    ("attn.W_Q", "self_attn.q_proj.weight", "head d d_head -> (head d_head) d"),
    ("attn.b_Q", "self_attn.q_proj.bias", "head d_head -> (head d_head)"),
    ("attn.W_K", "self_attn.k_proj.weight", "kv d d_head -> (kv d_head) d"),
    ("attn.b_K", "self_attn.k_proj.bias", "kv d_head -> (kv d_head)"),
    ("attn.W_V", "self_attn.v_proj.weight", "kv d d_head -> (kv d_head) d"),
    ("attn.b_V", "self_attn.v_proj.bias", "kv d_head -> (kv d_head)"),
    ("attn.W_O", "self_attn.o_proj.weight", "head d_head d -> d (head d_head)"),
    ("ln2.w", "post_attention_layernorm.weight", "d -> d"),
    ("mlp.W_gate", "mlp.gate_proj.weight", "d d_mlp -> d_mlp d"),
    ("mlp.W_in", "mlp.up_proj.weight", "d d_mlp -> d_mlp d"),
    ("mlp.W_out", "mlp.down_proj.weight", "d_mlp d -> d d_mlp"),
)
"""Rows: TransformerLens name within a block, Hugging Face name within a layer, axes of both."""

SIZES = {
    "n_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "n_key_value_heads": "num_key_value_heads",
    "d_mlp": "intermediate_size",
    "d_vocab": "vocab_size",
    "n_ctx": "max_position_embeddings",
    "rms_eps": "rms_norm_eps",
    "tied": "tie_word_embeddings",
    "init_std": "initializer_range",
}
"""ModelConfig field -> Qwen2Config field, where both mean the same number."""


@runtime_checkable
class SavesPretrained(Protocol):
    """Anything that can put tokenizer files into a folder."""

    def save_pretrained(self, folder: Path) -> Any:
        """Write the files."""


def names(config: ModelConfig) -> Iterator[tuple[str, str, str]]:
    """All parameters as (TransformerLens name, Hugging Face name, axes of both)."""
    yield "embed.W_E", "model.embed_tokens.weight", "v d -> v d"
    for layer in range(config.n_layers):
        for own, theirs, axes in LAYER_NAMES:
            yield f"blocks.{layer}.{own}", f"model.layers.{layer}.{theirs}", axes
    yield "ln_final.w", "model.norm.weight", "d -> d"
    if not config.tied:
        yield "unembed.W_U", "lm_head.weight", "d v -> v d"


def to_hf_state(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Tensors by TransformerLens name to tensors by Hugging Face name (contiguous copies)."""
    return {theirs: rearrange(state[own], axes).contiguous() for own, theirs, axes in names(config)}


def from_hf_state(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Tensors by Hugging Face name to float32 tensors by TransformerLens name.

    Raises ConfigError when a parameter is missing, unknown, or has a shape that does not fit `config`.
    """
    table = list(names(config))
    expected = {theirs for _, theirs, _ in table}
    if missing := [theirs for _, theirs, _ in table if theirs not in state]:
        raise ConfigError(f"the weights lack {_some(missing)}")
    # Saved by transformers, a tied model may still hold the copy that shares the embedding's memory.
    if unknown := sorted(set(state) - expected - ({"lm_head.weight"} if config.tied else set())):
        raise ConfigError(f"the weights hold {_some(unknown)}, which this model has no place for")
    sizes = {
        "v": config.d_vocab,
        "d": config.d_model,
        "d_mlp": config.d_mlp,
        "d_head": config.d_head,
        "head": config.n_heads,
        "kv": config.n_kv,
    }
    converted = {}
    for own, theirs, axes in table:
        ours, hf = axes.split(" -> ")
        known = {axis: sizes[axis] for axis in ours.split()}
        try:
            converted[own] = rearrange(state[theirs].float(), f"{hf} -> {ours}", **known).contiguous()
        except EinopsError as error:
            raise ConfigError(
                f"weight {theirs} has shape {tuple(state[theirs].shape)}, the settings say "
                f"{tuple(rearrange(torch.empty([known[axis] for axis in ours.split()]), axes).shape)}"
            ) from error
    return converted


def _some(found: list[str]) -> str:
    return found[0] + (f" and {len(found) - 1} more" if len(found) > 1 else "")


def hf_settings(config: ModelConfig) -> dict[str, Any]:
    """Keyword arguments of transformers' Qwen2Config for a model of ours."""
    settings = {theirs: getattr(config, own) for own, theirs in SIZES.items()}
    settings["num_key_value_heads"] = config.n_kv
    return {
        **settings,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }


def model_config(settings: Mapping[str, Any]) -> ModelConfig:
    """ModelConfig from the content of a Hugging Face `config.json`.

    Raises ConfigError when it is not a Qwen2 model or uses an option that HookedQwen2 does not have.
    """
    if settings.get("model_type") != "qwen2":
        raise ConfigError(f"model type is {settings.get('model_type')!r}, not 'qwen2'")
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    fixed = {
        "hidden_act": (settings.get("hidden_act", "silu"), "silu"),
        "use_sliding_window": (settings.get("use_sliding_window", False), False),
        "rope type": (rope.get("rope_type", "default"), "default"),
        "attention_dropout": (settings.get("attention_dropout", 0.0), 0.0),
    }
    for option, (given, supported) in fixed.items():
        if given != supported:
            raise ConfigError(f"{option} is {given!r}; only {supported!r} is supported")
    content = {own: settings[theirs] for own, theirs in SIZES.items() if theirs in settings}
    content["rope_theta"] = rope.get("rope_theta", settings.get("rope_theta", 10000.0))
    if content.get("n_key_value_heads") == content.get("n_heads"):
        content["n_key_value_heads"] = None
    return parse(ModelConfig, content)


def write_folder(
    folder: Path | str,
    state: Mapping[str, Tensor],
    config: ModelConfig,
    tokenizer: SavesPretrained | None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a checkpoint folder atomically.

    `state` has TransformerLens names; `tokenizer` None writes this package's.
    """
    # Imported here: writing a checkpoint is the only thing that needs them.
    from transformers import Qwen2Config

    from cwr_mech.tasks.tokenizer import Tokenizer

    tensors = {name: tensor.detach().to("cpu", dtype) for name, tensor in to_hf_state(state, config).items()}
    settings = Qwen2Config(**hf_settings(config), dtype=dtype, architectures=["Qwen2ForCausalLM"])
    with atomic_folder(folder) as part:
        (tokenizer or Tokenizer()).save_pretrained(part)
        settings.save_pretrained(part)
        save_file(tensors, part / "model.safetensors", metadata={"format": "pt"})


def read_folder(folder: Path | str) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Settings and float32 weights (TransformerLens names) of a checkpoint folder.

    Raises MissingArtifact, or CorruptArtifact when a file is truncated, belongs to another kind of model,
    or holds weights that do not fit the settings.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingArtifact(f"no such checkpoint folder: {folder}", "train one with: cwr-mech train")
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise MissingArtifact(f"{folder} holds no model.safetensors, so it is not a checkpoint")
    try:
        config = model_config(read_json(folder / "config.json"))
        return config, from_hf_state(load_file(weights), config)
    except SafetensorError as error:
        raise CorruptArtifact(
            f"{weights} is truncated or not a safetensors file ({error})",
            "take another --step, or train the run anew",
        ) from error
    except ConfigError as error:
        raise CorruptArtifact(f"{folder} cannot be read as a model: {error.message}", error.hint) from error
