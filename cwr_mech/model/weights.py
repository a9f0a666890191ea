"""All layers' weights side by side, and the circuits they make, with TransformerLens' names and shapes.

Queries have a head axis, keys and values a kv_head axis (fewer where heads are grouped); in `QK` and `OV`
each query head stands beside the keys and values it reads.
"""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.FactoredMatrix import FactoredMatrix


class StackedWeights:
    """What HookedQwen2 shows of its blocks' weights; each access makes a new tensor, which gradients pass."""

    cfg: Any
    blocks: Any
    if TYPE_CHECKING:

        @property
        def W_E(self) -> Tensor: ...

    def _stack(self, part: str, name: str) -> Tensor:
        return torch.stack([getattr(getattr(block, part), name) for block in self.blocks])

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(self.cfg.n_layers, *shape, device=self.W_E.device, dtype=self.W_E.dtype)

    @property
    def W_Q(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Queries."""
        return self._stack("attn", "W_Q")

    @property
    def W_K(self) -> Float[Tensor, "layer kv_head d_model d_head"]:
        """Keys."""
        return self._stack("attn", "W_K")

    @property
    def W_V(self) -> Float[Tensor, "layer kv_head d_model d_head"]:
        """Values."""
        return self._stack("attn", "W_V")

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:
        """Outputs of attention."""
        return self._stack("attn", "W_O")

    @property
    def W_in(self) -> Float[Tensor, "layer d_model d_mlp"]:
        """Into the MLP's neurons, the linear side of the gate."""
        return self._stack("mlp", "W_in")

    @property
    def W_gate(self) -> Float[Tensor, "layer d_model d_mlp"]:
        """Into the MLP's neurons, the side under SiLU."""
        return self._stack("mlp", "W_gate")

    @property
    def W_out(self) -> Float[Tensor, "layer d_mlp d_model"]:
        """From the MLP's neurons."""
        return self._stack("mlp", "W_out")

    @property
    def b_Q(self) -> Float[Tensor, "layer head d_head"]:
        """Biases of queries."""
        return self._stack("attn", "b_Q")

    @property
    def b_K(self) -> Float[Tensor, "layer kv_head d_head"]:
        """Biases of keys."""
        return self._stack("attn", "b_K")

    @property
    def b_V(self) -> Float[Tensor, "layer kv_head d_head"]:
        """Biases of values."""
        return self._stack("attn", "b_V")

    @property
    def b_O(self) -> Float[Tensor, "layer d_model"]:
        """Zeros: Qwen2's attention output has no bias."""
        return self._zeros(self.cfg.d_model)

    @property
    def b_in(self) -> Float[Tensor, "layer d_mlp"]:
        """Zeros: Qwen2's MLP has no biases."""
        return self._zeros(self.cfg.d_mlp)

    @property
    def b_out(self) -> Float[Tensor, "layer d_model"]:
        """Zeros: Qwen2's MLP has no biases."""
        return self._zeros(self.cfg.d_model)

    def _for_heads(self, weights: Float[Tensor, "layer kv_head *rest"]) -> Float[Tensor, "layer head *rest"]:
        return weights.repeat_interleave(self.cfg.n_heads // self.cfg.n_kv, dim=1)

    @property
    def QK(self) -> FactoredMatrix:
        """W_Q W_K^T of each layer and head, [layer head d_model d_model]; rotary positions and the norm's
        gains are left out.
        """
        return FactoredMatrix(self.W_Q, self._for_heads(self.W_K).transpose(-2, -1))

    @property
    def OV(self) -> FactoredMatrix:
        """W_V W_O of each layer and head, [layer head d_model d_model]."""
        return FactoredMatrix(self._for_heads(self.W_V), self.W_O)

    def all_head_labels(self) -> list[str]:
        """L0H0, L0H1, ..."""
        return [f"L{layer}H{head}" for layer in range(self.cfg.n_layers) for head in range(self.cfg.n_heads)]
