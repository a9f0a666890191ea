"""Which part of a city's state do answers read? Interchange interventions inside and outside of a subspace.

For questions whose first city is exchanged, the residual stream at that city's tokens (and at the delimiter
after it) equals what a bare city prompt gives there, because nothing before it differs. Subspaces are fitted
on such states of training cities, after every block, at the token where the model reads a city; where it
reads several, their states side by side are one vector, and a subspace is one of that space:

manifold            directions in which cities differ because of their coordinates (`manifold.bases`)
pca                 as many leading principal components: where cities differ most, for any reason
probe               the plane of the linear probe's two weight vectors
covariance-matched  as many random combinations of centred states: directions in which cities vary at all
random              as many directions drawn evenly
readers             the row space and the null space of what later blocks read, see `split_by_readers`
not-KIND            the orthogonal complement

Answers that follow the source inside the manifold and not in its complement run through it; that this says
anything about the manifold takes that the random subspaces of its rank do less.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

from cwr_mech.activations.cities import city_states
from cwr_mech.analysis.manifold.bases import fit_space, random_basis, random_basis_like
from cwr_mech.analysis.patching.batch import Batch
from cwr_mech.analysis.patching.cells import BasisName, Cell, Edit, basis_name
from cwr_mech.analysis.patching.forward import Forward
from cwr_mech.analysis.patching.interchange import decode
from cwr_mech.analysis.patching.layout import layouts
from cwr_mech.analysis.patching.pairs import READING, Pairs
from cwr_mech.analysis.stats.ridge import fit_linear
from cwr_mech.errors import UnknownName, one_of
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.results import Row
from cwr_mech.tasks.registry import get_task
from cwr_mech.world.cities import World

FITTED = ("manifold", "pca", "probe")
RANDOM = ("covariance-matched", "random")
READERS = "readers"
SUBSPACES = (*FITTED, *RANDOM, READERS)
"""Kinds of subspaces that can be interchanged. PCA and the random ones have the manifold's rank."""

DRAWS = 5
READ = 0.9
"""Share of the readers' squared weights that the row space carries."""


def check_subspaces(kinds: Sequence[str]) -> tuple[str, ...]:
    """The kinds asked for; "all" alone stands for SUBSPACES. Raises UnknownName."""
    chosen = SUBSPACES if list(kinds) == ["all"] else tuple(kinds)
    return tuple(one_of("subspace", kind, SUBSPACES) for kind in chosen)


@dataclass(frozen=True)
class Fitted:
    """Subspaces by (name, layer, span) as columns or as pairs of matrices (see `Batch`), the shares of the
    cities' variance inside, and the patches to make. The d-th draw of a random one is named by `basis_name`.
    """

    bases: Mapping[BasisName, Float[Tensor, "*pair d_model rank"]]
    variance: Mapping[BasisName, float]
    cells: tuple[Cell, ...]


def states_at(
    model: HookedQwen2, world: World, task: str, ids: Int64[np.ndarray, " city"], position: str
) -> Float64[np.ndarray, "layer city d_states"]:
    """Residual stream after every block at a position in bare prompts about these cities: d_model numbers
    for each of the tokens that `position` joins by "+"."""
    digits = world.config.id_digits
    return city_states(model, task, ids, position, digits, layers=range(model.cfg.n_layers))


MOST = 2000


def fit_subspaces(
    model: HookedQwen2,
    world: World,
    task: str,
    kinds: Sequence[str],
    *,
    position: str = "last_digit",
    span: str = READING,
    seed: int = 0,
) -> Fitted:
    """Fit subspaces on (at most MOST) training cities, for every layer, each with its complement.

    `position` is where their states are read, `span` what the patches there are called in pairs.
    Kinds are those of SUBSPACES; the random ones are drawn DRAWS times. All but the probe's plane have the
    manifold's rank. "readers" adds the row space and the null space of what later blocks read, by
    themselves and within each fitted kind. Raises UnknownName for a kind.
    """
    for kind in kinds:
        if kind not in SUBSPACES:
            raise UnknownName("subspace", kind, SUBSPACES)
    rng = np.random.default_rng(np.random.SeedSequence((seed, 7)))
    rows = rng.permutation(world.old())[:MOST]
    xy = world.xy[rows].astype(np.float64)
    bases: dict[BasisName, Tensor] = {}
    variance: dict[BasisName, float] = {}
    cells: list[Cell] = []
    states = states_at(model, world, task, world.ids[rows], position)
    for layer, x in enumerate(states):
        cells.append(Cell("resid_post", layer, None, span))
        space = fit_space(x, xy, seed=seed)
        fitted = [(kind, space.bases[kind]) for kind in FITTED if kind in kinds]
        found = {kind: [columns] for kind, columns in fitted}
        for kind in (kind for kind in RANDOM if kind in kinds):
            found[kind] = [_drawn(kind, x, space.rank, rng) for _ in range(DRAWS)]
        maps: list[tuple[str, int, np.ndarray]] = []
        for kind, drawn in found.items():
            complements = [np.linalg.qr(v, mode="complete")[0][:, v.shape[1] :] for v in drawn]
            for name, several in ((kind, drawn), (f"not-{kind}", complements)):
                maps += [(name, d, v) for d, v in enumerate(several)]
        if READERS in kinds and layer < model.cfg.n_layers - 1:
            tokens = position.count("+") + 1
            maps += [(name, 0, v) for name, v in split_by_readers(model, layer, fitted, tokens)]
        for name, draw, columns in maps:
            key = (basis_name(name, draw), layer, span)
            bases[key] = torch.from_numpy(columns).float()
            variance[key] = _variance(x, columns)
            cells.append(Cell("resid_post", layer, None, span, subspace=name, draw=draw))
    return Fitted(bases, variance, tuple(cells))


def _drawn(
    kind: str, x: Float64[np.ndarray, "city d_states"], rank: int, rng: np.random.Generator
) -> Float64[np.ndarray, "d_states rank"]:
    return random_basis(x.shape[1], rank, rng) if kind == "random" else random_basis_like(x, rank, rng)


def _variance(x: Float64[np.ndarray, "city d_states"], columns: np.ndarray) -> float:
    """Share of the cities' variance that a subspace (or a pair of matrices) passes on."""
    centred = x - x.mean(0)
    seen, written = columns if columns.ndim == 3 else (columns, columns)
    return float(np.sum((centred @ seen @ written.T) ** 2) / np.sum(centred**2))


def split_by_readers(
    model: HookedQwen2,
    layer: int,
    fitted: Sequence[tuple[str, Float64[np.ndarray, "d_states _"]]],
    tokens: int = 1,
) -> list[tuple[str, np.ndarray]]:
    """The row space R and the null space N of what reads a city's state after block `layer`, and the parts
    of each subspace V in `fitted` that lie in them: pairs (V, R R^T V) and (V, N N^T V).

    Readers are the key and value matrices of all later blocks, with the gains of the norms before them, each
    of unit Frobenius norm: what other positions can take from this one. A subspace can move answers although
    the network never uses it, when its part in N varies with the city and its part in R is dormant (Makelov
    et al. 2023, arXiv 2311.17030); then the first of the pair moves nothing that the second does not
    disturb. Matrices of full rank have no strict null space: R is the fewest leading singular directions with
    READ of their squared weights, N the rest. Readers take from each token by itself, so for the states of
    several `tokens` side by side R and N have that many equal blocks.
    """
    gains = []
    for block in Forward(model).blocks[layer + 1 :]:
        for weight in (block.attn.W_K, block.attn.W_V):
            read = block.ln1.w[:, None] * rearrange(weight, "head d_model d_head -> d_model (head d_head)")
            gains.append((read / read.norm()).detach().double().cpu().numpy())
    u, s, _ = np.linalg.svd(np.concatenate(gains, axis=1))
    rank = int(np.searchsorted(np.cumsum(s**2) / np.sum(s**2), READ)) + 1
    each = np.eye(tokens)
    sides = {"row-space": np.kron(each, u[:, :rank]), "null-space": np.kron(each, u[:, rank:])}
    found: list[tuple[str, np.ndarray]] = list(sides.items())
    for kind, v in fitted:
        found += [(f"{kind}-{side}", np.stack([v, w @ w.T @ v])) for side, w in sides.items()]
    return found


def describe(fitted: Fitted, rows: Sequence[Row]) -> list[Row]:
    """Rows of an interchange or patching table with the rank and the variance share of their subspace."""
    described = []
    for row in rows:
        name, place = str(row["subspace"]), (row["layer"], row["span"])
        basis = fitted.bases.get((name, *place))
        extra = {"rank": None, "variance": 1.0}
        if basis is not None:
            keys = [(basis_name(name, draw), *place) for draw in range(row.get("draws", 1))]
            extra = {"rank": basis.shape[-1], "variance": float(np.mean([fitted.variance[k] for k in keys]))}
        described.append(row | extra)
    return described


def graft(
    model: HookedQwen2, pairs: Pairs, layer: int, span: str, values: Float64[np.ndarray, "pair d_states"]
) -> Shaped[np.ndarray, " pair"]:
    """Answers decoded when given states stand in the clean runs after `layer` at a span: d_model numbers for
    each of its tokens.
    """
    forward, task = Forward(model), get_task(pairs.task)
    words = np.full(len(pairs), "", dtype="<U16")
    for layout in layouts(pairs, (), roles=("clean", "corrupt")):
        positions = layout.spans[span]
        batch = Batch(forward, layout)
        base = batch.runs("clean")
        new = torch.from_numpy(values[layout.rows]).float().to(forward.device)
        new = rearrange(new, "pair (token d_model) -> pair token d_model", token=len(positions))
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
