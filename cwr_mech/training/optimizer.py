"""AdamW or Muon on the flat parameter vector, the learning-rate schedule, and clipping."""

import math

import torch
from torch import Tensor

from cwr_mech.config import TrainConfig
from cwr_mech.errors import SchemaMismatch
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
            self.by_name["muon"] = torch.optim.Muon(
                [_part(value, grad) for value, grad in flat.hidden()],
                lr=train.lr,
                weight_decay=train.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        else:
            decay.append(_part(flat.values[: flat.n_decay], flat.grads[: flat.n_decay]))
        groups = [
            {"params": decay, "weight_decay": train.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
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
        for prefix, optimizer, part in self._parts():
            for name, value in optimizer.state[part].items():
                tensors[prefix + name] = value
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`. Every tensor gets the layout it had: bits may hang on it.

        Raises SchemaMismatch for the state of another optimiser or version.
        """
        known = ("values", *(prefix for prefix, _, _ in self._parts()))
        if foreign := [name for name in tensors if not name.startswith(known)]:
            raise SchemaMismatch(
                f"the saved state holds '{foreign[0]}', which {self.train.optimizer} here does not have",
                "it was written by another version; train anew",
            )
        self.flat.values.copy_(tensors["values"])
        for prefix, optimizer, part in self._parts():
            mine = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            for name, value in mine.items():
                like = torch.empty_like(part if value.shape == part.shape else value, device=part.device)
                optimizer.state[part][name] = like.copy_(value)

    def _parts(self) -> list[tuple[str, torch.optim.Optimizer, Tensor]]:
        """(beginning of its names in the state, optimizer, parameter) for every parameter."""
        return [
            (f"{name}.{i}.", optimizer, part)
            for name, optimizer in self.by_name.items()
            for i, part in enumerate(p for group in optimizer.param_groups for p in group["params"])
        ]


def _part(value: Tensor, grad: Tensor) -> torch.nn.Parameter:
    """A view of the flat vector as torch's optimizers take it."""
    part = torch.nn.Parameter(value)
    part.grad = grad
    return part
