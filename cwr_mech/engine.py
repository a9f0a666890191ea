"""The training step on the CPU: loss and gradient of a Qwen2 transformer without autograd.

Same mathematics as `HookedQwen2` (a test holds loss and every gradient to 1e-5), arranged for speed on one
core. Where the time is won:

- rows are sorted by length and cut into micro-batches of some hundred tokens, so that little is padding and
  every activation stays in the processor's cache;
- RMSNorm gains, the attention scale and the order of the rotary pairs are folded into the weights once a
  step, which leaves no element-wise work for them on activations (and rotary becomes one complex product);
- attention is two batched products around a softmax, which beats the fused kernel at these short lengths;
- after the last attention only positions whose prediction counts are computed;
- all parameters live in one flat vector, so that clipping and AdamW are a handful of calls.

Shapes below: n = batch x pos tokens of a micro-batch, b rows of t positions, h heads of width k, m = d_mlp.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int, Int32, UInt8
from torch import Tensor

from cwr_mech.parameters import FlatParameters

MICRO_TOKENS = 640
"""Tokens of a micro-batch: small enough for the cache, large enough for the matrix products."""

GradientHook = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, gradient [b t d], activation [b t d], rows [b]) -> gradient that flows on into that layer's input,
whose activation and (so far total) gradient are given; it may change the gradient in place."""


@dataclass(frozen=True)
class MicroBatch:
    """A few rows of almost equal length. `weights` are what each next-token prediction counts."""

    rows: Int[Tensor, " b"]
    tokens: Int[Tensor, "b t"]
    weights: Float[Tensor, "b t"]

    @classmethod
    def cut(
        cls, tokens: np.ndarray, lengths: np.ndarray, first: np.ndarray, budget: int = MICRO_TOKENS
    ) -> Iterator["MicroBatch"]:
        """Cut rows into micro-batches of at most `budget` tokens (one row may exceed it).

        tokens [row pos] right-padded, lengths [row], first [row]: the first position that is predicted
        (1 for the loss on every token, the answer's first position for the loss on answers).
        """
        order = np.argsort(lengths, kind="stable")
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and (stop - start + 1) * lengths[order[stop]] <= budget:
                stop += 1
            rows = order[start:stop]
            width = int(lengths[rows[-1]])
            predicted = np.arange(1, width)[None, :]
            counts = (predicted >= first[rows, None]) & (predicted < lengths[rows, None])
            weights = np.concatenate([counts, np.zeros((len(rows), 1), bool)], axis=1)
            yield cls(
                torch.from_numpy(rows.astype(np.int64)),
                torch.from_numpy(tokens[rows, :width].astype(np.int64)),
                torch.from_numpy(weights.astype(np.float32)),
            )
            start = stop


@lru_cache(maxsize=64)
def _rotary(t: int, k: int, theta: float) -> Tensor:
    """Unit complex numbers [t 1 k/2] whose angles are `pos * theta^(-2i/k)`."""
    angle = torch.outer(torch.arange(t).double(), theta ** (-torch.arange(0, k, 2).double() / k))
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)[:, None]


@lru_cache(maxsize=64)
def _causal(t: int) -> Tensor:
    """Added to attention scores: minus infinity where a position would look ahead."""
    return torch.full((t, t), float("-inf")).triu(1)


class Engine:
    """Loss and gradient of a batch, added up over micro-batches, for parameters in a flat vector."""

    def __init__(self, parameters: FlatParameters) -> None:
        self.flat = parameters
        self.cfg = cfg = parameters.cfg
        k, d = cfg.d_head, cfg.d_model
        half = torch.arange(k).view(2, k // 2).T.flatten()  # (i, i + k/2) become neighbours
        turned = cfg.n_heads + cfg.n_kv
        order = (torch.arange(turned)[:, None] * k + half).flatten()
        self.order = torch.cat([order, torch.arange(turned * k, (turned + cfg.n_kv) * k)])
        self.scale = torch.ones(len(self.order))
        self.scale[: cfg.n_heads * k] = k**-0.5
        self.qkv_grad = [torch.zeros(d, len(self.order)) for _ in range(cfg.n_layers)]
        self.bias_grad = [torch.zeros(len(self.order)) for _ in range(cfg.n_layers)]
        self.gate_up_grad = [torch.zeros(d, 2 * cfg.d_mlp) for _ in range(cfg.n_layers)]

    @torch.no_grad()
    def fold(self) -> None:
        """Prepare the weights of this step; call it after every change of the parameters."""
        p = self.flat.p
        layers = range(self.cfg.n_layers)
        self.qkv = [(p[f"{i}.qkv"] * p[f"{i}.ln1"][:, None])[:, self.order] * self.scale for i in layers]
        self.bias = [p[f"{i}.qkv_bias"][self.order] * self.scale for i in layers]
        self.gate_up = [p[f"{i}.gate_up"] * p[f"{i}.ln2"][:, None] for i in layers]
        self.unembed = (p["embed"].T if self.cfg.tied else p["unembed"]) * p["ln_final"][:, None]

    @torch.no_grad()
    def unfold(self) -> None:
        """Turn the gradients of the folded weights into those of the parameters, and clear the former."""
        p, g = self.flat.p, self.flat.g
        for i in range(self.cfg.n_layers):
            dw = torch.empty_like(self.qkv_grad[i])
            dw[:, self.order] = self.qkv_grad[i] * self.scale
            g[f"{i}.qkv"].addcmul_(dw, p[f"{i}.ln1"][:, None])
            g[f"{i}.ln1"] += (dw * p[f"{i}.qkv"]).sum(1)
            g[f"{i}.qkv_bias"].index_add_(0, self.order, self.bias_grad[i] * self.scale)
            dw = self.gate_up_grad[i]
            g[f"{i}.gate_up"].addcmul_(dw, p[f"{i}.ln2"][:, None])
            g[f"{i}.ln2"] += (dw * p[f"{i}.gate_up"]).sum(1)
            for grad in (self.qkv_grad[i], self.bias_grad[i], self.gate_up_grad[i]):
                grad.zero_()

    def batch(
        self,
        tokens: UInt8[np.ndarray, "row pos"],
        lengths: Int32[np.ndarray, " row"],
        first: Int32[np.ndarray, " row"],
        total_weight: float,
        hook: GradientHook | None = None,
    ) -> Float[Tensor, " row"]:
        """Add a whole batch's gradient to the flat vector; return each row's summed loss, in nats.

        `first` is the first predicted position of each row. The gradient is that of the sum divided by
        `total_weight`, which is the number of predictions for a mean.
        """
        losses = torch.zeros(len(lengths))
        self.fold()
        for micro in MicroBatch.cut(tokens, lengths, first):
            losses[micro.rows] = self.loss_and_grad(micro, total_weight, hook)
        self.unfold()
        return losses

    @torch.no_grad()
    def loss_and_grad(
        self, micro: MicroBatch, total_weight: float, hook: GradientHook | None = None
    ) -> Float[Tensor, " b"]:
        """Add the gradient of `sum(weights * cross-entropy) / total_weight`; return each row's sum, in nats.

        Call `fold` before the first micro-batch of a step and `unfold` after the last.
        """
        cfg, p, g = self.cfg, self.flat.p, self.flat.g
        b, t = micro.tokens.shape
        n, d, k = b * t, cfg.d_model, cfg.d_head
        h, kv = cfg.n_heads, cfg.n_kv
        group = h // kv
        turn, mask = _rotary(t, k, cfg.rope_theta), _causal(t).expand(b * h, t, t)
        tokens = micro.tokens.flatten()
        read = micro.weights.flatten().nonzero().flatten()
        x = p["embed"][tokens]
        saved = []
        for i in range(cfg.n_layers):
            last = i == cfg.n_layers - 1
            unit1, rstd1 = _normalise(x, cfg.rms_eps)
            qkv = torch.addmm(self.bias[i], unit1, self.qkv[i]).view(b, t, h + 2 * kv, k)
            turned = _turn(qkv[:, :, : h + kv], turn)
            q = turned[:, :, :h].transpose(1, 2).reshape(b * h, t, k)
            keys = _by_head(turned[:, :, h:], group)
            values = _by_head(qkv[:, :, h + kv :], group)
            pattern = torch.baddbmm(mask, q, keys.transpose(1, 2)).softmax(-1)
            z = torch.bmm(pattern, values).view(b, h, t, k).transpose(1, 2).reshape(n, h * k)
            kept = z[read] if last else z
            mid = torch.addmm(x[read] if last else x, kept, p[f"{i}.o"])
            unit2, rstd2 = _normalise(mid, cfg.rms_eps)
            gate, up = torch.mm(unit2, self.gate_up[i]).chunk(2, 1)
            silu = torch.nn.functional.silu(gate)
            act = silu * up
            x = torch.addmm(mid, act, p[f"{i}.down"])
            saved.append((unit1, rstd1, q, keys, values, pattern, kept, unit2, rstd2, gate, up, silu, act))
        unit, rstd = _normalise(x, cfg.rms_eps)
        targets = tokens[1:][read][:, None]
        weights = micro.weights.flatten()[read]
        logp = torch.mm(unit, self.unembed).log_softmax(1)
        losses = -logp.gather(1, targets)[:, 0] * weights
        by_row = torch.zeros(b).index_add_(0, read // t, losses)

        dlogits = logp.exp_()
        dlogits.scatter_add_(1, targets, torch.full_like(dlogits[:, :1], -1.0))
        dlogits *= (weights / total_weight)[:, None]
        dw = torch.mm(unit.T, dlogits)
        unembed = p["embed"].T if cfg.tied else p["unembed"]
        target = g["embed"].T if cfg.tied else g["unembed"]
        target.addcmul_(dw, p["ln_final"][:, None])
        g["ln_final"] += (dw * unembed).sum(1)
        dx = _normalise_backward(torch.mm(dlogits, self.unembed.T), unit, rstd)
        for i in reversed(range(cfg.n_layers)):
            unit1, rstd1, q, keys, values, pattern, kept, unit2, rstd2, gate, up, silu, act = saved.pop()
            g[f"{i}.down"].addmm_(act.T, dx)
            dact = torch.mm(dx, p[f"{i}.down"].T)
            dgate_up = torch.cat([torch.ops.aten.silu_backward(dact * up, gate), dact * silu], 1)
            self.gate_up_grad[i].addmm_(unit2.T, dgate_up)
            dx += _normalise_backward(torch.mm(dgate_up, self.gate_up[i].T), unit2, rstd2)
            g[f"{i}.o"].addmm_(kept.T, dx)
            dz = torch.mm(dx, p[f"{i}.o"].T)
            if i == cfg.n_layers - 1:  # back from the positions that are read to all of them
                dz = torch.zeros(n, h * k).index_copy_(0, read, dz)
                dx = torch.zeros(n, d).index_copy_(0, read, dx)
            dz = dz.view(b, t, h, k).transpose(1, 2).reshape(b * h, t, k)
            dvalues = torch.bmm(pattern.transpose(1, 2), dz)
            dpattern = torch.bmm(dz, values.transpose(1, 2))
            dscores = torch.ops.aten._softmax_backward_data(dpattern, pattern, -1, torch.float32)
            dqkv = torch.empty(b, t, h + 2 * kv, k)
            dqkv[:, :, :h] = torch.bmm(dscores, keys).view(b, h, t, k).transpose(1, 2)
            dqkv[:, :, h : h + kv] = _from_heads(torch.bmm(dscores.transpose(1, 2), q), b, group)
            dqkv[:, :, h + kv :] = _from_heads(dvalues, b, group)
            dqkv[:, :, : h + kv] = _turn(dqkv[:, :, : h + kv], turn.conj())
            dqkv = dqkv.view(n, -1)
            self.qkv_grad[i].addmm_(unit1.T, dqkv)
            self.bias_grad[i] += dqkv.sum(0)
            dx += _normalise_backward(torch.mm(dqkv, self.qkv[i].T), unit1, rstd1)
            if hook is not None:
                x = (unit1 / rstd1).view(b, t, d)
                dx = hook(i, dx.view(b, t, d), x, micro.rows).reshape(n, d)
        g["embed"].index_add_(0, tokens, dx)
        return by_row


def _normalise(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """RMSNorm without its gain: (x / rms, 1 / rms), Zhang & Sennrich, arXiv 1910.07467."""
    rstd = torch.linalg.vecdot(x, x)[:, None].div_(x.shape[1]).add_(eps).rsqrt_()
    return x * rstd, rstd


def _normalise_backward(dunit: Tensor, unit: Tensor, rstd: Tensor) -> Tensor:
    """Gradient of `_normalise`'s input; `dunit` is used up."""
    along = torch.linalg.vecdot(dunit, unit)[:, None].div_(-unit.shape[1])
    return dunit.addcmul_(unit, along).mul_(rstd)


def _turn(x: Tensor, turn: Tensor) -> Tensor:
    """Rotate neighbouring pairs of the last axis."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2)


def _by_head(x: Tensor, group: int) -> Tensor:
    """[b t kv k] to [b*h t k], each key/value head repeated for its `group` of query heads."""
    x = x.transpose(1, 2)
    if group > 1:
        x = x.repeat_interleave(group, dim=1)
    return x.reshape(-1, x.shape[2], x.shape[3])


def _from_heads(x: Tensor, b: int, group: int) -> Tensor:
    """Gradient of `_by_head`: [b*h t k] to [b t kv k]."""
    x = x.view(b, -1, group, x.shape[1], x.shape[2])
    return (x.sum(2) if group > 1 else x[:, :, 0]).transpose(1, 2)
