"""Settings of a Qwen2 model: our ModelConfig and Hugging Face's `config.json`, with its old keys and its new.

Options that HookedQwen2 does not have are refused, never ignored: they would change the logits. What a model
made elsewhere may have and none trained here has, scaled rotary angles and layers with a sliding window, is
in ForeignConfig.
"""

from collections.abc import Mapping
from reprlib import repr as short
from typing import Any

from pydantic import Field

from cwr_mech.config import ModelConfig, parse
from cwr_mech.errors import ConfigError
from cwr_mech.model.rotary import scaled_frequencies

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

SCALED = ("linear", "dynamic", "yarn", "llama3", "proportional")
"""Rotary scalings whose angles do not depend on the text: "dynamic" changes them beyond
`max_position_embeddings` only, and longer texts are refused."""

MOST_POSITIONS = 2**20
"""Rotary tables are made for every position; Qwen2.5-1M, the longest published model, has 1,010,000."""


class ForeignConfig(ModelConfig):
    """A Qwen2 made elsewhere. `rope_scaling`, `window` and `windowed` as in `layers.HookedConfig`; `head_dim`
    where heads are not as wide as d_model / n_heads.
    """

    head_dim: int | None = Field(None, ge=2)
    rope_scaling: dict[str, Any] | None = None
    window: int | None = Field(None, ge=1)
    windowed: tuple[int, ...] = ()

    @property
    def d_head(self) -> int:
        """Width of one head."""
        return self.head_dim or super().d_head

    def _check_width(self) -> None:
        if self.head_dim is None:
            super()._check_width()
        elif self.head_dim % 2:
            raise ConfigError(f"head_dim {self.head_dim} must be even")


def hf_settings(config: ModelConfig) -> dict[str, Any]:
    """Keyword arguments of transformers' Qwen2Config for a model of ours."""
    settings = {theirs: getattr(config, own) for own, theirs in SIZES.items()}
    settings["num_key_value_heads"] = config.n_kv
    foreign = config if isinstance(config, ForeignConfig) else ForeignConfig()
    kinds = ["full_attention"] * config.n_layers
    for layer in foreign.windowed:
        kinds[layer] = "sliding_attention"
    sliding = {"sliding_window": foreign.window, "layer_types": kinds} if foreign.windowed else {}
    return {
        **settings,
        **({"head_dim": foreign.head_dim} if foreign.head_dim else {}),
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "use_sliding_window": bool(foreign.windowed),
        **sliding,
        "rope_parameters": {"rope_type": "default"}
        | (foreign.rope_scaling or {})
        | {"rope_theta": config.rope_theta},
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
            "HookedQwen2 is a Qwen2 or Qwen2.5; commands read texts with other architectures, too",
        )
    for option, supported in (("hidden_act", "silu"), ("attention_dropout", 0.0)):
        if settings.get(option, supported) != supported:
            raise ConfigError(f"{option} is {short(settings[option])}; only {supported!r} is supported")
    refuse_quantised(settings)
    content = {own: settings.get(theirs, DEFAULTS.get(theirs)) for own, theirs in SIZES.items()}
    rope = _rope(settings)
    content["rope_theta"] = rope.pop("rope_theta")
    if content["n_key_value_heads"] == content["n_heads"]:
        content["n_key_value_heads"] = None
    config = parse(ForeignConfig, content | {"head_dim": settings.get("head_dim")})
    if config.n_ctx > MOST_POSITIONS:
        raise ConfigError(f"max_position_embeddings is {config.n_ctx:,}; at most {MOST_POSITIONS:,} are read")
    if config.head_dim and config.head_dim * config.n_heads == config.d_model:
        config = config.model_copy(update={"head_dim": None})
    window, windowed = _windows(settings, config.n_layers)
    scaling = None if rope["rope_type"] == "default" else rope
    if not (scaling or windowed or config.head_dim):
        return parse(ModelConfig, content)
    found = {"head_dim": config.head_dim, "rope_scaling": scaling, "window": window, "windowed": windowed}
    config = parse(ForeignConfig, content | found)
    if scaling is not None:
        scaled_frequencies(config)
    return config


def refuse_quantised(settings: Mapping[str, Any]) -> None:
    """Raise ConfigError for weights that need scales to be read."""
    for option in ("quantization_config", "compression_config"):
        if settings.get(option):
            raise ConfigError(f"the weights are quantised ({option})", "save them in float32 or bfloat16")


def _rope(settings: Mapping[str, Any]) -> dict[str, Any]:
    """transformers 5's `rope_parameters`, the older `rope_scaling` and `rope_theta` in one table, which has
    `rope_type` and `rope_theta`.

    Raises ConfigError for angles that differ between layers, turn a part of a head only, or follow the length
    of the text (longrope).
    """
    key = "rope_scaling" if settings.get("rope_scaling") else "rope_parameters"  # as transformers chooses
    rope = settings.get(key) or {}
    if not isinstance(rope, Mapping):
        raise ConfigError(f"{key} is {short(rope)}, which is no table")
    if any(isinstance(value, Mapping) for value in rope.values()):
        raise ConfigError(f"{key} differs between layers; only one for all layers is supported")
    if rope.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise ConfigError("partial_rotary_factor is not 1; only whole heads are rotated")
    found = {name: value for name, value in rope.items() if value is not None and name != "type"}
    kind = found.setdefault("rope_type", rope.get("type") or "default")
    if kind not in ("default", *SCALED):
        raise ConfigError(f"rope type is {short(kind)}; supported are default, {', '.join(SCALED)}")
    if "original_max_position_embeddings" in settings:
        found["original_max_position_embeddings"] = settings["original_max_position_embeddings"]
    found.setdefault("rope_theta", settings.get("rope_theta") or 10000.0)
    return found


def _windows(settings: Mapping[str, Any], n_layers: int) -> tuple[int | None, tuple[int, ...]]:
    """Positions that a sliding layer attends to, and which layers slide; (None, ()) for none.

    As Qwen2Config: `layer_types`, or the layers from `max_window_layers` on, and only with
    `use_sliding_window`. Raises ConfigError where these do not fit each other.
    """
    kinds, slides = settings.get("layer_types"), bool(settings.get("use_sliding_window"))
    width, first = settings.get("sliding_window", 4096), settings.get("max_window_layers", 28)
    if isinstance(kinds, list):
        windowed = tuple(layer for layer, kind in enumerate(kinds) if kind != "full_attention")
        if len(kinds) != n_layers or any(kinds[layer] != "sliding_attention" for layer in windowed):
            raise ConfigError(
                f"layer_types is {short(kinds)}; each of {n_layers} layers must be full_attention or "
                "sliding_attention"
            )
    elif slides and width is not None:
        if not isinstance(first, int):
            raise ConfigError(f"max_window_layers is {short(first)}, which is no number of layers")
        windowed = tuple(range(max(first, 0), n_layers))
    else:
        windowed = ()
    if windowed and not (slides and isinstance(width, int) and width > 0):
        raise ConfigError(
            f"{len(windowed)} layers have a sliding window, but use_sliding_window is {slides} and "
            f"sliding_window {short(width)}"
        )
    return (width, windowed) if windowed else (None, ())
