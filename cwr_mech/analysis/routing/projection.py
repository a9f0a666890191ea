"""Interventions on a fine-tuning: keep the gradient that flows back into cities' activations to a subspace.

A step's gradient reaches everything below an activation (its layers and the embedding) through that
activation. `project` replaces the part that flows through mentions of chosen cities by its projection, with
or without the norm it had; `penalise` adds the gradient of a penalty on where those activations stand. Both
make the hook that `training.train` takes. What a later token reads from lower layers of the city bypasses the
intervention; projecting at several layers leaves less of that.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cwr_mech.data.mentions import mentions_of
from cwr_mech.data.rows import Rows
from cwr_mech.errors import AnalysisError
from cwr_mech.tasks.registry import TASKS
from cwr_mech.training.engine import GradientHook
from cwr_mech.training.loop import RowsHook

Keep = Literal["inside", "outside", "all"]
MOST_SCALED = 10.0
"""Largest factor by which a projected gradient is scaled up to the norm it had. A random subspace of 4 of 64
directions asks for about 4, so this holds back only what has next to nothing left."""


@dataclass(frozen=True)
class Frame:
    """The subspace for one kind of mention: orthonormal `columns`, the activations' `centre`, and `unit`, the
    root mean square distance of training cities from the affine space through the centre.
    """

    columns: Float[np.ndarray, "d_model rank"]
    centre: Float[np.ndarray, "d_model"]
    unit: float


Kind = tuple[str, str, int]
"""(site, task, slot of the city in the question)."""


@dataclass(frozen=True)
class Place:
    """A kind of mention: after block `layer` (-1: embedding), at a site, in a task, as its slot-th city."""

    layer: int
    site: str
    task: str
    slot: int

    @property
    def kind(self) -> Kind:
        """All but the layer."""
        return self.site, self.task, self.slot


Frames = Mapping[Place, Frame]
Change = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int], Tensor]
"""(gradient [m d], activation [m d], columns [m d k], centre [m d], unit [m], mentions in the whole batch)
-> new gradient [m d], for the m mentions of a micro-batch at one layer."""


def project(
    frames: Frames,
    keep: Keep,
    ids: Int[np.ndarray, " city"] | None,
    *,
    rescale: bool = True,
    cut: bool = False,
    id_digits: int = 4,
) -> RowsHook:
    """Project the gradient at mentions of the cities `ids` (None: all) onto the frames' subspaces, or onto
    their complements, or keep all of it. `rescale` gives it the norm it had before (over the mentions of a
    micro-batch): then its steps are as long as unprojected ones, and longer than those in the same directions
    would have been. `cut`: rows with one of these mentions have no other gradient, from the first city's id
    on, at the frames' layers. (Before it no token knows which city is asked for.)

    Mentions without a frame are left alone, or cut. Raises AnalysisError when the frames of a layer differ in
    shape.
    """

    def change(gradient: Tensor, _h: Tensor, columns: Tensor, *_: object) -> Tensor:
        return keep_part(gradient, columns, keep, rescale=rescale)

    return _hook(frames, ids, id_digits, change, cut=cut)


def keep_part(
    gradient: Float[Tensor, "mention d"],
    columns: Float[Tensor, "mention d rank"],
    keep: Keep,
    *,
    rescale: bool = True,
) -> Float[Tensor, "mention d"]:
    """The part of each gradient inside or outside its subspace, or all of it; `rescale`: scaled to the norm
    that all had together, but never up by more than MOST_SCALED: a gradient with hardly any such part has
    lost it.
    """
    if keep == "all":
        return gradient
    inside = _project(gradient, columns)
    kept = inside if keep == "inside" else gradient - inside
    if not rescale:
        return kept
    return kept * (gradient.norm() / kept.norm().clamp_min(1e-30)).clamp_max(MOST_SCALED)


def penalise(
    frames: Frames,
    weight: float,
    ids: Int[np.ndarray, " city"] | None,
    *,
    cut: bool = False,
    id_digits: int = 4,
) -> RowsHook:
    """Add to the loss `weight / 2` times the mean over mentions of (distance from the frame's affine space,
    in the frame's units) squared: nats that draw the cities `ids` to where training cities stand. `cut`:
    as in `project`.
    """

    def change(gradient: Tensor, h: Tensor, columns: Tensor, centre: Tensor, unit: Tensor, n: int) -> Tensor:
        moved = h - centre
        off = moved - _project(moved, columns)
        return gradient + off * (weight / n / unit**2)[:, None]

    return _hook(frames, ids, id_digits, change, cut=cut)


def _project(vectors: Tensor, columns: Tensor) -> Tensor:
    return torch.einsum("mdk,mk->md", columns, torch.einsum("mdk,md->mk", columns, vectors))


class _Layer:
    """The frames of one layer, stacked over the kinds of mention it has one for."""

    def __init__(self, frames: Mapping[Kind, Frame]) -> None:
        self.kinds = sorted(frames)
        mine = [frames[kind] for kind in self.kinds]
        if len(shapes := {frame.columns.shape for frame in mine}) != 1:
            told = f"frames of one layer differ in shape: {sorted(shapes)}"
            raise AnalysisError(told, "fit them at one rank")
        self.columns = torch.from_numpy(np.stack([frame.columns for frame in mine])).float()
        self.centre = torch.from_numpy(np.stack([frame.centre for frame in mine])).float()
        self.unit = torch.tensor([frame.unit for frame in mine], dtype=torch.float32)


def _hook(
    frames: Frames,
    ids: Int[np.ndarray, " city"] | None,
    id_digits: int,
    change: Change,
    *,
    cut: bool = False,
) -> RowsHook:
    layers = {}
    for layer in sorted({place.layer for place in frames}):
        here = {place.kind: frame for place, frame in frames.items() if place.layer == layer}
        layers[layer + 1] = _Layer(here)

    def of_rows(rows: Rows) -> GradientHook:
        spots = {layer: _Spots(rows, stacked.kinds, ids, id_digits) for layer, stacked in layers.items()}

        def at(layer: int, gradient: Tensor, activation: Tensor, which: Tensor) -> Tensor:
            if layer not in layers:
                return gradient
            frame, mine = layers[layer], spots[layer]
            place, position, kind, total = mine.within(which)
            spot = place, position
            new = gradient[spot]
            if len(place):
                stacked = frame.columns[kind], frame.centre[kind], frame.unit[kind]
                new = change(new, activation[spot], *stacked, total)
            if cut:
                gradient[torch.arange(gradient.shape[1]) >= mine.first_id[which, None]] = 0
            gradient[spot] = new
            return gradient

        return at

    return of_rows


class _Spots:
    """The mentions of some cities in a batch that have a frame: their rows, positions and kinds. `first_id`:
    where the id of a row's first city begins; behind the row's end where none of the cities is mentioned.
    """

    def __init__(
        self, rows: Rows, kinds: list[Kind], ids: Int[np.ndarray, " city"] | None, id_digits: int
    ) -> None:
        numbers = {kind: number for number, kind in enumerate(kinds)}
        every = mentions_of(rows, "digit1", None, id_digits)
        asked = np.isin(every.row, mentions_of(rows, "digit1", ids, id_digits).row) & (every.slot == 0)
        self.first_id = torch.full((len(rows),), rows.tokens.shape[1])
        self.first_id[every.row[asked]] = torch.from_numpy(every.position[asked])
        parts = []
        for site in sorted({site for site, _, _ in kinds}):
            found = mentions_of(rows, site, ids, id_digits)
            tasks = [TASKS.at(task).name for task in rows.task[found.row].tolist()]
            number = [numbers.get((site, *key), -1) for key in zip(tasks, found.slot.tolist(), strict=True)]
            parts.append(np.stack([found.row, found.position, np.array(number, dtype=np.int64)]))
        table = np.concatenate(parts, axis=1)
        table = table[:, table[2] >= 0]
        row, self.position, self.kind = table[:, np.argsort(table[0], kind="stable")]
        self.by_row = np.split(np.arange(len(row)), np.searchsorted(row, np.arange(1, len(rows))))

    def within(self, which: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
        """For the rows of a micro-batch: index into them, position and kind of each mention, and the number
        of mentions in the whole batch.
        """
        mine = [self.by_row[row] for row in which.tolist()]
        chosen = np.concatenate(mine)
        place = np.repeat(np.arange(len(mine)), [len(one) for one in mine])
        arrays = (place, self.position[chosen], self.kind[chosen])
        at, position, kind = (torch.from_numpy(array) for array in arrays)
        return at, position, kind, len(self.kind)
