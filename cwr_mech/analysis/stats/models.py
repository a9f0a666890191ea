"""Claims about models: seeds are the units, failed models are named, and pairs that share a model are not
independent.

The input is a matrix of similarities between trained models, one row a model. Intervals over pairs come from
leaving out one model at a time; tests relabel models, never cells.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int

from cwr_mech.analysis.stats.intervals import Interval, jackknife
from cwr_mech.analysis.stats.testing import PermutationTest, relabelling_test
from cwr_mech.errors import AnalysisError

Matrix = Float[np.ndarray, "model model"]
FAILED_BELOW = 0.5
"""A model has failed when, on a task it was trained on, it closes less than this share of the gap between the
best constant answer and a perfect one."""


@dataclass(frozen=True)
class Member:
    """One trained model: its name, the tasks it was trained on, its seed, and how it was trained.

    `rows` seen in all, `exposure`: rows seen of each task. `gain`: for each trained task the share of the gap
    between the best constant answer (0) and a perfect one (1) that it closes; None when it was not evaluated.
    """

    run: str
    tasks: tuple[str, ...]
    seed: int
    rows: int
    exposure: int
    gain: Mapping[str, float] | None = None

    @property
    def failed(self) -> bool | None:
        """Whether any trained task was not learnt, by FAILED_BELOW; None when it was not evaluated."""
        return None if self.gain is None else min(self.gain.values(), default=0.0) < FAILED_BELOW


@dataclass(frozen=True)
class Group:
    """Mean similarity over a group of pairs of models, with an interval over models."""

    name: str
    pairs: int
    interval: Interval


def pair_mean(matrix: Matrix, chosen: Bool[np.ndarray, "model model"]) -> Interval:
    """Mean over the chosen pairs (upper triangle), with a jackknife interval over models: every model that
    is in a chosen pair is left out once, with all its pairs, and Student's t has models - 1 degrees of
    freedom.

    NaN ends with the reason when leaving out a model leaves no pair. AnalysisError for no pair at all.
    """
    pairs = [(i, j) for i, j in combinations(range(len(matrix)), 2) if chosen[i, j]]
    pairs = [(i, j) for i, j in pairs if np.isfinite(matrix[i, j])]
    if not pairs:
        raise AnalysisError("no pair of models is left to average")

    def mean(kept: Sequence[int]) -> float:
        values = [matrix[i, j] for i, j in pairs if i in kept and j in kept]
        return float(np.mean(values)) if values else float("nan")

    return jackknife(mean, sorted({model for pair in pairs for model in pair}))


def same_tasks(members: Sequence[Member]) -> Bool[np.ndarray, "model model"]:
    """Pairs of different models trained on the same tasks: their agreement is the ceiling of any other."""
    return _pairs(members, lambda a, b: a.tasks == b.tasks)


def disjoint_tasks(members: Sequence[Member]) -> Bool[np.ndarray, "model model"]:
    """Pairs of models that share no task: similarity cannot come from the same training data."""
    return _pairs(members, lambda a, b: not set(a.tasks) & set(b.tasks))


def _pairs(
    members: Sequence[Member], rule: Callable[[Member, Member], bool]
) -> Bool[np.ndarray, "model model"]:
    found = np.array([[rule(a, b) for b in members] for a in members])
    np.fill_diagonal(found, False)
    return found


def ceilings(
    matrix: Float[np.ndarray, "item item"], labels: Sequence[Hashable]
) -> Float[np.ndarray, "item item"]:
    """The most that two items can be expected to share: the geometric mean of their self-consistencies.

    The self-consistency of a label (the same tasks, the same layer) is the mean similarity of different items
    that bear it: models of other seeds. NaN on cells between items of one label, whose similarity is itself
    the ceiling, and where a label has no second item or its self-consistency is not above 0.
    """
    own: dict[Hashable, float] = {}
    for label in set(labels):
        mine = np.array([other == label for other in labels])
        values = matrix[np.ix_(mine, mine)][np.triu_indices(int(mine.sum()), 1)]
        values = values[np.isfinite(values)]
        mean = float(values.mean()) if values.size else float("nan")
        own[label] = mean if mean > 0 else float("nan")
    each = np.sqrt([own[label] for label in labels])
    different = np.array([[a != b for b in labels] for a in labels])
    return np.where(different, each[:, None] * each[None, :], np.nan)


@dataclass(frozen=True)
class Consistency:
    """Likeness of models of different tasks, beside that of the same tasks and other seeds.

    `same`, `cross`: mean over pairs. `ratio`: mean over pairs of models of disjoint tasks of similarity
    divided by `ceilings`, None where no pair has a ceiling. `test`: same - cross, relabelling models.
    `left_out`: sets of tasks without a second seed.
    """

    same: Interval | None
    cross: Interval | None
    ratio: Interval | None
    test: PermutationTest | None
    left_out: tuple[str, ...]


def consistency(
    matrix: Matrix, members: Sequence[Member], rng: np.random.Generator, *, draws: int = 2000
) -> Consistency:
    """Self-consistency as the ceiling of cross-task similarity (the paper compares without one)."""
    same, other = same_tasks(members), disjoint_tasks(members)
    sets = [member.tasks for member in members]

    def ratio(kept: Sequence[int]) -> float:
        cells = np.ix_(kept, kept)
        shares = (matrix[cells] / ceilings(matrix[cells], [sets[k] for k in kept]))[np.triu(other[cells])]
        shares = shares[np.isfinite(shares)]
        return float(shares.mean()) if shares.size else float("nan")

    upper = np.triu(np.isfinite(matrix), 1)
    test = None
    if (same & upper).any() and (other & upper).any():

        def difference(moved: Matrix) -> float:
            return float(np.nanmean(moved[same & np.triu(same)]) - np.nanmean(moved[other & np.triu(other)]))

        test = relabelling_test(difference, matrix, rng, draws=draws, alternative="greater")
    shares = jackknife(ratio, range(len(members)))
    alone = [tasks for tasks in dict.fromkeys(sets) if not (same & upper)[[s == tasks for s in sets]].any()]
    return Consistency(
        same=pair_mean(matrix, same) if (same & upper).any() else None,
        cross=pair_mean(matrix, other) if (other & upper).any() else None,
        ratio=shares if np.isfinite(shares.value) else None,
        test=test,
        left_out=tuple("+".join(tasks) for tasks in alone),
    )


@dataclass(frozen=True)
class Trend:
    """Similarity of models with disjoint tasks by number of tasks.

    `held_fixed` names what the numbers of tasks have in common: "rows" (all models saw as many rows),
    "exposure" (as many of each task), "both", or "neither", when more tasks also means more training and
    the trend cannot be read as an effect of the number of tasks. `slope`: change per task, with an interval
    over models, tested by permuting the models' rows and columns together; both None where all have equally
    many.
    """

    groups: tuple[Group, ...]
    held_fixed: str
    slope: Interval | None
    test: PermutationTest | None


def trend(matrix: Matrix, members: Sequence[Member], rng: np.random.Generator, *, draws: int = 2000) -> Trend:
    """Group the pairs whose models have equally many tasks, none in common.

    Raises AnalysisError when there is no such pair.
    """
    counts = np.array([len(member.tasks) for member in members])
    disjoint = disjoint_tasks(members) & np.isfinite(matrix)
    groups = []
    for count in np.unique(counts):
        chosen = disjoint & (counts[:, None] == count) & (counts[None, :] == count)
        if chosen.any():
            groups.append(Group(str(count), int(np.triu(chosen).sum()), pair_mean(matrix, chosen)))
    if not groups:
        raise AnalysisError("no two models of equally many tasks have disjoint sets of tasks")
    used = [member for member in members if str(len(member.tasks)) in {group.name for group in groups}]
    rows, exposure = ({getattr(member, name) for member in used} for name in ("rows", "exposure"))
    held = {(True, True): "both", (True, False): "rows", (False, True): "exposure"}
    slope, test = None, None
    if len(groups) > 1:
        compared = disjoint & (counts[:, None] == counts[None, :])
        mine = np.flatnonzero(compared.any(axis=0))
        cells, x = matrix[np.ix_(mine, mine)], counts[mine]
        pairs = np.argwhere(np.triu(compared[np.ix_(mine, mine)], 1))
        slope = jackknife(lambda kept: rise(cells, x, pairs[np.isin(pairs, kept).all(axis=1)]), range(len(x)))
        test = relabelling_test(lambda moved: rise(moved, x, pairs), cells, rng, draws=draws)
    fixed = held.get((len(rows) == 1, len(exposure) == 1), "neither")
    return Trend(tuple(groups), fixed, slope, test)


def rise(matrix: Matrix, counts: Int[np.ndarray, "model"], pairs: Int[np.ndarray, "pair 2"]) -> float:
    """Least-squares slope of the similarity of pairs of models with their number of tasks; NaN without two
    numbers of tasks.
    """
    y = matrix[pairs[:, 0], pairs[:, 1]]
    x = counts[pairs[:, 0]][np.isfinite(y)]
    return float(np.polyfit(x, y[np.isfinite(y)], 1)[0]) if x.size and np.ptp(x) > 0 else float("nan")
