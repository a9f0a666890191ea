"""AdamW on the flat parameter vector, the learning-rate schedule, and clipping."""

import math

import torch
from torch import Tensor

from cwr_mech.config import TrainConfig
from cwr_mech.parameters import FlatParameters


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
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101); weight decay on matrices, not on gains and biases."""

    def __init__(self, flat: FlatParameters, train: TrainConfig) -> None:
        self.flat, self.train = flat, train
        cut = flat.n_decay
        self.parts = [torch.nn.Parameter(flat.values[:cut]), torch.nn.Parameter(flat.values[cut:])]
        for part, grad in zip(self.parts, (flat.grads[:cut], flat.grads[cut:]), strict=True):
            part.grad = grad
        groups = [
            {"params": [self.parts[0]], "weight_decay": train.weight_decay},
            {"params": [self.parts[1]], "weight_decay": 0.0},
        ]
        betas = (train.beta1, train.beta2)
        self.adam = torch.optim.AdamW(groups, lr=train.lr, betas=betas, eps=1e-8, fused=True)

    def norm(self) -> float:
        """Euclidean norm of the gradient."""
        return float(self.flat.grads.norm())

    def step(self, step: int, norm: float) -> None:
        """Clip the gradient, whose norm is given, update the parameters and clear the gradient."""
        if norm > self.train.clip:
            self.flat.grads.mul_(self.train.clip / (norm + 1e-6))
        for group in self.adam.param_groups:
            group["lr"] = rate_at(self.train, step)
        self.adam.step()
        self.flat.grads.zero_()

    def state(self) -> dict[str, Tensor]:
        """All tensors a resume needs, the parameters included."""
        tensors = {"values": self.flat.values}
        for i, part in enumerate(self.parts):
            for name, value in self.adam.state[part].items():
                tensors[f"{i}.{name}"] = value
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.flat.values.copy_(tensors["values"])
        for i, part in enumerate(self.parts):
            mine = {name.split(".", 1)[1]: t for name, t in tensors.items() if name.startswith(f"{i}.")}
            self.adam.state[part] = {name: value.to(part.device, copy=True) for name, value in mine.items()}
