"""Where a task's updates of cities' activations go: on the world manifold or off it, to their places or not.

For every task, site, layer, kind of update (`gradient` of the loss, one `plain` or `adam` step: see
`gradients.py`) and group of cities (new, old) this gives

shares      of the update's energy in the manifold's leading directions, the probe's, the leading principal
            components, the local tangent plane; in the leading directions of the same task's updates of other
            cities (`own`) and of the other tasks' (`others`)
directions  cosine between the decoded movement and the way to the true coordinates; what the parts on and
            off the manifold's directions contribute to it; cosine between the update and the whole way to
            the mapped true coordinates

A basis is fitted on training cities; a training city's share is measured in the basis of the other half of
them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from cwr_mech.analysis.manifold.bases import Space, fit_space, leading_directions, random_bases_like
from cwr_mech.analysis.stats.intervals import bootstrap
from cwr_mech.analysis.stats.subspaces import Energy, energy, null_share
from cwr_mech.data.entries import Entries
from cwr_mech.errors import AnalysisError
from cwr_mech.results import Row

UPDATES = ("gradient", "plain", "adam")
BASES = ("manifold", "tangent", "probe", "pca", "own", "others")
LIKE_DRAWS = 50
DRAWS = 300


@dataclass(frozen=True)
class Field(Entries):
    """Updates of cities at one layer, prompt and site, and the cities' activations and places there.

    `step` says whether the updates are those of one step, in the activation's units; the length of a
    gradient means nothing. `half`: which half of the training cities each is in; None for new cities, which
    took no part in any basis.
    """

    updates: Float[np.ndarray, "city p"]
    x: Float[np.ndarray, "city p"]
    xy: Float[np.ndarray, "city 2"]
    step: bool
    half: Bool[np.ndarray, "city"] | None = None


def halves(n: int, seed: int) -> Bool[np.ndarray, " old"]:
    """Which of two random halves each of `n` training cities is in."""
    return np.random.default_rng([seed, 0]).permutation(n) % 2 == 0


@dataclass(frozen=True)
class Ground:
    """Spaces fitted on training cities: `whole` on all, `halves` on those that are not, and that are, in
    `half`.
    """

    x: Float[np.ndarray, "old p"]
    half: Bool[np.ndarray, "old"]
    whole: Space
    halves: tuple[Space, Space]
    seed: int = 0

    @classmethod
    def fit(
        cls,
        x: Float[np.ndarray, "old p"],
        xy: Float[np.ndarray, "old 2"],
        half: Bool[np.ndarray, "old"],
        rank: int | None = None,
        seed: int = 0,
    ) -> "Ground":
        """`half` [old] deals the cities into two halves; the halves use the rank that the whole has."""
        if min(half.sum(), (~half).sum()) < 20:
            raise AnalysisError(
                f"{len(half)} training cities are too few to split in two", "at least 40 are needed"
            )
        whole = fit_space(x, xy, rank, seed)
        first, second = (fit_space(x[kept], xy[kept], whole.rank, seed) for kept in (~half, half))
        return cls(x, half, whole, (first, second), seed)

    def like(self, updates: Float[np.ndarray, "city p"], rank: int) -> Float[np.ndarray, " draw"]:
        """Share of updates in each of LIKE_DRAWS random subspaces with the activations' covariance, which are
        the same for all updates.
        """
        if rank not in self._like:
            rng = np.random.default_rng([self.seed, 2, rank])
            drawn = random_bases_like(self.x, rank, LIKE_DRAWS, rng)
            self._like[rank] = drawn.transpose(1, 0, 2).reshape(drawn.shape[1], -1)
        inside = np.sum((updates @ self._like[rank]) ** 2, axis=0).reshape(LIKE_DRAWS, rank).sum(1)
        return inside / np.sum(updates**2)

    @cached_property
    def _like(self) -> dict[int, Float[np.ndarray, "p column"]]:
        """Rank -> the subspaces of `like`, side by side."""
        return {}

    def parts(self, field: Field) -> Iterator[tuple[Field, Space]]:
        """The cities with the space to measure them in: the whole for new cities, else the space of the half
        they are not in.
        """
        if field.half is None:
            yield field, self.whole
        else:
            yield field.take(field.half), self.halves[0]
            yield field.take(~field.half), self.halves[1]


def shares(
    field: Field,
    ground: Ground,
    others: Float[np.ndarray, "other p"] | None,
    rng: np.random.Generator,
    bases: Sequence[str] = BASES,
) -> list[Row]:
    """One row for each basis: share with interval, in-sample share where there is one, and nulls.

    others: updates of other tasks for the same cities, in the same order, tasks one after another.
    """
    rank = ground.whole.rank
    found = []
    for kind in bases:
        if kind in ("own", "others"):
            if measured := _crossed(field.updates, others, kind, rank, rng):
                found.append(_row(kind, *measured, None, field, ground, rng))
            continue
        pieces = [energy(part.updates, space.columns(kind, part.xy)) for part, space in ground.parts(field)]
        whole = None
        if field.half is not None:
            whole = energy(field.updates, ground.whole.columns(kind, field.xy)).share
        size = 2 if kind in ("probe", "tangent") else rank
        found.append(_row(kind, _joined(pieces), size, whole, field, ground, rng))
    return found


def _joined(pieces: Sequence[Energy]) -> Energy:
    return Energy(
        *(np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("inside", "total"))
    )


def _crossed(
    updates: Float[np.ndarray, "city p"],
    others: Float[np.ndarray, "other p"] | None,
    kind: str,
    rank: int,
    rng: np.random.Generator,
) -> tuple[Energy, int] | None:
    """Energy in the leading directions of updates (own or others') of the other half of the cities."""
    n = len(updates)
    source = updates if kind == "own" else others
    if source is None or n < 4:
        return None
    half = rng.permutation(n) % 2 == 0
    rank = min(rank, int(half.sum()), int((~half).sum()))
    pieces = []
    for test in (half, ~half):
        fitted = source[np.tile(~test, len(source) // n)]
        columns = leading_directions(fitted, min(rank, int(np.linalg.matrix_rank(fitted))))
        pieces.append(energy(updates[test], columns))
    return _joined(pieces), rank


def _row(
    kind: str,
    found: Energy,
    rank: int,
    in_sample: float | None,
    field: Field,
    ground: Ground,
    rng: np.random.Generator,
) -> Row:
    interval = found.interval(rng, draws=DRAWS)
    null = null_share(field.updates, rank)
    like = ground.like(field.updates, rank)
    return {
        "basis": kind,
        "rank": rank,
        "n": len(field.updates),
        "share": found.share,
        **interval.ends,
        "in_sample": in_sample,
        "null": null.mean,
        "null_lo": null.lo,
        "null_hi": null.hi,
        "like": float(like.mean()),
        "like_hi": float(np.quantile(like, 0.975)),
    }


def directions(field: Field, ground: Ground, rng: np.random.Generator) -> Row:
    """Does the update move the decoded place towards the true coordinates, and which part of it does?

    `cosine`: mean over cities of the cosine between the decoded movement and the way to the true coordinates;
    `cosine_on`, `cosine_off` of the parts on and off the manifold's directions; `cosine_shuffled`: with the
    ways of the cities exchanged, the control. `gain`: mean distance gained by the step along that way, in
    tenths of a degree, the sum of `gain_on` and `gain_off` (None for gradients). `target`: mean cosine
    between the update and the way from the activation to the mapped true coordinates, in the whole space.
    """
    movements, ways, targets = [], [], []
    for part, space in ground.parts(field):
        columns = space.bases["manifold"]
        on = part.updates @ columns @ columns.T
        movements.append([u @ space.probe.weights for u in (part.updates, on, part.updates - on)])
        ways.append(part.xy - space.probe.predict(part.x))
        targets.append(cosines(part.updates, space.manifold.map(part.xy) - part.x))
    whole, on, off = (np.concatenate([piece[k] for piece in movements]) for k in range(3))
    way, target = np.concatenate(ways), np.concatenate(targets)
    cosine = cosines(whole, way)
    low, high = _mean_interval(cosine, rng)
    target_lo, target_hi = _mean_interval(target, rng)
    length = np.linalg.norm(way, axis=1)
    gains: list[float | None] = [None] * 3
    if field.step:
        gains = [float(np.mean(np.sum(moved * way, axis=1) / length)) for moved in (whole, on, off)]
    return {
        "n": len(cosine),
        "cosine": float(np.nanmean(cosine)),
        "lo": low,
        "hi": high,
        "cosine_on": float(np.nanmean(cosines(on, way))),
        "cosine_off": float(np.nanmean(cosines(off, way))),
        "cosine_shuffled": float(np.nanmean(cosines(whole, way[rng.permutation(len(way))]))),
        **dict(zip(("gain", "gain_on", "gain_off"), gains, strict=True)),
        "target": float(np.nanmean(target)),
        "target_lo": target_lo,
        "target_hi": target_hi,
    }


def cosines(a: Float[np.ndarray, "row k"], b: Float[np.ndarray, "row k"]) -> Float[np.ndarray, "row"]:
    """Cosine row by row; NaN where a row is zero."""
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.divide(np.sum(a * b, axis=1), size, out=np.full(len(a), np.nan), where=size > 0)


def _mean_interval(values: Float[np.ndarray, "city"], rng: np.random.Generator) -> tuple[float, float]:
    kept = values[np.isfinite(values)]
    if len(kept) < 2:
        return float("nan"), float("nan")
    found = bootstrap(lambda rows: float(kept[rows].mean()), len(kept), rng, draws=DRAWS)
    return found.lo, found.hi


def unit_fields(fields: Sequence[Float[np.ndarray, "city p"]]) -> Float[np.ndarray, "other p"]:
    """Fields one after another, each scaled to the same energy, so that no task outweighs another."""
    return np.concatenate([field / max(float(np.linalg.norm(field)), 1e-300) for field in fields])
