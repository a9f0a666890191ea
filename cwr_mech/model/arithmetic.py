"""Pieces of a Qwen2 layer that the model, the training step, decoding and patched passes have in common.

Programs that fold weights (gains of the norms, scale of attention) also reorder the rotary pairs of a head,
so that a pair's two numbers are neighbours and its rotation is one complex product, in place.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rms(x: Float[Tensor, "*batch d"], eps: float) -> Float[Tensor, "*batch 1"]:
    """Root mean square over the last axis, sqrt(mean(x^2) + eps): what RMSNorm divides by."""
    return (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def normalise(x: Float[Tensor, "N d"], eps: float) -> tuple[Float[Tensor, "N d"], Float[Tensor, "N 1"]]:
    """RMSNorm without its gain: (x / rms, 1 / rms), Zhang & Sennrich, arXiv 1910.07467."""
    # rstd = (|x|^2 / d + eps)^-1/2,  unit = x rstd.
    rstd = torch.linalg.vecdot(x, x)[:, None].div_(x.shape[1]).add_(eps).rsqrt_()
    return x * rstd, rstd


def spread(
    shared: Float[Tensor, "batch kv_head pos d_head"], group: int
) -> Float[Tensor, "batch head pos d_head"]:
    """Keys or values, repeated for the `group` query heads that share them."""
    return shared if group == 1 else shared.repeat_interleave(group, dim=1)


def neighbours(d_head: int) -> Int[Tensor, " d_head"]:
    """The order of a head's numbers in which the rotary pair (i, i + d_head/2) stands side by side."""
    return torch.arange(d_head).view(2, d_head // 2).T.flatten()


def turn(x: Tensor, by: Tensor) -> None:
    """Rotate neighbouring pairs of the last axis in place: as complex numbers, times exp(i angle).

    Su et al., arXiv 2104.09864. `by`: unit complex numbers that broadcast against the pairs.
    """
    torch.view_as_complex(x.unflatten(-1, (-1, 2))).mul_(by)
