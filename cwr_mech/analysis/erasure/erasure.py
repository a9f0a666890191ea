"""Is the decoded map used? Erase it inside the model and see what each task loses.

LEACE (Belrose et al. 2023, arXiv 2306.03819; the authors' package) is the least change of the activations
after which no linear probe finds the places. It is fitted on training questions, at every city's last
digit and delimiter after one layer, and applied there while the model answers other questions. Controls of
the same rank: a random subspace, and a random subspace drawn with the activations' own covariance, which
takes away as much of what varies.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from concept_erasure import LeaceFitter
from jaxtyping import Float
from torch import Tensor

from cwr_mech.activations.cities import residual_stream
from cwr_mech.activations.site import Site
from cwr_mech.analysis.manifold.bases import random_basis, random_basis_like
from cwr_mech.analysis.probing.probe import score
from cwr_mech.analysis.stats.intervals import bootstrap
from cwr_mech.analysis.stats.ridge import fit_linear
from cwr_mech.data.rows import Rows, generate
from cwr_mech.data.summary import baseline
from cwr_mech.errors import AnalysisError
from cwr_mech.model.evaluation import answer_rows
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.results import Row
from cwr_mech.tasks.grammar import spans
from cwr_mech.tasks.registry import TASKS, get_task
from cwr_mech.world.cities import World

CONDITIONS = ("leace", "random", "random-like")
RANK = 2


@dataclass(frozen=True)
class Eraser:
    """x -> x - (x - mean) right left: an affine map that takes a few directions away."""

    mean: Float[np.ndarray, "p"]
    right: Float[np.ndarray, "p k"]
    left: Float[np.ndarray, "k p"]

    def __call__(self, x: Float[np.ndarray, "row p"]) -> Float[np.ndarray, "row p"]:
        """Erased activations."""
        return x - (x - self.mean) @ self.right @ self.left


def fit_leace(x: Float[np.ndarray, "row p"], places: Float[np.ndarray, "row k"]) -> Eraser:
    """LEACE for continuous places, by the concept-erasure package, in float64 and with its shrinkage.

    Places are standardised, because the package drops directions by an absolute threshold.
    """
    spread = places.std(axis=0)
    if not (spread > 0).all():
        raise AnalysisError("all cities stand at one place: there is nothing to erase")
    fitter = LeaceFitter.fit(torch.from_numpy(x), torch.from_numpy((places - places.mean(axis=0)) / spread))
    found = fitter.eraser
    return Eraser(fitter.mean_x.numpy(), found.proj_right.mH.numpy(), found.proj_left.mH.numpy())


def fit_condition(
    condition: str,
    x: Float[np.ndarray, "row p"],
    places: Float[np.ndarray, "row k"],
    rng: np.random.Generator,
) -> Eraser:
    """The eraser of one condition; the random ones have the rank of the erased places."""
    if condition == "leace":
        return fit_leace(x, places)
    rank = places.shape[1]
    basis = random_basis(x.shape[1], rank, rng) if condition == "random" else random_basis_like(x, rank, rng)
    return Eraser(x.mean(axis=0), basis, basis.T)


@dataclass(frozen=True)
class Mention:
    """One position in questions of one shape, and which of their cities stands there."""

    name: str
    position: int
    city: int


def city_sites(task: str, n_cities: int, id_digits: int) -> list[Mention]:
    """Last digit and delimiter of every city. The last delimiter of a question has a name of its own, because
    it is another character.
    """
    found = spans(task, n_cities, id_digits)
    sites = []
    for city in range(1, n_cities + 1):
        last, delimiter = f"city{city}_last", f"delimiter{city}"
        closing = "closing" if city == n_cities else delimiter
        for name, span in ((last, last), (closing, delimiter)):
            sites.append(Mention(name, found[span].start, city - 1))
    return sites


def by_shape(rows: Rows) -> Iterator[tuple[int, np.ndarray]]:
    """Rows grouped by their number of cities."""
    sizes = (rows.cities >= 0).sum(axis=1)
    for size in np.unique(sizes):
        yield int(size), np.flatnonzero(sizes == size)


def gather(
    model: HookedQwen2, world: World, rows: Rows, layer: int
) -> dict[str, tuple[Float[np.ndarray, "row p"], Float[np.ndarray, "row 2"]]]:
    """For each site name the activations after block `layer` in `rows`, and the places of the cities
    there.
    """
    task = TASKS.at(int(rows.task[0])).name
    found: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {}
    for size, picked in by_shape(rows):
        stop = int(rows.answer_start[picked[0]])
        tokens = torch.from_numpy(rows.tokens[picked, :stop].astype(np.int64)).to(model.W_E.device)
        with torch.no_grad():
            _, resid = next(residual_stream(model, tokens, [layer]))
        for site in city_sites(task, size, world.config.id_digits):
            x, places = found.setdefault(site.name, ([], []))
            x.append(resid[:, site.position].double().cpu().numpy())
            places.append(world.xy_of(rows.cities[picked, site.city]).astype(np.float64))
    return {name: (np.concatenate(x), np.concatenate(places)) for name, (x, places) in found.items()}


@contextmanager
def erased(
    model: HookedQwen2, layer: int, task: str, id_digits: int, erasers: dict[str, Eraser]
) -> Iterator[None]:
    """While the block runs, every question of `task` passes `layer` with its cities' sites erased.

    A question's shape is known from its length; single tokens of an answer pass unchanged.
    """
    definition = TASKS[task]
    shapes = {
        spans(task, size, id_digits)["equals"].stop: city_sites(task, size, id_digits)
        for size in range(definition.n_min, definition.n_max + 1)
    }
    ready = {
        name: [torch.from_numpy(part).to(model.W_E) for part in (one.mean, one.right, one.left)]
        for name, one in erasers.items()
    }

    def erase(resid: Tensor, hook: Any) -> Tensor:
        sites = shapes.get(resid.shape[1])
        if sites is None:
            return resid
        changed = resid.clone()
        for site in sites:
            mean, right, left = ready[site.name]
            changed[:, site.position] -= (resid[:, site.position] - mean) @ right @ left
        return changed

    with model.hooks(fwd_hooks=[(Site(layer).hook, erase)]):
        yield


def losses(model: HookedQwen2, rows: Rows) -> Float[np.ndarray, "row"]:
    """What each answer costs: absolute error (the failure value without an answer), or 1 for a wrong
    label.
    """
    task = TASKS.at(int(rows.task[0]))
    given = answer_rows(model, rows).strict
    if task.labels:
        return (given != rows.values).astype(np.float64)
    return np.where(np.isfinite(given), np.abs(given - rows.values), task.failure_value).astype(np.float64)


def erase_task(
    model: HookedQwen2,
    world: World,
    task: str,
    layer: int,
    *,
    n_fit: int,
    n_test: int,
    seed: int,
    draws: int = 400,
) -> list[Row]:
    """Rows (one a condition) of what `task` loses when the map is erased after block `layer`.

    `loss_clean`, `loss_erased`: mean error or share of wrong labels on `n_test` test questions about old
    cities; `loss_constant`: of the best constant answer. `lost`: (erased - clean) / (constant - clean), 0
    when nothing and 1 when everything the cities gave is lost, with a bootstrap interval over questions,
    NaN when the clean model is no better than the constant. `r2_before`, `r2_after`: of a probe fitted on
    (erased) training activations at the cities' last digits, on test questions; `variance`: share of
    variance removed.
    """
    rng = np.random.default_rng([seed, layer, get_task(task).key])
    fit_rows = generate(world, task, n_fit, split="train", seed=seed)
    rows = generate(world, task, n_test, split="test", seed=seed)
    fitted, tested = gather(model, world, fit_rows, layer), gather(model, world, rows, layer)
    clean, constant = losses(model, rows), baseline(rows)
    worst = 1 - constant.score if TASKS[task].labels else constant.score
    found = []
    for condition in CONDITIONS:
        erasers = {name: fit_condition(condition, x, places, rng) for name, (x, places) in fitted.items()}
        with erased(model, layer, task, world.config.id_digits, erasers):
            after = losses(model, rows)

        def lost(picked: np.ndarray, after: np.ndarray = after) -> float:
            room = worst - clean[picked].mean()
            return float((after[picked].mean() - clean[picked].mean()) / room) if room > 0 else np.nan

        interval = bootstrap(lost, len(rows), rng, draws=draws, unit="question")
        found.append(
            {
                "task": task,
                "layer": layer,
                "condition": condition,
                "loss_clean": float(clean.mean()),
                "loss_erased": float(after.mean()),
                "loss_constant": worst,
                **interval.columns("lost"),
                **_decodable(fitted, tested, erasers),
                "n": len(rows),
            }
        )
    return found


def _decodable(
    fitted: dict[str, tuple[np.ndarray, np.ndarray]],
    tested: dict[str, tuple[np.ndarray, np.ndarray]],
    erasers: dict[str, Eraser],
) -> dict[str, float]:
    """R2 before and after, and the share of variance removed, averaged over the cities' last digits."""
    found = []
    for name in (name for name in fitted if name.endswith("_last")):
        (x, places), (x_test, places_test), eraser = fitted[name], tested[name], erasers[name]
        before = score(fit_linear(x, places).predict(x_test), places_test).r2
        after = score(fit_linear(eraser(x), places).predict(eraser(x_test)), places_test).r2
        found.append((before, after, 1 - np.sum(eraser(x).var(axis=0)) / np.sum(x.var(axis=0))))
    means = [float(np.mean(column)) for column in zip(*found, strict=True)]
    return dict(zip(("r2_before", "r2_after", "variance"), means, strict=True))
