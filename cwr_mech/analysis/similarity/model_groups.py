"""Claims about models from a matrix of similarities between them, one row a model, as rows of a table: means
over groups of pairs, each with its interval, its null, its ceiling and the published value.

Seeds are the units, and pairs that share a model are not independent: intervals over pairs come from leaving
out one model at a time, and tests relabel models, never cells.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int

from cwr_mech.analysis.published import published_group
from cwr_mech.analysis.stats.intervals import Interval, jackknife
from cwr_mech.analysis.stats.models import Member, ceilings
from cwr_mech.analysis.stats.testing import PermutationTest, relabelling_test
from cwr_mech.errors import AnalysisError
from cwr_mech.results import Row

Matrix = Float[np.ndarray, "model model"]


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


@dataclass(frozen=True)
class Consistency:
    """Likeness of models of different tasks, beside that of the same tasks and other seeds.

    `same`, `cross`: mean over pairs. `ratio`: mean over pairs of models of disjoint tasks of similarity
    divided by `ceilings`, None where no pair has a ceiling. `test`: same - cross, relabelling models.
    """

    same: Interval | None
    cross: Interval | None
    ratio: Interval | None
    test: PermutationTest | None


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
    return Consistency(
        same=pair_mean(matrix, same) if (same & upper).any() else None,
        cross=pair_mean(matrix, other) if (other & upper).any() else None,
        ratio=shares if np.isfinite(shares.value) else None,
        test=test,
    )


@dataclass(frozen=True)
class Trend:
    """Similarity of models with disjoint tasks by number of tasks: `groups`, the mean over pairs for each.

    `held_fixed` names what the numbers of tasks have in common: "rows" (all models saw as many rows),
    "exposure" (as many of each task), "both", or "neither", when more tasks also means more training and
    the trend cannot be read as an effect of the number of tasks. `slope`: change per task, with an interval
    over models, tested by permuting the models' rows and columns together; both None where all have equally
    many.
    """

    groups: dict[int, Interval]
    held_fixed: str
    slope: Interval | None
    test: PermutationTest | None


def trend(matrix: Matrix, members: Sequence[Member], rng: np.random.Generator, *, draws: int = 2000) -> Trend:
    """Group the pairs whose models have equally many tasks, none in common.

    Raises AnalysisError when there is no such pair.
    """
    counts = np.array([len(member.tasks) for member in members])
    disjoint = disjoint_tasks(members) & np.isfinite(matrix)
    groups: dict[int, Interval] = {}
    for count in np.unique(counts).tolist():
        chosen = disjoint & (counts[:, None] == count) & (counts[None, :] == count)
        if chosen.any():
            groups[count] = pair_mean(matrix, chosen)
    if not groups:
        raise AnalysisError("no two models of equally many tasks have disjoint sets of tasks")
    used = [member for member in members if len(member.tasks) in groups]
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
    return Trend(groups, fixed, slope, test)


def rise(matrix: Matrix, counts: Int[np.ndarray, "model"], pairs: Int[np.ndarray, "pair 2"]) -> float:
    """Least-squares slope of the similarity of pairs of models with their number of tasks; NaN without two
    numbers of tasks.
    """
    y = matrix[pairs[:, 0], pairs[:, 1]]
    x = counts[pairs[:, 0]][np.isfinite(y)]
    return float(np.polyfit(x, y[np.isfinite(y)], 1)[0]) if x.size and np.ptp(x) > 0 else float("nan")


def group_rows(
    measure: str,
    matrix: Matrix,
    null: Matrix,
    members: Sequence[Member],
    rng: np.random.Generator,
    *,
    has_ceiling: bool = True,
) -> list[Row]:
    """Rows {measure, models, group, value, lo, hi, n, pairs, null, ceiling, p, held_fixed, published}.

    `null`: mean similarity of each pair with cities shuffled. Groups are the models of the same tasks (the
    ceiling), those of disjoint tasks, both by number of tasks, the share of the ceiling and the slope of the
    trend; over all models and, where some failed, without those. Intervals are over models. `has_ceiling`:
    whether dividing by a ceiling means anything (not for distances).
    """
    good = [k for k, member in enumerate(members) if not member.failed]
    choices = {"all models": list(range(len(members)))}
    if len(good) < len(members):
        choices["without failed models"] = good
    rows: list[Row] = []
    for which, kept in choices.items():
        if len(kept) > 1:
            cells = np.ix_(kept, kept)
            mine = [members[k] for k in kept]
            found = _rows(measure, matrix[cells], null[cells], mine, rng, has_ceiling=has_ceiling)
            rows += [{"measure": measure, "models": which, **row} for row in found]
    return rows


def _rows(
    measure: str,
    matrix: Matrix,
    null: Matrix,
    members: Sequence[Member],
    rng: np.random.Generator,
    *,
    has_ceiling: bool,
) -> list[Row]:
    same, disjoint = same_tasks(members), disjoint_tasks(members)
    most = ceilings(matrix, [member.tasks for member in members])
    counts = np.array([len(member.tasks) for member in members])
    tests = consistency(matrix, members, rng)
    try:
        rising = trend(matrix, members, rng)
    except AnalysisError:
        rising = None

    def row(group: str, found: Interval, chosen: Bool[np.ndarray, "model model"], **more: object) -> Row:
        pairs = np.triu(chosen & np.isfinite(matrix), 1)
        return {
            "group": group,
            "value": found.value,
            **found.ends,
            "n": found.n,
            "pairs": int(pairs.sum()),
            "null": float(null[pairs].mean()),
            "ceiling": _mean(most[pairs]) if has_ceiling else None,
            "p": None,
            "held_fixed": None,
            "published": published_group(measure, group),
        } | more

    rows = []
    if tests.same is not None:
        rows.append(row("same tasks, other seed", tests.same, same))
    if tests.cross is not None:
        p = None if tests.test is None else tests.test.p
        rows.append(row("disjoint tasks", tests.cross, disjoint, p=p))
    if tests.ratio is not None and has_ceiling:
        rows.append(row("disjoint, of the ceiling", tests.ratio, disjoint, null=None, ceiling=1.0))
    for count in np.unique(counts).tolist():
        equal = (counts[:, None] == count) & (counts[None, :] == count)
        is_news = np.ptp(counts) > 0 or published_group(measure, f"same tasks, {count} task(s) each")
        both = same & equal
        if is_news and (both & np.isfinite(matrix)).any():
            rows.append(row(f"same tasks, {count} task(s) each", pair_mean(matrix, both), both))
    if rising is None:
        return rows
    p, fixed = None if rising.test is None else rising.test.p, rising.held_fixed
    for count, found in rising.groups.items():
        equal = disjoint & (counts[:, None] == count) & (counts[None, :] == count)
        rows.append(row(f"disjoint, {count} task(s) each", found, equal, p=p, held_fixed=fixed))
    if rising.slope is not None:
        name = "disjoint, change per task"
        rows.append(row(name, rising.slope, disjoint, null=None, ceiling=None, p=p, held_fixed=fixed))
    return rows


def _mean(values: Float[np.ndarray, "pair"]) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else None
