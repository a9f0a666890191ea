"""Settings of a Qwen2 model: our ModelConfig and Hugging Face's `config.json`, with its old keys and its new.

Options that HookedQwen2 does not have are refused, never ignored: they would change the logits.
"""

from collections.abc import Mapping
from reprlib import repr as short
from typing import Any

from cwr_mech.config import ModelConfig, parse
from cwr_mech.errors import ConfigError

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

DEFAULTS = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "intermediate_size": 22016,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
}
"""What transformers' Qwen2Config takes for a key that is not in the file."""

MOST_POSITIONS = 2**20
"""Rotary tables are made for every position; Qwen2.5-1M, the longest published model, has 1,010,000."""


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
        raise ConfigError(
            f"model type is {short(settings.get('model_type'))}, not 'qwen2'",
            "Qwen2 and Qwen2.5 are read; TransformerLens' TransformerBridge reads other architectures",
        )
    for option, supported in (("hidden_act", "silu"), ("attention_dropout", 0.0)):
        if settings.get(option, supported) != supported:
            raise ConfigError(f"{option} is {short(settings[option])}; only {supported!r} is supported")
    for option in ("quantization_config", "compression_config"):
        if settings.get(option):
            raise ConfigError(
                f"the weights are quantised ({option})", "save them in float32, float16 or bfloat16"
            )
    content = {own: settings.get(theirs, DEFAULTS.get(theirs)) for own, theirs in SIZES.items()}
    content["rope_theta"] = _rope_theta(settings)
    if content["n_key_value_heads"] == content["n_heads"]:
        content["n_key_value_heads"] = None
    config = parse(ModelConfig, content)
    if config.n_ctx > MOST_POSITIONS:
        raise ConfigError(
            f"max_position_embeddings is {config.n_ctx:,}; at most {MOST_POSITIONS:,} are supported"
        )
    if settings.get("head_dim") not in (None, config.d_head):
        raise ConfigError(f"head_dim is {short(settings['head_dim'])}; only hidden_size / heads is supported")
    _refuse_sliding(settings, config.n_layers)
    return config


def _rope_theta(settings: Mapping[str, Any]) -> Any:
    """Base of the rotary angles, from transformers 5's `rope_parameters` or the older `rope_theta`.

    Raises ConfigError for a scaling of any kind: `rope_scaling` names its kind "type" or "rope_type".
    """
    theta = settings.get("rope_theta")
    for key in ("rope_scaling", "rope_parameters"):
        rope = settings.get(key) or {}
        if not isinstance(rope, Mapping):
            raise ConfigError(f"{key} is {short(rope)}, which is no table")
        for kind in (rope.get("rope_type") or "default", rope.get("type") or "default"):
            if kind != "default":
                raise ConfigError(f"rope type is {short(kind)}; only 'default' is supported")
        if any(isinstance(value, Mapping) for value in rope.values()):
            raise ConfigError(f"{key} differs between layers; only one for all layers is supported")
        if rope.get("partial_rotary_factor") not in (None, 1, 1.0):
            raise ConfigError("partial_rotary_factor is not 1; only whole heads are rotated")
        theta = rope.get("rope_theta") or theta
    return 10000.0 if theta is None else theta


def _refuse_sliding(settings: Mapping[str, Any], n_layers: int) -> None:
    """Raise ConfigError where some layer attends to a window of positions only."""
    kinds, width = settings.get("layer_types"), settings.get("sliding_window", 4096)
    first, slides = settings.get("max_window_layers", 28), bool(settings.get("use_sliding_window"))
    if isinstance(kinds, list):
        full = all(kind == "full_attention" for kind in kinds) and not (slides and width is None)
    else:
        full = not slides or (isinstance(first, int) and first >= n_layers)
    if not full:
        given = short(settings.get("use_sliding_window"))
        raise ConfigError(f"use_sliding_window is {given}; only full attention is supported")
