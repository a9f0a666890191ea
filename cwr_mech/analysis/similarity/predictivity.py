"""How much of a representation a ridge map from another predicts on unseen cities (Yamins and DiCarlo 2016).

The map of one fold is `ridge.Decomposed(x).best(y, PENALTIES_TRIED)`. Here it comes from the eigenvectors of
the smaller product of the features instead of their singular values, at half the cost, wherever rounding
decides neither the penalty nor the value; elsewhere from `Decomposed` itself.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from cwr_mech.analysis.stats.ridge import PENALTIES, Decomposed
from cwr_mech.errors import AnalysisError

PENALTIES_TRIED = PENALTIES[::3]
"""With many targets the choice among penalties is what takes the time."""
LEAST_SHARE = 1e-6
"""Eigenvalues of a product are wrong by about 1e-16 of the largest: a penalty above this share of it keeps at
least 10 digits of the map."""
MARGIN = 1e-3
"""Penalties whose leave-one-out errors differ by less than this share are not told apart in float32, nor
where one is below LEAST_SHARE and has lost digits."""
LEAST_FREE, LEAST_LEFT = 1e-8, 1e-5
"""Least 1 - leverage of a row, and least share of the targets that is left, with which that holds."""


@dataclass(frozen=True)
class Fold:
    """Centred training rows and held-out rows, and what every map from them needs.

    The hat matrix of penalty c is B diag(scale / (squares + c)) B', predictions are P diag(1 / (squares + c))
    B'y. With fewer rows than features B are the eigenvectors U of X X', scale = squares, P = X_held X' U;
    else B = X V with V those of X'X, scale = 1, P = X_held V.
    """

    train: Float[np.ndarray, "row p"]
    held: Float[np.ndarray, "left p"]

    @property
    def _by_rows(self) -> bool:
        return len(self.train) <= self.train.shape[1]

    @cached_property
    def _turned(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """B [row k], squares [k], scale [k] and P [left k]."""
        x = self.train
        if self._by_rows:
            squares, basis = np.linalg.eigh(x @ x.T)
            squares = np.maximum(squares, 0.0)
            return basis, squares, squares, self.held @ x.T @ basis
        squares, axes = np.linalg.eigh(x.T @ x)
        return x @ axes, np.maximum(squares, 0.0), np.ones_like(squares), self.held @ axes

    def predict(self, y: Float[np.ndarray, "row target"]) -> Float[np.ndarray, "left target"]:
        """Centred targets of the held-out rows from those of the training rows."""
        basis, squares, scale, project = self._turned
        penalties = PENALTIES_TRIED * float(squares.mean())
        if not penalties[0] > 0:
            return self._by_singular_values(y)
        turned, inverse = basis.T @ y, 1 / (squares[:, None] + penalties)
        free = 1 - 1 / len(y) - basis**2 @ (scale[:, None] * inverse)
        small = penalties < LEAST_SHARE * squares[-1]
        for kind in (np.float32, np.float64):
            left = self._left(y, turned, penalties * inverse if self._by_rows else inverse, kind)
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                errors = np.sum(left / free**2, axis=0)
                best = int(np.argmin(errors))
                close = errors <= (1 + MARGIN) * errors[best]
            if close.sum() == 1 and left[:, best].sum() > LEAST_LEFT * np.vdot(y, y):
                break
        if (small & close).any() or free.min() < LEAST_FREE:
            return self._by_singular_values(y)
        return project @ (inverse[:, best, None] * turned)

    def _left(
        self,
        y: Float[np.ndarray, "row target"],
        turned: Float[np.ndarray, "k target"],
        weights: Float[np.ndarray, "k penalty"],
        kind: type[np.floating],
    ) -> Float[np.ndarray, "row penalty"]:
        """Squared residuals of each row, for all penalties c by one product: B diag(c / (squares + c)) B'y
        where B is a whole basis, else y - B diag(1 / (squares + c)) B'y.
        """
        basis = self._turned[0].astype(kind)
        weighted = weights.astype(kind)[:, :, None] * turned.astype(kind)[:, None]
        left = (basis @ weighted.reshape(len(turned), -1)).reshape(len(y), -1, y.shape[1])
        if not self._by_rows:
            np.subtract(y.astype(kind)[:, None], left, out=left)
        return np.einsum("rpt,rpt->rp", left, left).astype(np.float64)

    @cached_property
    def _decomposed(self) -> Decomposed:
        return Decomposed(self.train)

    def _by_singular_values(self, y: Float[np.ndarray, "row target"]) -> Float[np.ndarray, "left target"]:
        return self._decomposed.best(y, PENALTIES_TRIED).predict(self.held)


@dataclass(frozen=True)
class Folded:
    """A representation with columns of mean 0, and its folds, each made when it is asked for."""

    x: Float[np.ndarray, "city p"]
    fold: Int[np.ndarray, "city"]

    @cached_property
    def folds(self) -> list[Fold]:
        """Each fold as the held-out rows."""
        found = []
        for number in np.unique(self.fold):
            held = self.fold == number
            train, n = self.x[~held], int((~held).sum())
            if n < 3:
                raise AnalysisError(f"{n} cities are too few to fit a probe", "at least 3 are needed")
            mean = train.mean(axis=0)
            found.append(Fold(train - mean, self.x[held] - mean))
        return found

    @cached_property
    def spread(self) -> float:
        """Squared distance of held-out rows from the mean of the training rows."""
        return float(sum(np.sum(fold.held**2) for fold in self.folds))


def predicted(x: Folded, y: Folded) -> float:
    """Share of y's variance that maps from x predict on held-out folds (can be negative)."""
    pairs = zip(x.folds, y.folds, strict=True)
    left = sum(np.sum((there.held - here.predict(there.train)) ** 2) for here, there in pairs)
    return float(1 - left / y.spread)
