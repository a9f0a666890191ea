"""The change of cities' activations that an optimiser step on a task makes, and reading cities off a model.

The third kind of update (see `gradients.py`). Along a fine-tuning the changes of its steps add up to
the difference between two checkpoints, `Reader.read` of one minus that of the other.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.func import functional_call

from cwr_mech.activations.cities import city_prompts, city_states, residual_stream
from cwr_mech.analysis.routing.gradients import batch_gradient, engine_of
from cwr_mech.data.rows import Rows
from cwr_mech.errors import AnalysisError
from cwr_mech.model.qwen2 import HookedQwen2

Step = Literal["plain", "adam"]
EPS = 1e-8
"""Adam's."""
STEPS: tuple[Step, ...] = ("plain", "adam")


@dataclass(frozen=True)
class Reader:
    """Reads cities off a model: the beginning of a question about each, run up to the last layer.

    `task` names the prompt, `site` a token position, or several joined by "+", whose states are put side by
    side. Activations come back as float64 [layer city d_model] (d_model times the number of positions); index
    L + 1 is after block L, index 0 the embedding.
    """

    task: str
    ids: Int[np.ndarray, " city"]
    site: str = "last_digit"
    id_digits: int = 4

    def read(self, model: HookedQwen2) -> Float64[np.ndarray, "layer city d_model"]:
        """Activations of all cities in `model`."""
        return city_states(model, self.task, self.ids, self.site, self.id_digits)

    def _stack(self, model: HookedQwen2) -> Float[Tensor, "layer city d_model"]:
        parts = self.site.split("+")
        found = [city_prompts(self.task, self.ids, part, self.id_digits) for part in parts]
        read, tokens = [position for _, position in found], torch.from_numpy(found[0][0])
        return torch.stack([resid[:, read].flatten(1) for _, resid in residual_stream(model, tokens)])

    def change(
        self, model: HookedQwen2, direction: dict[str, Tensor], size: float
    ) -> Float64[np.ndarray, "layer city d_model"]:
        """What moving the parameters by `size * direction` does to the activations."""
        before = {name: value.detach() for name, value in model.named_parameters()}
        after = {name: value + size * direction[name] for name, value in before.items()}
        moved = _Stacked(self, model)
        with torch.no_grad():
            inside = [{f"model.{k}": v for k, v in weights.items()} for weights in (before, after)]
            here, there = (functional_call(moved, weights, ()) for weights in inside)
        return there.double().numpy() - here.double().numpy()


class _Stacked(torch.nn.Module):
    """A reader as a module, so that its model's parameters can be replaced for one call."""

    def __init__(self, reader: Reader, model: HookedQwen2) -> None:
        super().__init__()
        self.model, self.reader = model, reader

    def forward(self) -> Tensor:
        return self.reader._stack(self.model)


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
