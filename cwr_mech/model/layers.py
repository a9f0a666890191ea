"""The layers of HookedQwen2, with TransformerLens' parameter and hook names.

Arithmetic is that of transformers' Qwen2: RMSNorm before attention and MLP, rotary positions in the
half-split layout, biases on queries, keys and values only, a SiLU-gated MLP. Weights have
HookedTransformer's shapes (`W_Q [head d_model d_head]`, `W_gate [d_model d_mlp]`, ...).

Hooks that need extra memory are silent until their flag in `cfg` is set, as in TransformerLens:
`attn.hook_result` (`use_attn_result`), `attn.hook_{q,k,v}_input` (`use_split_qkv_input`) and
`hook_mlp_in` (`use_hook_mlp_in`).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.config import TransformerLensConfig
from transformer_lens.hook_points import HookPoint

from cwr_mech.model.arithmetic import rms, spread
from cwr_mech.model.rotary import rotate


@dataclass(repr=False)
class HookedConfig(TransformerLensConfig):
    """What TransformerLens' tools read from a model's `cfg`, plus what Qwen2 needs.

    `rope_scaling`: transformers' `rope_parameters` other than theta, where the angles are scaled. Layers of
    `windowed` attend to the last `window` positions only, their own included.
    """

    use_hook_mlp_in: bool = False
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    window: int | None = None
    windowed: tuple[int, ...] = ()
    init_std: float = 0.1
    tied: bool = False

    @property
    def n_kv(self) -> int:
        """Number of key/value heads."""
        return self.n_key_value_heads or self.n_heads


@dataclass
class LayerCache:
    """Rotated keys and values of the positions one attention layer has seen."""

    keys: Float[Tensor, "batch kv_head pos d_head"] | None = None
    values: Float[Tensor, "batch kv_head pos d_head"] | None = None

    @property
    def length(self) -> int:
        """Number of positions held."""
        return 0 if self.keys is None else self.keys.shape[2]

    def extend(
        self,
        keys: Float[Tensor, "batch kv_head new d_head"],
        values: Float[Tensor, "batch kv_head new d_head"],
    ) -> tuple[Float[Tensor, "batch kv_head pos d_head"], Float[Tensor, "batch kv_head pos d_head"]]:
        """Append new positions and return everything held."""
        if self.keys is not None and self.values is not None:
            keys, values = torch.cat([self.keys, keys], 2), torch.cat([self.values, values], 2)
        self.keys, self.values = keys, values
        return keys, values


def watched(hook: HookPoint) -> bool:
    """Whether anyone listens at a hook point, through TransformerLens or through plain torch hooks."""
    return bool(hook._forward_hooks or hook._backward_hooks or hook._forward_pre_hooks)


def zeros(*shape: int) -> nn.Parameter:
    """A parameter of this shape, not drawn yet."""
    return nn.Parameter(torch.zeros(*shape))


def redraw(parameters: list[nn.Parameter], std: float, generator: np.random.Generator | None) -> None:
    """Draw from N(0, std^2), so that a seed means the same weights on every device and processor.

    numpy draws number by number; torch's normal draws depend on the vector width of the processor. Without a
    generator, one is seeded from torch's global generator, as users of `torch.manual_seed` expect.
    """
    generator = generator or np.random.default_rng(int(torch.randint(2**62, ())))
    with torch.no_grad():
        for parameter in parameters:
            draw = std * generator.standard_normal(tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(draw.astype(np.float32)))


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x^2) + eps) * w` over the last axis (Zhang & Sennrich, arXiv 1910.07467)."""

    def __init__(self, cfg: HookedConfig) -> None:
        super().__init__()
        self.eps = cfg.eps
        self.w = nn.Parameter(torch.ones(cfg.d_model))
        self.hook_scale, self.hook_normalized = HookPoint(), HookPoint()

    def reset_parameters(self, generator: np.random.Generator | None = None) -> None:
        """Set the gains to 1; nothing is drawn."""
        nn.init.ones_(self.w)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Normalise; statistics are taken in float32 when the model is in a shorter type."""
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        scale = self.hook_scale(rms(wide, self.eps))
        return self.hook_normalized(wide / scale).to(x.dtype) * self.w


class Attention(nn.Module):
    """Causal self-attention with rotary positions and grouped key/value heads.

    `window`: the number of last positions that are attended to; all of them by default.
    """

    def __init__(self, cfg: HookedConfig, window: int | None = None) -> None:
        super().__init__()
        self.cfg, self.window = cfg, window
        n, kv, d, h = cfg.n_heads, cfg.n_kv, cfg.d_model, cfg.d_head
        self.W_Q, self.b_Q = zeros(n, d, h), zeros(n, h)
        self.W_K, self.b_K = zeros(kv, d, h), zeros(kv, h)
        self.W_V, self.b_V = zeros(kv, d, h), zeros(kv, h)
        self.W_O = zeros(n, h, d)
        self.hook_q_input, self.hook_k_input, self.hook_v_input = HookPoint(), HookPoint(), HookPoint()
        self.hook_q, self.hook_k, self.hook_v = HookPoint(), HookPoint(), HookPoint()
        self.hook_rot_q, self.hook_rot_k = HookPoint(), HookPoint()
        self.hook_attn_scores, self.hook_pattern = HookPoint(), HookPoint()
        self.hook_z, self.hook_result = HookPoint(), HookPoint()

    def reset_parameters(self, generator: np.random.Generator | None = None) -> None:
        """Draw the weights anew (no generator: seeded by torch's global one) and set the biases to 0."""
        redraw([self.W_Q, self.W_K, self.W_V, self.W_O], self.cfg.init_std, generator)
        for bias in (self.b_Q, self.b_K, self.b_V):
            nn.init.zeros_(bias)

    def forward(
        self,
        q_in: Tensor,
        k_in: Tensor,
        v_in: Tensor,
        cos: Tensor,
        sin: Tensor,
        past: LayerCache | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Attend. Inputs are normalised streams `[batch pos d_model]`, or `[batch pos head d_model]`.

        `cos` and `sin` are the rotary tables of these positions. With `past`, earlier positions are attended
        to and these are appended.
        """
        q = self.hook_rot_q(rotate(self.hook_q(_project(q_in, self.W_Q, self.b_Q)), cos, sin))
        k = self.hook_rot_k(rotate(self.hook_k(_project(k_in, self.W_K, self.b_K)), cos, sin))
        v = self.hook_v(_project(v_in, self.W_V, self.b_V))
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if past is not None:
            k, v = past.extend(k, v)
        k, v = (spread(shared, self.cfg.n_heads // self.cfg.n_kv) for shared in (k, v))
        if watched(self.hook_attn_scores) or watched(self.hook_pattern):
            z = self._explicit(q, k, v)
        elif self._sees_all(k) and q.shape[2] in (1, k.shape[2]):
            # A single query is the last position and sees everything.
            z = F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1)
        else:
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=self._visible(q, k))
        z = self.hook_z(z.transpose(1, 2))
        if self.cfg.use_attn_result:
            return self.hook_result(torch.einsum("bphd,hdm->bphm", z, self.W_O)).sum(2)
        return z.flatten(2) @ self.W_O.flatten(0, 1)

    def _explicit(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention with its scores and pattern materialised, for when somebody looks at them."""
        scores = (q @ k.transpose(-1, -2)).div_(math.sqrt(self.cfg.d_head))
        # The lowest number, not -inf: a difference of two masked scores, as attribution takes it, is 0 then.
        lowest = torch.finfo(scores.dtype).min
        scores = self.hook_attn_scores(scores.masked_fill_(~self._visible(q, k), lowest))
        return self.hook_pattern(scores.softmax(-1)) @ v

    def _sees_all(self, k: Tensor) -> bool:
        """Whether no key lies outside of the window of a query."""
        return self.window is None or k.shape[2] <= self.window

    def _visible(self, q: Tensor, k: Tensor) -> Tensor:
        """Causal mask `[query key]`, True where a query may look; the queries are the last positions."""
        queries, keys = q.shape[2], k.shape[2]
        seen = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
        # Query i is position p = keys - queries + i, and sees j with p - window < j <= p.
        return seen if self.window is None else seen.triu(keys - queries - self.window + 1)


def _project(
    x: Tensor, weight: Float[Tensor, "head d_model d_head"], bias: Float[Tensor, "head d_head"]
) -> Float[Tensor, "batch pos head d_head"]:
    """One matrix product for all heads, or one a head where each has its own input."""
    if x.ndim == 4:
        return torch.einsum("bphm,hmd->bphd", x, weight) + bias
    heads, d_model, d_head = weight.shape
    flat = weight.transpose(1, 2).reshape(heads * d_head, d_model)
    return F.linear(x, flat, bias.flatten()).unflatten(-1, (heads, d_head))


class MLP(nn.Module):
    """`(silu(x W_gate) * (x W_in)) W_out` (Shazeer, arXiv 2002.05202)."""

    def __init__(self, cfg: HookedConfig) -> None:
        super().__init__()
        self.cfg = cfg
        if cfg.d_mlp is None:
            raise ValueError("d_mlp must be given")
        self.W_gate, self.W_in = zeros(cfg.d_model, cfg.d_mlp), zeros(cfg.d_model, cfg.d_mlp)
        self.W_out = zeros(cfg.d_mlp, cfg.d_model)
        self.hook_pre, self.hook_pre_linear, self.hook_post = HookPoint(), HookPoint(), HookPoint()

    def reset_parameters(self, generator: np.random.Generator | None = None) -> None:
        """Draw the weights anew; without a generator, seeded by torch's global one."""
        redraw([self.W_gate, self.W_in, self.W_out], self.cfg.init_std, generator)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """Normalised residual stream to the MLP's contribution."""
        pre, linear = self.hook_pre(x @ self.W_gate), self.hook_pre_linear(x @ self.W_in)
        return self.hook_post(F.silu(pre) * linear) @ self.W_out


class Block(nn.Module):
    """One layer: attention and MLP, each reading the normalised residual stream and adding to it."""

    hook_out_is_single_residual_stream = True
    """What TransformerLens' lenses ask of a block before they read its output."""

    def __init__(self, cfg: HookedConfig, window: int | None = None) -> None:
        super().__init__()
        self.cfg = cfg
        self.hook_resid_pre = HookPoint()
        self.ln1, self.attn, self.hook_attn_out = RMSNorm(cfg), Attention(cfg, window), HookPoint()
        self.hook_resid_mid, self.hook_mlp_in = HookPoint(), HookPoint()
        self.ln2, self.mlp, self.hook_mlp_out = RMSNorm(cfg), MLP(cfg), HookPoint()
        self.hook_resid_post = HookPoint()

    def forward(
        self,
        resid: Float[Tensor, "batch pos d_model"],
        cos: Float[Tensor, "pos 1 half"],
        sin: Float[Tensor, "pos 1 half"],
        past: LayerCache | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """Residual stream before the layer to after it."""
        resid = self.hook_resid_pre(resid)
        if self.cfg.use_split_qkv_input:
            attn = self.attn
            heads = (self.cfg.n_heads, self.cfg.n_kv, self.cfg.n_kv)
            hooks = (attn.hook_q_input, attn.hook_k_input, attn.hook_v_input)
            # Each head reads its own copy, so that one edge into one head can be patched.
            q, k, v = (
                self.ln1(hook(resid[:, :, None].repeat(1, 1, n, 1)))
                for hook, n in zip(hooks, heads, strict=True)
            )
        else:
            q = k = v = self.ln1(resid)
        resid = self.hook_resid_mid(resid + self.hook_attn_out(self.attn(q, k, v, cos, sin, past)))
        mlp_in = self.hook_mlp_in(resid.clone()) if self.cfg.use_hook_mlp_in else resid
        return self.hook_resid_post(resid + self.hook_mlp_out(self.mlp(self.ln2(mlp_in))))
