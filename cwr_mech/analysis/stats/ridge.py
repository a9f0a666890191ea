"""Ridge and ordinary least squares from one singular value decomposition of the features.

Ridge (Hoerl and Kennard 1970) minimises ||Y - Xc W||^2 + penalty * s^2 ||W||^2, Xc the centred features,
s^2 their mean squared singular value, so that a penalty means the same at every layer whatever the scale of
its features, and a rotation of the features changes nothing. The intercept is not penalised. The penalty is
chosen by the exact leave-one-out error, residual / (1 - leverage) (Golub, Heath and Wahba 1979), inside the
rows given: a caller that scores on other rows has nested cross-validation. One decomposition serves any
number of targets, which is what makes hundreds of shuffled-label controls cheap.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from cwr_mech.errors import AnalysisError

Method = Literal["ridge", "ols"]
PENALTIES: Float[np.ndarray, "penalty"] = np.logspace(-8, 3, 23)
"""Penalties tried, in units of the mean squared singular value."""

COLUMNS = 32
"""Columns of a product of `leave_one_out`: enough for the processor, few enough for its cache."""


@dataclass(frozen=True)
class LinearMap:
    """y = (x - mean) weights + offset; `penalty` is 0 for ordinary least squares."""

    mean: Float[np.ndarray, "p"]
    weights: Float[np.ndarray, "p target"]
    offset: Float[np.ndarray, "target"]
    penalty: float

    def predict(self, x: Float[np.ndarray, "row p"]) -> Float[np.ndarray, "row target"]:
        """Predicted targets."""
        return (x - self.mean) @ self.weights + self.offset


class _Pooled(NamedTuple):
    """What `Decomposed.pooled_errors` keeps: 1 - shrunk, 1 / (1 - leverage)^2 and w U' D U w."""

    spared: Float[np.ndarray, "k penalty"]
    weight: Float[np.ndarray, "row penalty"]
    squares: Float[np.ndarray, "penalty kk"]


class Decomposed:
    """Centred features x [row p] and their singular value decomposition, ready for any targets."""

    def __init__(self, x: Float[np.ndarray, "row p"]) -> None:
        x = np.asarray(x, dtype=np.float64)
        if x.shape[0] < 3:
            raise AnalysisError(f"{x.shape[0]} cities are too few to fit a probe", "at least 3 are needed")
        if not np.isfinite(x).all():
            bad = int((~np.isfinite(x)).any(axis=1).sum())
            raise AnalysisError(f"{bad} of {x.shape[0]} cities have NaN or infinite features")
        self.mean = x.mean(axis=0)
        self._u, s, self._vt = np.linalg.svd(x - self.mean, full_matrices=False)
        kept = s > max(x.shape) * np.finfo(np.float64).eps * s[0] if s[0] > 0 else s > 0
        self._s = np.where(kept, s, 0.0)
        self._square = self._u**2
        self._kept: dict[bytes, _Pooled] = {}
        self._interpolates = int(kept.sum()) == x.shape[0] - 1
        self.unit = float(np.mean(self._s**2)) or 1.0

    def _shrunk(self, penalty: float) -> Float[np.ndarray, "k"]:
        """s^2 / (s^2 + penalty), 0 for directions the features do not have."""
        square = self._s**2
        return np.divide(square, square + penalty * self.unit, out=np.zeros_like(square), where=square > 0)

    def _spared(self, penalties: Float[np.ndarray, "penalty"]) -> Float[np.ndarray, "k penalty"]:
        """1 - `_shrunk`, as penalty / (s^2 + penalty): no digits are lost where both are nearly equal. 0 for
        directions the features do not have.
        """
        square, added = self._s[:, None] ** 2, penalties * self.unit
        return np.divide(added, square + added, out=np.zeros((square.size, added.size)), where=square > 0)

    def _unexplained(
        self, centred: Float[np.ndarray, "row target"]
    ) -> tuple[Float[np.ndarray, "row target"], Float[np.ndarray, "row"]]:
        """Residual and 1 - leverage of least squares without a penalty: exactly 0 where the features and the
        mean reach every target, as they do with fewer rows than features.
        """
        if self._interpolates:
            return np.zeros_like(centred), np.zeros(len(centred))
        basis = self._u * (self._s > 0)
        leverage = 1 / len(centred) + self._square @ (self._s > 0)
        return centred - basis @ (basis.T @ centred), np.maximum(1 - leverage, 0.0)

    def fit(self, y: Float[np.ndarray, "row target"], penalty: float = 0.0) -> LinearMap:
        """The map for one penalty; 0 is ordinary least squares of least norm."""
        offset = y.mean(axis=0)
        inverse = np.divide(self._shrunk(penalty), self._s, out=np.zeros_like(self._s), where=self._s > 0)
        weights = self._vt.T @ (inverse[:, None] * (self._u.T @ (y - offset)))
        return LinearMap(self.mean, weights, offset, penalty)

    def leave_one_out(
        self, y: Float[np.ndarray, "row target"], penalties: Float[np.ndarray, "penalty"] = PENALTIES
    ) -> Float[np.ndarray, "penalty target"]:
        """Mean squared error of each target with every row predicted from all the others, per penalty."""
        centred = y - y.mean(axis=0)
        turned = self._u.T @ centred
        # Residual of ridge = that of least squares + U (1 - shrunk) U'y. With fewer rows than features both
        # residual and 1 - leverage are tiny, so neither may come from a difference of large numbers.
        spared = self._spared(np.asarray(penalties, dtype=np.float64))
        outside, free = self._unexplained(centred)
        kept = np.maximum(free[:, None] + self._square @ spared, np.finfo(np.float64).tiny)
        # One product for several penalties where targets are few.
        together, errors = max(1, COLUMNS // max(1, y.shape[1])), []
        for start in range(0, spared.shape[1], together):
            part = slice(start, start + together)
            weights = (spared[:, part, None] * turned[:, None]).reshape(len(turned), -1)
            left = outside[:, None] + (self._u @ weights).reshape(len(y), -1, y.shape[1])
            left /= kept[:, part, None]
            errors.append(np.einsum("rpt,rpt->pt", left, left) / len(y))
        return np.concatenate(errors)

    def pooled_errors(
        self, y: Float[np.ndarray, "row target"], penalties: Float[np.ndarray, "penalty"] = PENALTIES
    ) -> Float[np.ndarray, "penalty"]:
        """`leave_one_out`, summed over the targets: cheaper for the second and further sets of many targets.

        With T = U'Y, w = 1 - shrunk, D the squared inverse of 1 - leverage and O the part outside U,
        n errors = tr(w U' D U w T T') + 2 tr(D O T' w U') + tr(D O O'). The first matrix does not depend on
        the targets and is kept, k x k numbers a penalty, so that further targets (other layers, prompts,
        models at the same places) cost two products.
        """
        centred = y - y.mean(axis=0)
        turned = self._u.T @ centred
        outside, free = self._unexplained(centred)
        found = self._pooled(np.asarray(penalties, dtype=np.float64), free)
        errors = found.squares @ (turned @ turned.T).ravel()
        if not self._interpolates:
            across = (self._u * (outside @ turned.T)) @ found.spared
            errors += np.sum(found.weight * (2 * across + np.sum(outside**2, axis=1)[:, None]), axis=0)
        return errors / len(y)

    def _pooled(self, penalties: Float[np.ndarray, "penalty"], free: Float[np.ndarray, "row"]) -> "_Pooled":
        if penalties.tobytes() not in self._kept:
            spared = self._spared(penalties)
            inverse = 1 / np.maximum(free[:, None] + self._square @ spared, np.finfo(np.float64).tiny)
            squares, side = np.empty((penalties.size, self._s.size, self._s.size)), np.empty_like(self._u)
            for index in range(penalties.size):
                np.multiply(self._u, inverse[:, index, None], out=side)
                side *= spared[:, index]
                np.matmul(side.T, side, out=squares[index])
            found = _Pooled(spared, inverse**2, squares.reshape(penalties.size, -1))
            self._kept = {penalties.tobytes(): found}
        return self._kept[penalties.tobytes()]

    def noise_power(self, y: Float[np.ndarray, "row target"], penalty: float) -> Float[np.ndarray, "row"]:
        """For each row an unbiased estimate of the squared noise, summed over the targets.

        With H the matrix that maps y to its fit, noise of variance s^2 leaves the squared residual
        s^2 (1 - 2 H_rr + sum_q H_rq^2) on average, where the fitted function is the true one.
        """
        shrunk = self._shrunk(penalty)
        centred = y - y.mean(axis=0)
        left = centred - self._u @ (shrunk[:, None] * (self._u.T @ centred))
        leverage, square = (1 / len(y) + self._square @ weight for weight in (shrunk, shrunk**2))
        return np.sum(left**2, axis=1) / np.maximum(1 - 2 * leverage + square, 1e-12)

    def map(self, y: Float[np.ndarray, "row target"], method: Method = "ridge") -> LinearMap:
        """`best`, or ordinary least squares of least norm ("ols", the paper's)."""
        return self.best(y) if method == "ridge" else self.fit(y)

    def best(
        self, y: Float[np.ndarray, "row target"], penalties: Float[np.ndarray, "penalty"] = PENALTIES
    ) -> LinearMap:
        """Ridge with the one penalty that has the least leave-one-out error over all targets."""
        return self.judged(y, penalties)[0]

    def judged(
        self, y: Float[np.ndarray, "row target"], penalties: Float[np.ndarray, "penalty"] = PENALTIES
    ) -> tuple[LinearMap, Float[np.ndarray, "penalty target"]]:
        """`best`, and the leave-one-out errors that it was chosen by."""
        errors = self.leave_one_out(y, penalties)
        return self.fit(y, float(penalties[int(np.argmin(errors.sum(axis=1)))])), errors


def fit_linear(
    x: Float[np.ndarray, "row p"], y: Float[np.ndarray, "row target"], *, method: Method = "ridge"
) -> LinearMap:
    """Ridge with its penalty chosen by leave-one-out, or ordinary least squares ("ols", the paper's).

    Raises AnalysisError for fewer than 3 rows and for NaN or infinite features.
    """
    return Decomposed(x).map(y, method)
