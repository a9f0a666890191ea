"""Inner products of small-batch parameter gradients, for models of any size.

Lengths, cosines, subspaces and shares of a set of vectors follow from their inner products alone. So
gradients are held a few at a time and computed anew where that does not suffice: a model of 400 million
weights needs no more memory than HELD_BYTES beside itself.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from cwr_mech.analysis.routing.gradients import batch_gradient, engine_of
from cwr_mech.data.rows import Rows
from cwr_mech.model.qwen2 import HookedQwen2

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
