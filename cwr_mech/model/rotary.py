"""Rotary positions (Su et al., arXiv 2104.09864) in the half-split layout, scaled to long texts or not."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from cwr_mech.artifacts import one_line
from cwr_mech.errors import ConfigError

if TYPE_CHECKING:
    from cwr_mech.model.layers import HookedConfig
    from cwr_mech.model.settings import ForeignConfig

Table = Float[Tensor, "n_ctx 1 half"]


def rotary_tables(cfg: "HookedConfig") -> tuple[Table, Table]:
    """Cosine and sine of the rotary angles `pos * theta^(-2i/d_head)`, or of scaled ones."""
    # On the CPU whatever the default device: the same numbers everywhere, and never empty ones of "meta".
    with torch.device("cpu"):
        if cfg.rope_scaling is None:
            even = torch.arange(0, cfg.d_head, 2, dtype=torch.float32)
            frequency, factor = 1.0 / cfg.rope_theta ** (even / cfg.d_head), None
        else:
            frequency, factor = scaled_frequencies(cfg)
        angle = torch.outer(torch.arange(cfg.n_ctx, dtype=torch.float32), frequency)[:, None]
        cos, sin = angle.cos(), angle.sin()
    return (cos, sin) if factor is None else (cos * factor, sin * factor)


def scaled_frequencies(cfg: "HookedConfig | ForeignConfig") -> tuple[Float[Tensor, " half"], float]:
    """Frequencies and the factor on both tables (YaRN's, arXiv 2309.00071), as transformers computes them.

    Raises ConfigError for settings that it cannot compute.
    """
    from transformers import Qwen2Config
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope: dict[str, Any] = {**(cfg.rope_scaling or {}), "rope_theta": cfg.rope_theta}
    try:
        settings = Qwen2Config(
            hidden_size=cfg.d_model,
            num_attention_heads=cfg.n_heads,
            head_dim=cfg.d_head,
            max_position_embeddings=cfg.n_ctx,
            rope_parameters=rope,
        )
        frequency, factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](settings, torch.device("cpu"))
    except Exception as error:  # KeyError for what is missing, TypeError for a text: whatever the file holds
        raise ConfigError(f"rope type {rope['rope_type']} cannot be computed ({one_line(error)})") from error
    if frequency.shape != (cfg.d_head // 2,) or not torch.isfinite(frequency * factor).all():
        raise ConfigError(f"rope type {rope['rope_type']} gives no angle for each pair of a head")
    return frequency, factor


def rotate(
    x: Float[Tensor, "*batch d_head"], cos: Float[Tensor, "*angles half"], sin: Float[Tensor, "*angles half"]
) -> Float[Tensor, "*batch d_head"]:
    """Rotate the pair (i, i + d_head/2) of every head by its position's angle: the half-split layout.

    `cos` and `sin`, [pos 1 half] for [batch pos head d_head], broadcast against one half of `x`.
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
