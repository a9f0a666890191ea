"""AdamW or Muon on the flat parameter vector, the learning-rate schedule, and clipping."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cwr_mech.config import TrainConfig
from cwr_mech.errors import SchemaMismatch
from cwr_mech.training.compute import quick_bfloat16
from cwr_mech.training.parameters import FlatParameters


def rate_at(train: TrainConfig, step: int) -> float:
    """Learning rate of `step` (counted from 0): linear warm-up, then the schedule named in the settings."""
    if step < train.warmup:
        return train.lr * (step + 1) / train.warmup
    left = (train.steps - step) / max(1, train.steps - train.warmup)
    if train.schedule == "linear":
        return train.lr * left
    if train.schedule == "cosine":
        return train.lr * 0.5 * (1 - math.cos(math.pi * left))
    if train.schedule == "hold":
        return train.lr * min(1.0, (train.steps - step) / max(1.0, train.decay * train.steps))
    return train.lr


class Optimizer:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101), or Muon (Jordan, kellerjordan.github.io/posts/muon) on
    the matrices inside the blocks and AdamW on all else; weight decay on matrices, not on gains and biases.

    Muon orthogonalises the momentum of each matrix; its update is scaled to the size of AdamW's (Liu et al.,
    arXiv 2502.16982), so that one rate serves both.

    Modules that `train_only` leaves out keep, bit for bit, the values that they have when this is made; the
    norm is that of the other modules' gradient.
    """

    def __init__(self, flat: FlatParameters, train: TrainConfig) -> None:
        self.flat, self.train = flat, train
        self.frozen = ~flat.within(train.train_only) if train.train_only else None
        self.kept = flat.values[self.frozen] if self.frozen is not None else None
        decay, plain = [], [_part(flat.values[flat.n_decay :], flat.grads[flat.n_decay :])]
        self.by_name: dict[str, torch.optim.Optimizer] = {}
        if train.optimizer == "muon":
            decay.append(_part(flat.values[: flat.n_embed], flat.grads[: flat.n_embed]))
            hidden = zip(flat.hidden(flat.p), flat.hidden(flat.g), strict=True)
            self.by_name["muon"] = Muon([_part(value, grad) for value, grad in hidden], train)
        else:
            decay.append(_part(flat.values[: flat.n_decay], flat.grads[: flat.n_decay]))
        groups = [{"params": decay, "weight_decay": train.weight_decay}, {"params": plain, "weight_decay": 0}]
        betas = (train.beta1, train.beta2)
        self.by_name["adamw"] = torch.optim.AdamW(groups, lr=train.lr, betas=betas, eps=1e-8, fused=True)

    def norm(self) -> float:
        """Euclidean norm of the gradient; that of frozen parameters is cleared."""
        if self.frozen is not None:
            self.flat.grads.masked_fill_(self.frozen, 0.0)
        return float(self.flat.grads.norm())

    def step(self, step: int, norm: float) -> None:
        """Clip the gradient, whose norm is given, update the parameters and clear the gradient."""
        if norm > self.train.clip:
            self.flat.grads.mul_(self.train.clip / (norm + 1e-6))
        for optimizer in self.by_name.values():
            for group in optimizer.param_groups:
                group["lr"] = rate_at(self.train, step)
            optimizer.step()
        self.restore()
        self.flat.grads.zero_()

    def restore(self) -> None:
        """Put frozen parameters back: weight decay moves them although they have no gradient."""
        if self.frozen is not None and self.kept is not None:
            self.flat.values[self.frozen] = self.kept

    def state(self) -> dict[str, Tensor]:
        """All tensors a resume needs, the parameters included."""
        tensors = {"values": self.flat.values}
        for prefix, optimizer, part in self.parts():
            for name, value in optimizer.state[part].items():
                tensors[prefix + name] = value
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`. Every tensor gets the layout it had: bits may hang on it.

        Raises SchemaMismatch for the state of another optimiser or version.
        """
        known = ("values", *(prefix for prefix, _, _ in self.parts()))
        if foreign := [name for name in tensors if not name.startswith(known)]:
            raise SchemaMismatch(
                f"the saved state holds '{foreign[0]}', which {self.train.optimizer} here does not have",
                "it was written by another version; train anew",
            )
        self.flat.values.copy_(tensors["values"])
        for prefix, optimizer, part in self.parts():
            mine = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            for name, value in mine.items():
                like = torch.empty_like(part if value.shape == part.shape else value, device=part.device)
                optimizer.state[part][name] = like.copy_(value)

    def parts(self) -> list[tuple[str, torch.optim.Optimizer, Tensor]]:
        """(beginning of its names in the state, optimizer, parameter) for every parameter."""
        return [
            (f"{name}.{i}.", optimizer, part)
            for name, optimizer in self.by_name.items()
            for i, part in enumerate(p for group in optimizer.param_groups for p in group["params"])
        ]


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon with `adjust_lr_fn="match_rms_adamw"`, for all matrices of one shape at once.

    Thirty small matrices one by one cost more than a quarter of a step: torch's takes them so. It
    orthogonalises in bfloat16 everywhere; here a processor without instructions for it does so in float32.
    """

    MOMENTUM = 0.95
    STEPS = 5
    A, B, C = 3.4445, -4.7750, 2.0315

    def __init__(self, parts: Sequence[torch.nn.Parameter], train: TrainConfig) -> None:
        super().__init__(parts, {"lr": train.lr, "weight_decay": train.weight_decay})
        self.alike: dict[tuple[int, int], list[Tensor]] = {}
        self.working = self.dtype(parts[0].device)
        for part in parts:
            self.state[part]["momentum_buffer"] = torch.zeros_like(part)
            self.alike.setdefault((min(part.shape), max(part.shape)), []).append(part)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix from its gradient."""
        group = self.param_groups[0]
        for (_, longer), parts in self.alike.items():
            grads = [part.grad for part in parts if part.grad is not None]
            momenta = [self.state[part]["momentum_buffer"] for part in parts]
            # m = 0.95 m + 0.05 g;  Nesterov's direction is 0.95 m + 0.05 g again.
            torch._foreach_lerp_(momenta, grads, 1 - self.MOMENTUM)
            ahead = torch._foreach_lerp(grads, momenta, self.MOMENTUM)
            wide = [x if x.shape[0] <= x.shape[1] else x.T for x in ahead]
            update = self.orthogonal(torch.stack(wide).to(self.working)).to(parts[0].dtype)
            torch._foreach_mul_(parts, 1 - group["lr"] * group["weight_decay"])
            turned = [u if p.shape[0] <= p.shape[1] else u.T for u, p in zip(update, parts, strict=True)]
            torch._foreach_add_(parts, turned, alpha=-0.2 * math.sqrt(longer) * group["lr"])

    @staticmethod
    def dtype(device: torch.device) -> torch.dtype:
        """In which numbers the iteration is quickest on a device; it needs no more than bfloat16."""
        return torch.bfloat16 if quick_bfloat16(device.type) else torch.float32

    @classmethod
    def orthogonal(cls, x: Float[Tensor, "n a b"]) -> Float[Tensor, "n a b"]:
        """Singular values near one in place of those of `x` (a <= b), by the Newton-Schulz iteration
        X <- A X + (B G + C G^2) X with G = X X^T."""
        x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
        for _ in range(cls.STEPS):
            gram = torch.bmm(x, x.mT)
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=cls.B, alpha=cls.C), x, beta=cls.A)
        return x


def _part(value: Tensor, grad: Tensor) -> torch.nn.Parameter:
    """A view of the flat vector as torch's optimizers take it."""
    part = torch.nn.Parameter(value)
    part.grad = grad
    return part
