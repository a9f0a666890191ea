"""Planted truth for the routing test: would the statistic that reports use see a route off the manifold?

The statistic is the raw share of new cities' displacement inside the manifold's directions, at the site at
which the base reads a city: one task's share minus the mean of other tasks', one number a base, with
Student's t over bases (`share_contrast`). A route off the manifold is found where the upper end of the 90 %
interval lies below 0: a test in one direction at 5 %.

Planted into the displacements of real fine-tunings, in directions drawn at random outside of the manifold's:

linear     a code in two directions from which the coordinates of new cities are read with a mean error of
           ERROR tenths of a degree over the noise that training cities have there
cluster    a shift along one direction that tells new cities from training cities at d' = SEPARATION
on         control: the linear code in two directions of the manifold
dealt      control: each new city's displacements are dealt to the tasks at random, so no task differs
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float
from scipy.stats import binomtest

from cwr_mech.activations.cities import city_states
from cwr_mech.activations.site import Site
from cwr_mech.analysis.manifold.bases import Space, fit_space
from cwr_mech.analysis.stats.intervals import Interval, mean_interval
from cwr_mech.analysis.stats.subspaces import Vectors, energy
from cwr_mech.errors import AnalysisError
from cwr_mech.results import Row
from cwr_mech.training.runs import Run

ERROR = 75.0
"""Mean error of the linear code in tenths of a degree: what fine-tuned models of the zoo answer with."""
SEPARATION = 4.0
CODES = ("linear", "cluster", "on", "dealt")
OFF_MANIFOLD = ("linear", "cluster")


@dataclass(frozen=True)
class Moved:
    """One base at its reading site: for each task what is fitted on the training cities in its prompt, their
    activations, and where its fine-tuning moved the new cities. `xy_old`, `xy`: coordinates of both.
    """

    base: str
    xy_old: Float[np.ndarray, "old 2"]
    xy: Float[np.ndarray, "city 2"]
    spaces: Mapping[str, Space]
    x_old: Mapping[str, Float[np.ndarray, "old p"]]
    moved: Mapping[str, Vectors]

    def shares(self, moved: Mapping[str, Vectors] | None = None) -> dict[str, float]:
        """Task -> share of the displacement's energy inside the manifold's directions of its prompt."""
        return {
            task: energy(d, self.spaces[task].bases["manifold"]).share
            for task, d in (moved or self.moved).items()
        }


def share_contrast(shares: Sequence[Mapping[str, float]], task: str, others: Sequence[str]) -> Interval:
    """One task's share minus the mean of others', over bases: one mapping from tasks to shares each.

    Fewer than three bases have no interval.
    """
    return mean_interval(
        np.array([mine[task] - np.mean([mine[other] for other in others]) for mine in shares]),
        unit="base",
        level=0.9,
    )


def off_manifold(found: Interval) -> bool:
    """Whether a contrast says that the task runs off the manifold more than the others do."""
    return bool(found.hi < 0)


def directions_of(
    space: Space, k: int, rng: np.random.Generator, *, inside: bool
) -> Float[np.ndarray, "p k"]:
    """`k` random orthonormal directions inside the span of the manifold's, or orthogonal to it."""
    columns = space.bases["manifold"]
    p, rank = columns.shape
    if inside:
        return columns @ np.linalg.qr(rng.standard_normal((rank, k)))[0]
    drawn = rng.standard_normal((p, k))
    return np.linalg.qr(drawn - columns @ (columns.T @ drawn))[0]


def written(code: str, base: Moved, task: str, rng: np.random.Generator) -> Vectors:
    """What a code adds to a task's displacements of the new cities.

    The noise of a direction is the deviation of training cities from the map along it. A linear code
    a (xy - centre) / noise = s is read with errors of standard deviation noise / a a coordinate, whose mean
    length in the plane is sqrt(pi / 2) noise / a: so a = sqrt(pi / 2) noise / ERROR.
    """
    space = base.spaces[task]
    left = base.x_old[task] - space.manifold.map(base.xy_old)
    if code == "cluster":
        line = directions_of(space, 1, rng, inside=False)
        return np.tile(SEPARATION * np.std(left @ line) * line.T, (len(base.xy), 1))
    plane = directions_of(space, 2, rng, inside=code == "on")
    gain = np.sqrt(np.pi / 2) * np.std(left @ plane, axis=0) / ERROR
    return (base.xy - base.xy_old.mean(axis=0)) * gain @ plane.T


def dealt(base: Moved, rng: np.random.Generator) -> dict[str, Vectors]:
    """The displacements of each city given to the tasks in random order."""
    stacked = np.stack(list(base.moved.values()))
    order = rng.permuted(np.tile(np.arange(len(stacked)), (stacked.shape[1], 1)), axis=1).T
    mixed = stacked[order, np.arange(stacked.shape[1])]
    return dict(zip(base.moved, mixed, strict=True))


def power_rows(bases: Sequence[Moved], task: str, draws: int, seed: int = 0) -> list[Row]:
    """For each code: in which share of draws it is found, with its 95 % interval (Wilson), and the mean share
    of the task before and after, over draws and bases.
    """
    others = [name for name in bases[0].moved if name != task]
    before = float(np.mean([base.shares()[task] for base in bases]))
    rows = []
    for code in CODES:
        rng = np.random.default_rng([seed, CODES.index(code)])
        found, after = [], []
        for _ in range(draws):
            shares = []
            for base in bases:
                moved = dealt(base, rng) if code == "dealt" else dict(base.moved)
                if code != "dealt":
                    moved[task] = moved[task] + written(code, base, task, rng)
                shares.append(base.shares(moved))
            found.append(off_manifold(share_contrast(shares, task, others)))
            after.append(np.mean([mine[task] for mine in shares]))
        interval = binomtest(sum(found), draws).proportion_ci(method="wilson")
        rows.append(
            {
                "code": code,
                "off_manifold": code in OFF_MANIFOLD,
                "draws": draws,
                "found": float(np.mean(found)),
                "lo": float(interval.low),
                "hi": float(interval.high),
                "share_before": before,
                "share_after": float(np.mean(after)),
                "least": float(np.min(after)),
                "most": float(np.max(after)),
            }
        )
    return rows


def moved_by(base: Run, tuned: Mapping[str, Run], site: Site) -> Moved:
    """Read a base and its fine-tunings, one a task, of one world, at a site. Raises AnalysisError without new
    cities.
    """
    world = next(iter(tuned.values())).world()
    old, new = world.old(), world.new()
    if not len(new):
        raise AnalysisError("this world has no new cities whose displacement could be measured")
    xy = world.xy.astype(np.float64)
    spaces, x_old, moved = {}, {}, {}
    for task, run in tuned.items():
        read = partial(city_states, task=task, ids=world.ids, id_digits=world.config.id_digits)
        before, after = (
            read(one.model(), position=site.position, layers=[site.number()])[0] for one in (base, run)
        )
        spaces[task], x_old[task] = fit_space(before[old], xy[old]), before[old]
        moved[task] = (after - before)[new]
    return Moved(base.name, xy[old], xy[new], spaces, x_old, moved)
