"""Gradients of a task at one model state: with respect to the activations of cities, and to the weights.

Three kinds of update are never mixed up:
1. `city_gradients`: with respect to the activation of a mentioned city: what the loss asks of it;
2. `batch_gradient`: with respect to the weights, by weight matrix, for a small batch of questions;
3. `updates.py`: the change of a city's activation that an optimiser step on the task makes, which is what
   the weights, shared by all cities, do about it.
Functions here return gradients; the update is their negative.

A `GradientSet` holds inner products of small-batch parameter gradients, for models of any size.
Lengths, cosines, subspaces and shares of a set of vectors follow from their inner products alone. So
gradients are held a few at a time and computed anew where that does not suffice: a model of 400 million
weights needs no more memory than HELD_BYTES beside itself.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int64
from torch import Tensor

from cwr_mech.data.mentions import means_by_city, mentions_of
from cwr_mech.data.rows import Rows
from cwr_mech.errors import AnalysisError
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.training.engine import Engine
from cwr_mech.training.parameters import FlatParameters


def engine_of(model: HookedQwen2) -> Engine:
    """An engine that computes gradients at the model's weights (copies of them, in `engine.flat`)."""
    flat = FlatParameters(model.config)
    flat.load(model)
    return Engine(flat)


def check_reached(layers: Iterable[int], n_layers: int) -> None:
    """Raises AnalysisError for a layer at which no gradient reaches a city: what the last block writes there
    is read by no answer.
    """
    for layer in layers:
        if not -1 <= layer < n_layers - 1:
            raise AnalysisError(
                f"no gradient reaches a city after block {layer}", f"choose layers from -1 to {n_layers - 2}"
            )


def city_gradients(
    model: HookedQwen2,
    rows: Rows,
    site: str,
    ids: Int[np.ndarray, " city"],
    *,
    id_digits: int = 4,
    layer: int | None = None,
) -> tuple[Int64[np.ndarray, " named"], Float64[np.ndarray, "layer named d_model"]]:
    """Those of the cities `ids` that a question names first, ascending, and for each the mean over these
    questions of the gradient of the answer's mean loss at `site`, in nats a predicted token.

    Index L + 1 is the residual stream after block L (index 0 the embedding), up to the input of the last
    block. `site` names a token position, or several joined by "+", which are put side by side (d_model of
    each). `layer`: the one block after which gradients are wanted, all by default; those of others are NaN,
    which saves their backward pass. Raises AnalysisError when no question names one of the cities first, and
    for a layer that no gradient reaches.
    """
    check_reached(() if layer is None else (layer,), model.cfg.n_layers)
    every = [mentions_of(rows, position, ids, id_digits) for position in site.split("+")]
    every = [one.take(one.slot == 0) for one in every]
    found, positions = every[0], np.stack([one.position for one in every], axis=1)
    if not len(found):
        raise AnalysisError("no question names the cities asked for first")
    engine = engine_of(model)
    width = model.cfg.d_model * len(every)
    gradients = np.full((model.cfg.n_layers, len(found), width), np.nan, dtype=np.float32)

    def keep(block: int, gradient: Tensor, _activation: Tensor, which: Tensor) -> Tensor:
        place = np.full(len(rows), -1)
        place[which.numpy()] = np.arange(len(which))
        mine = np.flatnonzero(place[found.row] >= 0)
        at = place[found.row[mine], None], positions[mine]
        gradients[block, mine] = gradient.numpy()[at].reshape(-1, width)
        return gradient

    only = None if layer is None else layer + 1
    engine.batch(rows.tokens, rows.lengths, rows.answer_start, 1.0, keep, weights=False, only=only)
    gradients /= (rows.lengths - rows.answer_start)[found.row][:, None]
    means = [means_by_city(found.city, gradient)[1] for gradient in gradients]
    return np.unique(found.city), np.stack(means)


def batch_gradient(
    engine: Engine, rows: Rows, index: int, batch: int
) -> dict[str, Float32[np.ndarray, "..."]]:
    """Gradient of the mean loss of the `index`-th `batch` questions, on every token, by the engine's names:
    views, good until the engine's next gradient.
    """
    part = rows.take(slice(index * batch, (index + 1) * batch))
    first = np.ones_like(part.answer_start)
    engine.flat.grads.zero_()
    engine.batch(part.tokens, part.lengths, first, float((part.lengths - first).sum()))
    return {name: gradient.numpy() for name, gradient in engine.flat.g.items()}


HELD_BYTES = 8e9
"""Gradients that are held at once."""

Gradient = Mapping[str, Float[np.ndarray, "..."]]


@dataclass(frozen=True)
class GradientSet:
    """What is kept of the gradients of several tasks' batches, which come task by task.

    grams: by weight matrix, and of "all" of them together; gains and biases are left out. sizes: numbers of
    weights. moments: task -> matrix that writes into the residual stream -> sum over batches and rows of the
    outer product of what it writes.
    """

    grams: Mapping[str, Float[np.ndarray, "gradient gradient"]]
    sizes: Mapping[str, int]
    moments: Mapping[str, Mapping[str, Float[np.ndarray, "d_model d_model"]]]

    def vectors(self, matrix: str) -> Float[np.ndarray, "gradient dimension"]:
        """Vectors with the gradients' inner products, in as many dimensions as there are gradients."""
        values, columns = np.linalg.eigh(self.grams[matrix])
        return columns * np.sqrt(np.maximum(values, 0))


def gradient_set(
    model: HookedQwen2,
    rows: Mapping[str, Rows],
    batch: int,
    *,
    held_bytes: float = HELD_BYTES,
    advance: Callable[[int], object] = lambda n: None,
) -> GradientSet:
    """Gradients of the mean loss of each `batch` questions of every task in turn.

    `advance(1)` is called when each task's gradients have been seen for the first time.
    """
    engine = engine_of(model)
    shapes = engine.flat.shapes
    sizes = {name: math.prod(shape) for name, shape in shapes.items() if len(shape) == 2}
    places = [(task, index) for task, mine in rows.items() for index in range(len(mine) // batch)]
    n, total = len(places), sum(sizes.values())
    # Products are summed in float64 either way; held as float32, gradients are converted each time.
    kind = np.float64 if 8 * n * total <= held_bytes else np.float32
    held = min(n, max(1, int(held_bytes // (np.dtype(kind).itemsize * total))))
    grams = {name: np.zeros((n, n)) for name in sizes}
    moments: dict[str, dict[str, np.ndarray]] = {task: {} for task in rows}
    block = {name: np.empty((held, size), dtype=kind) for name, size in sizes.items()}
    for start in range(0, n, held):
        for at in range(start, n):
            task, index = places[at]
            gradient = batch_gradient(engine, rows[task], index, batch)
            if start == 0:
                _add(moments[task], gradient, model.cfg.n_layers)
                if at + 1 == n or places[at + 1][0] != task:
                    advance(1)
            kept = min(at - start + 1, held)
            for name in sizes:
                mine = gradient[name].reshape(-1).astype(np.float64)
                if at - start < held:
                    block[name][at - start] = mine
                products = block[name][:kept].astype(np.float64, copy=False) @ mine
                grams[name][at, start : start + kept] = products
                grams[name][start : start + kept, at] = products
    grams["all"] = np.sum(list(grams.values()), axis=0)
    return GradientSet(grams, sizes | {"all": total}, moments)


def _add(moments: dict[str, np.ndarray], gradient: Gradient, n_layers: int) -> None:
    """Add a gradient's outer products to those of its task."""
    for name in writing(n_layers):
        outputs = gradient[name].astype(np.float64)
        moments[name] = moments.get(name, 0.0) + outputs.T @ outputs


def writing(n_layers: int) -> Iterator[str]:
    """Matrices that write into the residual stream: attention's and the MLP's last of each layer."""
    return (f"{layer}.{part}" for layer in range(n_layers) for part in ("o", "down"))


def parts(vectors: Float[np.ndarray, "gradient dimension"], tasks: Sequence[str]) -> dict[str, np.ndarray]:
    """Each task's vectors, of tasks with as many gradients each."""
    return dict(zip(tasks, np.split(vectors, len(tasks)), strict=True))
