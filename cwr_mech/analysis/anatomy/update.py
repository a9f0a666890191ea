"""Where in the weights an update lies, and of how many directions each matrix' update consists.

norm share      |dW|^2 / sum over all parameters of |dW|^2 (Frobenius norms); the shares sum to 1
effective rank  (sum s^2)^2 / sum s^4 of the singular values s of dW: 1 for one direction, r for r equal ones
numerical rank  number of singular values above what storing the two weight matrices in their format makes of
                nothing: the rounding error of a weight w is uniform in w's last place, so an entry of the
                difference errs by at most eps sqrt((w^2 + w'^2) / 12) (standard deviation), and the largest
                singular value of a matrix of such errors is about its largest row norm plus its largest
                column norm (Bandeira and van Handel 2016, arXiv 1408.6185)
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from cwr_mech.errors import AnalysisError
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.results import Row, where
from cwr_mech.training.parameters import module_of

CARRIED = 0.9
"""`rank90`: directions that carry this share of a matrix' squared update norm."""


def update_rows(base: HookedQwen2, tuned: HookedQwen2) -> list[Row]:
    """One row a parameter of the update `tuned` minus `base`, named as in HookedQwen2.

    norm2 and share as above; relative: |dW| / |W|; effective_rank, numerical_rank, rank90 and full_rank of
    matrices (heads side by side), None for vectors. Raises AnalysisError for models of another shape, and
    when no parameter differs.
    """
    before, after = parameters(base), parameters(tuned)
    if {name: value.shape for name, value in before.items()} != {n: v.shape for n, v in after.items()}:
        raise AnalysisError("the two models have different shapes: there is no update between them")
    norms = {name: float((after[name] - value).square().sum()) for name, value in before.items()}
    total = sum(norms.values())
    if total == 0:
        raise AnalysisError("the two models have the same weights: there is no update")
    eps = _rounding(before, after)
    rows = []
    for name, value in before.items():
        size = float(value.norm())
        row: Row = {"module": module_of(name), "parameter": name, "numbers": value.numel()}
        row |= {"norm2": norms[name], "share": norms[name] / total}
        row["relative"] = norms[name] ** 0.5 / size if size else float("nan")
        rows.append(row | _ranks(name, value, after[name], eps))
    return rows


def module_rows(rows: list[Row], modules: tuple[str, ...], city: tuple[str, ...]) -> list[Row]:
    """`update_rows` added up over each module, with the side it is on; `city` are those of the city side."""
    found = []
    for module in modules:
        mine = where(rows, module=module)
        found.append(
            {"module": module, "side": "city" if module in city else "answer"}
            | {key: sum(row[key] for row in mine) for key in ("numbers", "norm2", "share")}
        )
    return found


def parameters(model: HookedQwen2) -> Mapping[str, Tensor]:
    """The parameters by name, in double precision."""
    return {name: value.detach().double() for name, value in model.named_parameters()}


def as_matrix(name: str, value: Tensor) -> Float64[np.ndarray, "row column"] | None:
    """A weight as the matrix that acts on the residual stream, heads side by side; None for a vector."""
    if ".W_" not in name or value.ndim < 2:
        return None
    if value.ndim == 3:  # W_O [head d_head d_model]; W_Q, W_K, W_V [head d_model d_head]
        value = value.flatten(0, 1) if name.endswith("W_O") else value.permute(1, 0, 2).flatten(1)
    return value.numpy()


def _ranks(name: str, before: Tensor, after: Tensor, eps: float) -> Row:
    first, second = as_matrix(name, before), as_matrix(name, after)
    if first is None or second is None:
        return dict.fromkeys(("effective_rank", "numerical_rank", "rank90", "full_rank"))
    power = np.linalg.svd(second - first, compute_uv=False) ** 2
    total = power.sum()
    variance = eps**2 * (first**2 + second**2) / 12
    noise = max(np.sqrt(variance.sum(0).max()) + np.sqrt(variance.sum(1).max()), 1e-14 * np.sqrt(power[0]))
    return {
        "effective_rank": float(total**2 / np.sum(power**2)) if total else 0.0,
        "numerical_rank": int(np.sum(power > noise**2)),
        "rank90": int(np.searchsorted(np.cumsum(power), CARRIED * total) + 1) if total else 0,
        "full_rank": min(first.shape),
    }


def _rounding(*models: Mapping[str, Tensor]) -> float:
    """Spacing of numbers next to 1 in the narrowest format that holds all weights: float16 or float32."""
    narrow = all(torch.equal(value, value.half().double()) for one in models for value in one.values())
    return float(torch.finfo(torch.float16 if narrow else torch.float32).eps)
