"""The training step on any device: loss and gradient by autograd over HookedQwen2.

Same interface and, in float32, same numbers as `cwr_mech.training.engine.Engine` (a test holds both to
1e-5). The model's parameters are views of the flat vector, so nothing is copied between them. Batches are
padded to few shapes, so that a compiled step is compiled few times.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from cwr_mech.data.rows import Places, Tokens
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.training.engine import GradientHook
from cwr_mech.training.parameters import FlatParameters

WIDTH, ROWS = 16, 8
"""Batches are padded to multiples of these: questions of one mixture need two or three shapes."""


class AutogradEngine:
    """Loss and gradient of a batch, for parameters in a flat vector on any device."""

    def __init__(self, flat: FlatParameters, *, bfloat16: bool = False, compiled: str = "off") -> None:
        """compiled: a mode of torch.compile, or "off"."""
        self.flat, self.bfloat16 = flat, bfloat16
        self.device = flat.values.device
        self.model = HookedQwen2(flat.cfg, seed=None).to(self.device)
        self.parameters, self.gradients = zip(*flat.attach(self.model), strict=True)
        self.losses: Callable[[Tensor, Tensor, Tensor], Tensor] = self._losses
        if compiled != "off":
            self.losses = torch.compile(self._losses, mode=compiled, dynamic=False)

    def batch(
        self, tokens: Tokens, lengths: Places, first: Places, total: float, hook: GradientHook | None = None
    ) -> Float[Tensor, " row"]:
        """Add a whole batch's gradient to the flat vector; return each row's summed loss, in nats.

        As `Engine.batch`, but a hook is shown all rows at once, and each row's own beginning. With a hook the
        step is not compiled.
        """
        inputs, targets, counts = (
            torch.from_numpy(array).to(self.device, non_blocking=True)
            for array in padded(tokens, lengths, first, self.flat.cfg.n_ctx)
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            if hook is None:
                losses = self.losses(inputs, targets, counts)
            else:
                with self.model.hooks(self._watched(hook, lengths)):
                    losses = self._losses(inputs, targets, counts)
        torch._foreach_add_(self.gradients, torch.autograd.grad(losses.sum() / total, self.parameters))
        return losses.detach()[: len(lengths)]

    def _losses(
        self,
        inputs: UInt8[Tensor, "row pos"],
        targets: UInt8[Tensor, "row pos"],
        counts: Bool[Tensor, "row pos"],
    ) -> Float[Tensor, " row"]:
        """Each row's loss, over the predictions that count."""
        logits = self.model(inputs.long()).float()
        nats = F.cross_entropy(logits.flatten(0, 1), targets.long().flatten(), reduction="none")
        return (nats.view(targets.shape) * counts).sum(1)

    def _watched(self, hook: GradientHook, lengths: Places) -> list[tuple[str, Callable[..., Tensor]]]:
        """Hooks of the model that show `hook` the gradient at each layer's input, on the CPU."""
        n = len(lengths)
        rows: Int64[Tensor, " row"] = torch.arange(n)
        held = torch.from_numpy(lengths)[:, None] - 1

        def at(layer: int) -> Callable[..., Tensor]:
            def watch(resid: Tensor, **_: object) -> Tensor:
                real = torch.arange(resid.shape[1]) < held

                def change(gradient: Tensor) -> Tensor:
                    x = resid.detach()[:n].float().cpu().masked_fill(~real[:, :, None], 0.0)
                    changed = torch.zeros_like(gradient)
                    changed[:n] = hook(layer, gradient[:n].float().cpu().clone(), x, rows).to(gradient)
                    return changed

                resid.register_hook(change)
                return resid

            return watch

        return [(f"blocks.{layer}.hook_resid_pre", at(layer)) for layer in range(self.flat.cfg.n_layers)]


def padded(
    tokens: Tokens, lengths: Places, first: Places, n_ctx: int
) -> tuple[UInt8[np.ndarray, "wide long"], UInt8[np.ndarray, "wide long"], Bool[np.ndarray, "wide long"]]:
    """Inputs, the tokens that follow them, and which of these count, in one of few shapes."""
    longest = int(lengths.max()) - 1
    long = min(-(-longest // WIDTH) * WIDTH, n_ctx)
    whole = np.zeros((-(-len(tokens) // ROWS) * ROWS, long + 1), dtype=np.uint8)
    whole[: len(tokens), : longest + 1] = tokens[:, : longest + 1]
    counts = np.zeros((len(whole), long), dtype=bool)
    place = np.arange(1, long + 1)
    counts[: len(tokens)] = (place >= first[:, None]) & (place < lengths[:, None])
    return np.ascontiguousarray(whole[:, :-1]), np.ascontiguousarray(whole[:, 1:]), counts
