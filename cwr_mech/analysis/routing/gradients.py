"""Gradients of a task at one model state: with respect to the activations of cities, and to the weights.

Three kinds of update are never mixed up:
1. `at_mentions`: with respect to the activation of a mentioned city: what the loss asks of it;
2. `batch_gradient`: with respect to the weights, by weight matrix, for a small batch of questions;
3. `analysis/steps.py`: the change of a city's activation that an optimiser step on the task makes, which is
   what the weights, shared by all cities, do about it.
Functions here return gradients; the update is their negative.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int32, Int64
from torch import Tensor

from cwr_mech.data.mentions import Mentions, means_by_city, mentions_of
from cwr_mech.data.rows import Rows
from cwr_mech.errors import AnalysisError
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.training.engine import Engine
from cwr_mech.training.parameters import FlatParameters

Loss = Literal["full", "answer"]


def engine_of(model: HookedQwen2) -> Engine:
    """An engine that computes gradients at the model's weights (copies of them, in `engine.flat`)."""
    flat = FlatParameters(model.config)
    flat.load(model)
    return Engine(flat)


def first_predicted(rows: Rows, loss: Loss) -> Int32[np.ndarray, " row"]:
    """First position that counts: the answer's, or 1 for the loss on every token."""
    return rows.answer_start if loss == "answer" else np.ones_like(rows.answer_start)


@dataclass(frozen=True)
class AtMentions:
    """Gradients and activations at mentions of cities, float32 [layer mention d_model].

    Index L + 1 is the residual stream after block L (index 0 the embedding), up to the input of the last
    block: what the last block writes at a city is read by no answer. Gradients in nats a predicted token.
    """

    mentions: Mentions
    gradients: Float32[np.ndarray, "layer mention d_model"]
    activations: Float32[np.ndarray, "layer mention d_model"]

    def take(self, which: Bool[np.ndarray, " mention"]) -> "AtMentions":
        """Those that a mask keeps."""
        return AtMentions(self.mentions.take(which), self.gradients[:, which], self.activations[:, which])

    def city_means(
        self, layer: int
    ) -> tuple[Int64[np.ndarray, " city"], Float64[np.ndarray, "city d_model"]]:
        """The cities mentioned, ascending, and each one's mean gradient over its mentions, after block
        `layer`.

        Layer -1 is the embedding. Raises AnalysisError for a layer that is not kept.
        """
        _reached(layer, len(self.gradients))
        return means_by_city(self.mentions.city, self.gradients[layer + 1])


def _reached(layer: int, n_layers: int) -> None:
    if not -1 <= layer < n_layers - 1:
        raise AnalysisError(
            f"no gradient reaches a city after block {layer}", f"choose layers from -1 to {n_layers - 2}"
        )


def at_mentions(
    model: HookedQwen2,
    rows: Rows,
    site: str,
    ids: Int[np.ndarray, " city"] | None = None,
    *,
    slots: Sequence[int] | None = None,
    loss: Loss = "answer",
    id_digits: int = 4,
    layer: int | None = None,
) -> AtMentions:
    """Gradient of each question's mean loss, and activation, at `site` of mentions of the cities `ids`.

    `site` names a token position, or several joined by "+", which are put side by side (d_model of each).
    `ids` None takes all cities. `slots` keeps mentions in these places of the question only, 0 being its
    first city. `layer`: the one block after which gradients are wanted, all by default; those of others, and
    their activations, are NaN, which saves their backward pass. Raises AnalysisError when no question
    mentions one of the cities, and for a layer that no gradient reaches.
    """
    if layer is not None:
        _reached(layer, model.cfg.n_layers)
    every = [mentions_of(rows, position, ids, id_digits) for position in site.split("+")]
    if slots is not None:
        every = [one.take(np.isin(one.slot, slots)) for one in every]
    found, positions = every[-1], np.stack([one.position for one in every], axis=1)
    if not len(found):
        raise AnalysisError("no question mentions the cities asked for")
    engine = engine_of(model)
    width = model.cfg.d_model * len(every)
    gradients, activations = np.full((2, model.cfg.n_layers, len(found), width), np.nan, dtype=np.float32)

    def keep(block: int, gradient: Tensor, activation: Tensor, which: Tensor) -> Tensor:
        place = np.full(len(rows), -1)
        place[which.numpy()] = np.arange(len(which))
        mine = np.flatnonzero(place[found.row] >= 0)
        at = place[found.row[mine], None], positions[mine]
        gradients[block, mine] = gradient.numpy()[at].reshape(-1, width)
        activations[block, mine] = activation.numpy()[at].reshape(-1, width)
        return gradient

    first, only = first_predicted(rows, loss), None if layer is None else layer + 1
    engine.batch(rows.tokens, rows.lengths, first, 1.0, keep, weights=False, only=only)
    gradients /= (rows.lengths - first)[found.row][:, None]
    return AtMentions(found, gradients, activations)


def batch_gradient(
    engine: Engine, rows: Rows, index: int, batch: int, *, loss: Loss = "full"
) -> dict[str, Float32[np.ndarray, "..."]]:
    """Gradient of the mean loss of the `index`-th `batch` questions, by the engine's names: views, good until
    the engine's next gradient.
    """
    part = rows.take(slice(index * batch, (index + 1) * batch))
    first = first_predicted(part, loss)
    engine.flat.grads.zero_()
    engine.batch(part.tokens, part.lengths, first, float((part.lengths - first).sum()))
    return {name: gradient.numpy() for name, gradient in engine.flat.g.items()}
