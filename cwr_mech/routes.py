"""Interventions on a fine-tuning: keep the gradient that flows back into cities' activations to a subspace.

A step's gradient reaches everything below an activation (its layers and the embedding) through that
activation. `route` replaces the part that flows through mentions of chosen cities by its projection, with the
norm it had; `pull` adds the gradient of a penalty on where those activations stand. Both make the hook that
`training.train` takes. What a later token reads from lower layers of the city goes round the intervention;
routing at several layers leaves less of that.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cwr_mech.config import TASK_NAMES
from cwr_mech.dataset import Rows
from cwr_mech.engine import GradientHook
from cwr_mech.errors import AnalysisError
from cwr_mech.mentions import mentions_of

RowsHook = Callable[[Rows], GradientHook]
Keep = Literal["inside", "outside"]


@dataclass(frozen=True)
class Frame:
    """The subspace for one kind of mention: orthonormal `columns`, the activations' `centre`, and `unit`, the
    root mean square distance of ordinary cities from the affine space through the centre.
    """

    columns: Float[np.ndarray, "d_model rank"]
    centre: Float[np.ndarray, "d_model"]
    unit: float


@dataclass(frozen=True)
class Place:
    """A kind of mention: after block `layer` (-1: embedding), at a site, in a task, as its slot-th city."""

    layer: int
    site: str
    task: str
    slot: int


Frames = Mapping[Place, Frame]
Change = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int], Tensor]
"""(gradient [m d], activation [m d], columns [m d k], centre [m d], unit [m], mentions in the whole batch)
-> new gradient [m d], for the m mentions of a micro-batch at one layer."""


def route(
    frames: Frames, keep: Keep, ids: Int[np.ndarray, " city"] | None, *, id_digits: int = 4
) -> RowsHook:
    """Project the gradient at mentions of the cities `ids` (None: all) onto the frames' subspaces, or onto
    their complements, and give it the norm it had before (over the mentions of a micro-batch).

    Raises AnalysisError when the frames of a layer differ in shape, or a layer lacks a kind of mention.
    """

    def change(gradient: Tensor, _h: Tensor, columns: Tensor, *_: object) -> Tensor:
        inside = _project(gradient, columns)
        kept = inside if keep == "inside" else gradient - inside
        return kept * (gradient.norm() / kept.norm().clamp_min(1e-30))

    return _hook(frames, ids, id_digits, change)


def pull(
    frames: Frames, weight: float, ids: Int[np.ndarray, " city"] | None, *, id_digits: int = 4
) -> RowsHook:
    """Add to the loss `weight / 2` times the mean over mentions of (distance from the frame's affine space,
    in the frame's units) squared: nats that pull the cities `ids` to where ordinary cities stand.
    """

    def change(gradient: Tensor, h: Tensor, columns: Tensor, centre: Tensor, unit: Tensor, n: int) -> Tensor:
        moved = h - centre
        off = moved - _project(moved, columns)
        return gradient + off * (weight / n / unit**2)[:, None]

    return _hook(frames, ids, id_digits, change)


def _project(vectors: Tensor, columns: Tensor) -> Tensor:
    return torch.einsum("mdk,mk->md", columns, torch.einsum("mdk,md->mk", columns, vectors))


class _Layer:
    """The frames of one layer, stacked over the kinds of mention."""

    def __init__(self, frames: Iterable[Frame]) -> None:
        frames = list(frames)
        shapes = {frame.columns.shape for frame in frames}
        if len(shapes) != 1:
            raise AnalysisError(
                f"frames of one layer differ in shape: {sorted(shapes)}", "fit them at one rank"
            )
        self.columns = torch.from_numpy(np.stack([frame.columns for frame in frames])).float()
        self.centre = torch.from_numpy(np.stack([frame.centre for frame in frames])).float()
        self.unit = torch.tensor([frame.unit for frame in frames], dtype=torch.float32)


def _hook(frames: Frames, ids: Int[np.ndarray, " city"] | None, id_digits: int, change: Change) -> RowsHook:
    kinds = sorted({(place.site, place.task, place.slot) for place in frames})
    numbers = {kind: number for number, kind in enumerate(kinds)}
    layers: dict[int, _Layer] = {}
    for layer in sorted({place.layer for place in frames}):
        missing = next((kind for kind in kinds if Place(layer, *kind) not in frames), None)
        if missing is not None:
            raise AnalysisError(f"layer {layer} has no frame for {missing}")
        layers[layer + 1] = _Layer(frames[Place(layer, *kind)] for kind in kinds)
    sites = sorted({site for site, _, _ in kinds})

    def of_rows(rows: Rows) -> GradientHook:
        number, row, position = _mentions(rows, sites, numbers, ids, id_digits)
        by_row = np.split(np.arange(len(row)), np.searchsorted(row, np.arange(1, len(rows))))

        def at(layer: int, gradient: Tensor, activation: Tensor, which: Tensor) -> Tensor:
            if layer not in layers:
                return gradient
            mine = [by_row[one] for one in which.tolist()]
            chosen = np.concatenate(mine)
            if len(chosen):
                place = torch.from_numpy(np.repeat(np.arange(len(mine)), [len(one) for one in mine]))
                spot = place, torch.from_numpy(position[chosen])
                frame, kind = layers[layer], torch.from_numpy(number[chosen])
                stacked = frame.columns[kind], frame.centre[kind], frame.unit[kind]
                gradient[spot] = change(gradient[spot], activation[spot], *stacked, len(row))
            return gradient

        return at

    return of_rows


def _mentions(
    rows: Rows,
    sites: Iterable[str],
    numbers: Mapping[tuple[str, str, int], int],
    ids: Int[np.ndarray, " city"] | None,
    id_digits: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number of the kind, row and position of each mention that has a frame, ordered by row."""
    parts = []
    for site in sites:
        found = mentions_of(rows, site, ids, id_digits)
        tasks = [TASK_NAMES[task] for task in rows.task[found.row].tolist()]
        number = [numbers.get((site, *key), -1) for key in zip(tasks, found.slot.tolist(), strict=True)]
        parts.append(np.stack([np.array(number, dtype=np.int64), found.row, found.position]))
    joined = np.concatenate(parts, axis=1)
    joined = joined[:, joined[0] >= 0]
    number, row, position = joined[:, np.argsort(joined[1], kind="stable")]
    return number, row, position
