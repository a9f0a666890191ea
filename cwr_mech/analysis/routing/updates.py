"""The optimiser step on a task: what a stepped model holds of a city minus what the model holds is the third
kind of update (see `gradients.py`). Along a fine-tuning these add up to the difference of two checkpoints.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor

from cwr_mech.analysis.routing.gradients import batch_gradient, engine_of
from cwr_mech.data.rows import Rows
from cwr_mech.errors import AnalysisError
from cwr_mech.model.qwen2 import HookedQwen2

Step = Literal["plain", "adam"]
EPS = 1e-8
"""Adam's."""
STEPS: tuple[Step, ...] = ("plain", "adam")


def stepped(model: HookedQwen2, direction: Mapping[str, Tensor], size: float) -> HookedQwen2:
    """A copy of the model whose parameters have moved by `size * direction`."""
    moved = deepcopy(model)
    with torch.no_grad():
        for name, value in moved.named_parameters():
            value += size * direction[name]
    return moved


def step_direction(model: HookedQwen2, rows: Rows, batch: int, kind: Step) -> dict[str, Tensor]:
    """Where one optimiser step takes the parameters, for learning rate 1, by TransformerLens name.

    The rows are cut into batches of `batch`. "plain" is minus the mean gradient, scaled to the length of the
    Adam step, so that the two may be compared. "adam" is minus the mean gradient divided by the root of the
    batches' mean squared gradient: the step of Adam (Kingma and Ba, arXiv 1412.6980) whose averages have
    settled at these weights; a first step from empty averages would follow one batch's signs instead.
    Raises AnalysisError for fewer than 2 batches.
    """
    n = len(rows) // batch
    if n < 2:
        raise AnalysisError(f"{len(rows)} questions make {n} batches of {batch}, at least 2 are needed")
    engine = engine_of(model)
    flat = engine.flat
    mean, square = torch.zeros_like(flat.grads), torch.zeros_like(flat.grads)
    for index in range(n):
        batch_gradient(engine, rows, index, batch)
        mean += flat.grads / n
        square += flat.grads**2 / n
    adam = -mean / (square.sqrt() + EPS)
    flat.grads.copy_(adam if kind == "adam" else -mean * adam.norm() / mean.norm())
    flat.store_grads(model)
    direction = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad(set_to_none=True)
    return direction
