"""All layers' weights side by side, and the circuits they make, with TransformerLens' names and shapes.

Queries have a head axis, keys and values a kv_head axis (fewer where heads are grouped); in `QK` and `OV`
each query head stands beside the keys and values it reads.
"""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.FactoredMatrix import FactoredMatrix


def _stacked(part: str, name: str, about: str) -> property:
    """A parameter of all blocks as one tensor, [layer ...]."""

    def read(self: "StackedWeights") -> Tensor:
        return torch.stack([getattr(getattr(block, part), name) for block in self.blocks])

    return property(read, doc=about)


def _absent(size: str, about: str) -> property:
    """Zeros [layer size] for a bias that Qwen2 does not have."""

    def read(self: "StackedWeights") -> Tensor:
        return self.W_E.new_zeros(self.cfg.n_layers, getattr(self.cfg, size))

    return property(read, doc=about)


class StackedWeights:
    """What HookedQwen2 shows of its blocks' weights; each access makes a new tensor, which gradients pass."""

    cfg: Any
    blocks: Any
    if TYPE_CHECKING:

        @property
        def W_E(self) -> Tensor: ...

    W_Q = _stacked("attn", "W_Q", "Queries, [layer head d_model d_head].")
    W_K = _stacked("attn", "W_K", "Keys, [layer kv_head d_model d_head].")
    W_V = _stacked("attn", "W_V", "Values, [layer kv_head d_model d_head].")
    W_O = _stacked("attn", "W_O", "Outputs of attention, [layer head d_head d_model].")
    W_in = _stacked("mlp", "W_in", "Into the MLP's neurons, linear side of the gate, [layer d_model d_mlp].")
    W_gate = _stacked("mlp", "W_gate", "Into the MLP's neurons, the side under SiLU, [layer d_model d_mlp].")
    W_out = _stacked("mlp", "W_out", "From the MLP's neurons, [layer d_mlp d_model].")
    b_Q = _stacked("attn", "b_Q", "Biases of queries, [layer head d_head].")
    b_K = _stacked("attn", "b_K", "Biases of keys, [layer kv_head d_head].")
    b_V = _stacked("attn", "b_V", "Biases of values, [layer kv_head d_head].")
    b_O = _absent("d_model", "Zeros [layer d_model]: Qwen2's attention output has no bias.")
    b_in = _absent("d_mlp", "Zeros [layer d_mlp]: Qwen2's MLP has no biases.")
    b_out = _absent("d_model", "Zeros [layer d_model]: Qwen2's MLP has no biases.")

    def _for_heads(self, weights: Float[Tensor, "layer kv_head *rest"]) -> Float[Tensor, "layer head *rest"]:
        return weights.repeat_interleave(self.cfg.n_heads // self.cfg.n_kv, dim=1)

    @property
    def QK(self) -> FactoredMatrix:
        """W_Q W_K^T [layer head d_model d_model], without rotary positions and the norm's gains."""
        return FactoredMatrix(self.W_Q, self._for_heads(self.W_K).transpose(-2, -1))

    @property
    def OV(self) -> FactoredMatrix:
        """W_V W_O [layer head d_model d_model]."""
        return FactoredMatrix(self._for_heads(self.W_V), self.W_O)

    def all_head_labels(self) -> list[str]:
        """L0H0, L0H1, ..."""
        return [f"L{layer}H{head}" for layer in range(self.cfg.n_layers) for head in range(self.cfg.n_heads)]
