"""Which part of a city's representation does the answer follow? Interchange inside and outside of a subspace.

For questions whose first city is swapped, the residual stream at that city's last digit (and at the
delimiter after it) equals what a bare city prompt gives there, because nothing before it differs. Subspaces
are fitted on such states of old cities: see `bases` for manifold, probe and pca, and their random controls.
"not-KIND" is the orthogonal complement. If answers follow the donor inside the manifold and not in its
complement, they run through the manifold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

from cwr_mech.activations.cities import city_prompts, residual_at
from cwr_mech.analysis.manifold.bases import (
    KINDS,
    fit_basis,
    random_basis,
    random_basis_like,
)
from cwr_mech.analysis.patching.cells import BasisName, Cell, Edit
from cwr_mech.analysis.patching.forward import Forward
from cwr_mech.analysis.patching.interchange import decode
from cwr_mech.analysis.patching.layout import layouts
from cwr_mech.analysis.patching.pairs import Pairs
from cwr_mech.analysis.patching.sweep import prepare
from cwr_mech.analysis.stats.ridge import fit_linear
from cwr_mech.errors import AnalysisError, UnknownName
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.registry import get_task
from cwr_mech.world.cities import World

SITES = {"swapped_last": "last_digit", "swapped_delimiter": "delimiter"}
"""Span of a pair whose first city is swapped -> the same place in a bare city prompt."""

RANDOM = ("random", "random-like")


@dataclass(frozen=True)
class Fitted:
    """Subspaces by (name, layer, span), their ranks, and the share of the cities' variance inside."""

    bases: Mapping[BasisName, Float[Tensor, "d_model rank"]]
    variance: Mapping[BasisName, float]
    cells: tuple[Cell, ...]


def city_states(
    model: HookedQwen2, world: World, task: str, ids: Int64[np.ndarray, " city"], span: str
) -> Float64[np.ndarray, "layer city d_model"]:
    """Residual stream after every layer at a place of SITES in bare prompts about these cities."""
    if span not in SITES:
        raise UnknownName("place of a single city", span, SITES)
    tokens, position = city_prompts(task, ids, SITES[span], world.config.id_digits)
    row = np.arange(len(ids))
    layers = range(model.cfg.n_layers)
    values = residual_at(model, tokens, row, np.full_like(row, position), layers)
    return np.stack([values[layer] for layer in layers]).astype(np.float64)


def fit_subspaces(
    model: HookedQwen2,
    world: World,
    task: str,
    kinds: Sequence[str],
    *,
    spans: Sequence[str] = ("swapped_last",),
    rank: int | None = None,
    seed: int = 0,
    most: int = 2000,
) -> Fitted:
    """Fit subspaces on (at most `most`) old cities, for every layer and span, each with its complement.

    The random controls have the rank of the first kind fitted there. Raises UnknownName for a kind.
    """
    for kind in kinds:
        if kind not in (*KINDS, *RANDOM):
            raise UnknownName("subspace", kind, (*KINDS, *RANDOM))
    rng = np.random.default_rng(np.random.SeedSequence((seed, 7)))
    rows = rng.permutation(world.old())[:most]
    bases: dict[BasisName, Tensor] = {}
    variance: dict[BasisName, float] = {}
    cells: list[Cell] = []
    for span in spans:
        states = city_states(model, world, task, world.ids[rows], span)
        for layer, x in enumerate(states):
            cells.append(Cell("resid_post", layer, None, span))
            ranks: list[int] = []
            for kind in sorted(kinds, key=RANDOM.__contains__):
                if kind == "random":
                    basis = random_basis(x.shape[1], ranks[0] if ranks else rank or 2, rng)
                elif kind == "random-like":
                    basis = random_basis_like(x, ranks[0] if ranks else rank or 2, rng)
                else:
                    wanted = None if kind == "probe" else rank
                    basis = fit_basis(kind, x, world.xy[rows].astype(np.float64), rank=wanted, seed=seed)
                    ranks.append(basis.rank)
                whole = np.linalg.qr(basis.columns, mode="complete")[0]
                for name, columns in ((kind, basis.columns), (f"not-{kind}", whole[:, basis.rank :])):
                    key = (name, layer, span)
                    bases[key] = torch.from_numpy(columns).float()
                    centred = x - x.mean(0)
                    variance[key] = float(np.sum((centred @ columns) ** 2) / np.sum(centred**2))
                    cells.append(Cell("resid_post", layer, None, span, subspace=name))
    return Fitted(bases, variance, tuple(cells))


def describe(fitted: Fitted, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of an interchange or patching table with the rank and the variance share of their subspace."""
    described = []
    for row in rows:
        key = (row["subspace"], row["layer"], row["span"])
        basis = fitted.bases.get(key)
        extra = {"rank": None if basis is None else basis.shape[1], "variance": fitted.variance.get(key, 1.0)}
        described.append({**row, **extra})
    return described


def graft(
    model: HookedQwen2, pairs: Pairs, layer: int, span: str, values: Float64[np.ndarray, "pair d_model"]
) -> Shaped[np.ndarray, " pair"]:
    """Answers decoded when given vectors stand in the clean runs after `layer` at a span of one token.

    Raises AnalysisError when the span has more than one position.
    """
    forward, task = Forward(model), get_task(pairs.task)
    words = np.full(len(pairs), "", dtype="<U16")
    for layout in layouts(pairs, (), roles=("clean", "corrupt")):
        positions = layout.spans[span]
        if len(positions) != 1:
            raise AnalysisError(f"one vector a pair needs a span of one token, '{span}' has several")
        batch = prepare(forward, layout)
        base = torch.from_numpy(layout.runs("clean")).to(forward.device)
        new = torch.from_numpy(values[layout.rows]).float().to(forward.device)[:, None]
        words[layout.rows] = decode(batch, Edit(2 * layer + 2, positions, new), base, task)[0]
    return words


def aligned_states(
    own: Float64[np.ndarray, "city d_model"],
    other: Float64[np.ndarray, "city d_other"],
    folds: Int64[np.ndarray, " city"],
    *,
    shuffle: np.random.Generator | None = None,
) -> Float64[np.ndarray, "city d_model"]:
    """Another model's states of the same cities, mapped into this model's space by ridge regression.

    Each fold's cities are mapped by a fit on the other folds; those of fold -1 by a fit on all folds, and
    they are never fitted on. With `shuffle` the fitted cities are paired at random: the control.
    """
    mapped = np.empty_like(own)
    for fold in np.unique(folds).tolist():
        rows = np.flatnonzero((folds != fold) & (folds >= 0))
        source = rows if shuffle is None else shuffle.permutation(rows)
        mapped[folds == fold] = fit_linear(other[source], own[rows]).predict(other[folds == fold])
    return mapped
