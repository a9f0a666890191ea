"""Many models of one shape as one batched model: every parameter and activation has a leading axis of models.

One small model fills a few percent of a GPU, whose time then goes to starting kernels. Thirty of them cost
little more than one. The mathematics is that of `cwr_mech.training.autograd` and of
`cwr_mech.training.optimizer` for each model by itself; tests hold both to rounding.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from cwr_mech.config import ModelConfig, TrainConfig
from cwr_mech.model.arithmetic import spread
from cwr_mech.model.qwen2 import hooked_config
from cwr_mech.model.rotary import rotary_tables
from cwr_mech.training.optimizer import Muon, rate_at
from cwr_mech.training.parameters import FlatParameters

ALIKE = ("batch_size", "optimizer", "beta1", "beta2", "weight_decay", "clip")
"""Settings that models trained together have in common."""


def alike(train: TrainConfig) -> tuple[object, ...]:
    """The values of ALIKE."""
    return tuple(getattr(train, name) for name in ALIKE)


class StepInput(NamedTuple):
    """What one step of all models takes; each field has the models first.

    tokens, counts: a batch of rows, and which of its tokens are predicted (the first never is). rates:
    columns are the learning rate, and the two corrections of AdamW's moments, 1 - beta^t.
    """

    tokens: UInt8[Tensor, "model row pos"]
    counts: Bool[Tensor, "model row pos"]
    rates: Float[Tensor, "model 3"]


class BatchedModels:
    """Parameters of several models [model, parameter] in the order of FlatParameters, their moments, a step.

    first: momentum (of Muon's matrices Muon's, else AdamW's first moment). second: AdamW's second moment.
    """

    def __init__(
        self,
        cfg: ModelConfig,
        train: Sequence[TrainConfig],
        values: Float[Tensor, "model parameter"],
        first: Float[Tensor, "model parameter"],
        second: Float[Tensor, "model parameter"],
    ) -> None:
        """All on one device; `train` has the same ALIKE for every model."""
        self.cfg, self.train = cfg, train[0]
        self.values, self.first, self.second = values, first, second
        self.grads = torch.zeros_like(values)
        self.layout = FlatParameters(cfg)
        self.p, self.g = self.layout.views(self.values), self.layout.views(self.grads)
        self.leaves = {name: torch.nn.Parameter(view) for name, view in self.p.items()}
        self.trained = self._trained(train)
        cos, sin = rotary_tables(hooked_config(cfg))
        self.angles = torch.complex(cos, sin).to(values.device)
        self.vocabulary = torch.arange(cfg.d_vocab, dtype=torch.uint8, device=values.device)
        self.muon = self.train.optimizer == "muon"
        if self.muon:
            self.ahead, self.update = torch.zeros_like(values), torch.zeros_like(values)
            self.hidden = self._hidden()
            self.working = Muon.dtype(values.device)

    def _side_by_side(self, qkv: Float[Tensor, "model x qkv"]) -> Float[Tensor, "model x qkv"]:
        """Columns for queries and keys with the two of a rotary pair, (i, i + d_head/2), side by side."""
        half, shared = self.cfg.d_head // 2, self.cfg.n_kv * self.cfg.d_head
        qk, v = qkv.split([qkv.shape[2] - shared, shared], 2)
        return torch.cat([qk.unflatten(2, (-1, 2, half)).transpose(3, 4).flatten(2), v], 2)

    def _trained(self, train: Sequence[TrainConfig]) -> Float[Tensor, "model parameter"] | None:
        """1 where a model's parameter is trained, 0 where `train_only` leaves its module out."""
        if not any(one.train_only for one in train):
            return None
        whole = torch.ones(self.values.shape[1], dtype=torch.bool)
        rows = [self.layout.within(one.train_only) if one.train_only else whole for one in train]
        return torch.stack(rows).to(self.values)

    def _hidden(self) -> dict[tuple[int, int], list[tuple[Tensor, Tensor]]]:
        """Shape -> (what Muon orthogonalises, its update) [model a b] of the blocks' matrices, a <= b."""
        layout, found = self.layout, dict[tuple[int, int], list[tuple[Tensor, Tensor]]]()
        sides = (layout.hidden(layout.views(vector)) for vector in (self.ahead, self.update))
        for pair in zip(*sides, strict=True):
            if pair[0].shape[1] > pair[0].shape[2]:
                pair = (pair[0].mT, pair[1].mT)
            found.setdefault((pair[0].shape[1], pair[0].shape[2]), []).append(pair)
        return found

    def losses(
        self, tokens: UInt8[Tensor, "model row pos"], counts: Bool[Tensor, "model row pos"]
    ) -> Float[Tensor, "model row"]:
        """Each row's summed loss in nats over the tokens that count."""
        logits = self.logits(tokens[:, :, :-1])
        nats = F.cross_entropy(logits.flatten(0, 2), tokens[:, :, 1:].flatten().long(), reduction="none")
        return (nats.view_as(counts[:, :, 1:]) * counts[:, :, 1:]).sum(2)

    def logits(self, tokens: UInt8[Tensor, "model row pos"]) -> Float[Tensor, "model row pos d_vocab"]:
        """Next-token logits of every model for its own rows."""
        cfg, p = self.cfg, self.leaves
        models, rows, length = tokens.shape
        shared, heads = cfg.n_kv, cfg.n_heads
        by = self.angles[:length]

        def normed(x: Tensor) -> Tensor:
            return F.rms_norm(x, (cfg.d_model,), eps=cfg.rms_eps)

        def behind(gain: str, matrix: Tensor) -> Tensor:
            # (x g) W = x (g W): the gain is multiplied into the smaller of the two.
            return p[gain][:, :, None] * matrix

        # A one-hot product in place of a lookup: its gradient is a product too, the same in every run.
        hot = (tokens.flatten(1)[:, :, None] == self.vocabulary).to(self.values.dtype)
        x = torch.bmm(hot, p["embed"])
        for layer in range(cfg.n_layers):
            matrix = self._side_by_side(behind(f"{layer}.ln1", p[f"{layer}.qkv"]))
            bias = self._side_by_side(p[f"{layer}.qkv_bias"][:, None])
            qkv = torch.baddbmm(bias, normed(x), matrix).view(models * rows, length, -1, cfg.d_head)
            qk, v = qkv.split([heads + shared, shared], 2)
            pairs = torch.view_as_complex(qk.float().unflatten(3, (-1, 2)))
            turned = torch.view_as_real(pairs * by).flatten(3).to(qk.dtype)
            q, k = turned.split([heads, shared], 2)
            k, v = (spread(part.transpose(1, 2), heads // shared) for part in (k, v))
            z = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, is_causal=True)
            z = z.transpose(1, 2).reshape(models, rows * length, -1)
            x = torch.baddbmm(x, z, p[f"{layer}.o"])
            matrix = behind(f"{layer}.ln2", p[f"{layer}.gate_up"])
            gate, up = torch.bmm(normed(x), matrix).chunk(2, 2)
            x = torch.baddbmm(x, F.silu(gate) * up, p[f"{layer}.down"])
        out = p["embed"].transpose(1, 2) if cfg.tied else p["unembed"]
        return torch.bmm(normed(x), behind("ln_final", out)).unflatten(1, (rows, length))

    def step(
        self, given: StepInput, losses: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> tuple[Float[Tensor, "model row"], Float[Tensor, " model"]]:
        """One step of every model: (each row's loss, norm of the gradient before clipping).

        losses: what computes them, `self.losses` or a compiled one. Nothing here waits for the device.
        """
        rows = (losses or self.losses)(given.tokens, given.counts)
        total = given.counts.sum((1, 2))
        names = list(self.leaves)
        found = torch.autograd.grad((rows.sum(1) / total).sum(), [self.leaves[name] for name in names])
        with torch.no_grad():
            for name, grad in zip(names, found, strict=True):
                self.g[name].copy_(grad)
            if self.trained is not None:
                self.grads.mul_(self.trained)
            norms = self.grads.norm(dim=1)
            # As the clipping of one model: g <- g clip / (|g| + 1e-6) where |g| > clip.
            scale = torch.where(norms > self.train.clip, self.train.clip / (norms + 1e-6), 1.0)
            self.grads.mul_(scale[:, None])
            self._update(given.rates)
        return rows.detach(), norms

    def _update(self, rates: Float[Tensor, "model 3"]) -> None:
        train, (rate, one, two) = self.train, rates[:, :, None].unbind(1)
        before = self.values.clone() if self.trained is not None else None
        embed, decay = self.layout.n_embed, self.layout.n_decay
        beside = [slice(0, embed), slice(decay, None)] if self.muon else [slice(None)]
        self.values[:, :decay].mul_(1 - rate * train.weight_decay)  # gains and biases do not decay
        for part in beside:
            grad, m, v = (vector[:, part] for vector in (self.grads, self.first, self.second))
            # m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  p <- p - r (m/c1) / (sqrt(v/c2) + eps).
            m.lerp_(grad, 1 - train.beta1)
            v.mul_(train.beta2).addcmul_(grad, grad, value=1 - train.beta2)
            self.values[:, part].sub_(rate / one * m / ((v / two).sqrt_().add_(1e-8)))
        if self.muon:
            self._orthogonalise(slice(embed, decay))
            self.values[:, embed:decay].sub_(rate * self.update[:, embed:decay])
        if before is not None and self.trained is not None:
            self.values.copy_(torch.where(self.trained > 0, self.values, before))

    def _orthogonalise(self, part: slice) -> None:
        """Muon's direction for the blocks' matrices, all of one shape of all models at once (see `Muon`)."""
        grad, momentum = self.grads[:, part], self.first[:, part]
        momentum.lerp_(grad, 1 - Muon.MOMENTUM)
        torch.lerp(grad, momentum, Muon.MOMENTUM, out=self.ahead[:, part])
        for (_, longer), pairs in self.hidden.items():
            wide = torch.cat([ahead for ahead, _ in pairs]).to(self.working)
            found = Muon.orthogonal(wide).float().mul_(0.2 * longer**0.5)
            for (_, update), direction in zip(pairs, found.chunk(len(pairs)), strict=True):
                update.copy_(direction)

    def keep(self, models: Int[Tensor, " kept"], train: Sequence[TrainConfig]) -> "BatchedModels":
        """The same without the models that are not named; `train`: the settings of those that are."""
        kept = (vector[models].clone() for vector in (self.values, self.first, self.second))
        return BatchedModels(self.cfg, train, *kept)


def rates_of(train: TrainConfig, first: int, n: int) -> Float[np.ndarray, "step 3"]:
    """StepInput.rates of one model for the steps from `first` on."""
    steps = np.arange(first, first + n)
    rate = [rate_at(train, int(step)) for step in steps]
    return np.stack([rate, 1 - train.beta1 ** (steps + 1.0), 1 - train.beta2 ** (steps + 1.0)], axis=1)


class Stepper:
    """Steps of BatchedModels, compiled or not; on a GPU each shape's is recorded once as a CUDA graph."""

    def __init__(self, models: BatchedModels, *, bfloat16: bool = False, compiled: str = "off") -> None:
        self.models, self.device = models, models.values.device
        self.bfloat16 = bfloat16
        self.losses = models.losses if compiled == "off" else torch.compile(models.losses, dynamic=False)
        self.pool: Any = None
        self.recorded: dict[torch.Size, tuple[torch.cuda.CUDAGraph, StepInput, tuple[Tensor, Tensor]]] = {}

    def run(self, steps: StepInput) -> tuple[Float[Tensor, "step model row"], Float[Tensor, "step model"]]:
        """Steps whose inputs have the steps first, on the device; what they gave, on the device too."""
        given = [StepInput(*one) for one in zip(*steps, strict=True)]
        found = [self._one(one) for one in given]
        losses, norms = zip(*found, strict=True)
        return torch.stack(losses), torch.stack(norms)

    def _one(self, given: StepInput) -> tuple[Tensor, Tensor]:
        if self.device.type != "cuda":
            return self._step(given)
        if given.tokens.shape not in self.recorded:
            self.recorded[given.tokens.shape] = self._record(given)
        graph, into, out = self.recorded[given.tokens.shape]
        for place, value in zip(into, given, strict=True):
            place.copy_(value)
        graph.replay()
        return out[0].clone(), out[1].clone()

    def _step(self, given: StepInput) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            return self.models.step(given, self.losses)

    def _record(self, given: StepInput) -> tuple[torch.cuda.CUDAGraph, StepInput, tuple[Tensor, Tensor]]:
        """A graph of one step. Steps that warm up the allocator change the models, so these are put back."""
        models, into = self.models, StepInput(*(value.clone() for value in given))
        state = (models.values, models.first, models.second)
        before = [vector.clone() for vector in state]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._step(into)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        self.pool = self.pool or torch.cuda.graph_pool_handle()  # graphs replayed in turn share their memory
        with torch.cuda.graph(graph, pool=self.pool):
            out = self._step(into)
        for vector, old in zip(state, before, strict=True):
            vector.copy_(old)
        return graph, into, out
