"""The two ends of HookedQwen2: token embedding and unembedding, with weights of their own or tied."""

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from cwr_mech.errors import ConfigError
from cwr_mech.model.layers import HookedConfig, redraw, zeros


class Embed(nn.Module):
    """Token embedding `W_E [d_vocab d_model]`."""

    def __init__(self, cfg: HookedConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.W_E = zeros(cfg.d_vocab, cfg.d_model)

    def reset_parameters(self, generator: np.random.Generator | None = None) -> None:
        """Draw the weights anew; without a generator, seeded by torch's global one."""
        redraw([self.W_E], self.cfg.init_std, generator)

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Tokens to vectors. Raises ConfigError for a token that is not in the vocabulary (on the CPU)."""
        try:
            return F.embedding(tokens, self.W_E)
        except IndexError as error:
            strange = tokens[(tokens < 0) | (tokens >= self.cfg.d_vocab)]
            raise ConfigError(
                f"token {int(strange[0])} is not one of this model's 0 to {self.cfg.d_vocab - 1}"
            ) from error


class Unembed(nn.Module):
    """Map to logits, `W_U [d_model d_vocab]`."""

    def __init__(self, cfg: HookedConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.W_U = zeros(cfg.d_model, cfg.d_vocab)
        self.hook_in, self.hook_out = HookPoint(), HookPoint()

    def reset_parameters(self, generator: np.random.Generator | None = None) -> None:
        """Draw the weights anew; without a generator, seeded by torch's global one."""
        redraw([self.W_U], self.cfg.init_std, generator)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Normalised residual stream to logits."""
        return self.hook_out(self.hook_in(x) @ self.W_U)


class TiedUnembed(nn.Module):
    """Map to logits with the embedding's transpose; has no parameter of its own."""

    def __init__(self, embed: Embed) -> None:
        super().__init__()
        self._embed = (embed,)  # in a tuple, so that torch does not count the embedding twice
        self.hook_in, self.hook_out = HookPoint(), HookPoint()

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """The embedding, transposed."""
        return self._embed[0].W_E.T

    forward = Unembed.forward
