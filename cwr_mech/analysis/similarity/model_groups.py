"""Claims about models from a matrix of similarities between them, one row a model, as rows of a table: means
over groups of pairs, each with its interval, its null, its ceiling and the published value.

Seeds are the units, and pairs that share a model are not independent: intervals over pairs come from leaving
out one model at a time, and tests relabel models, never cells.
"""

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int

from cwr_mech.analysis.published import published_group
from cwr_mech.analysis.stats.intervals import Interval, jackknife
from cwr_mech.analysis.stats.means import mean_of
from cwr_mech.analysis.stats.models import Member, ceilings, other_seed
from cwr_mech.analysis.stats.testing import relabelling_test
from cwr_mech.errors import AnalysisError
from cwr_mech.results import Row

Matrix = Float[np.ndarray, "model model"]
Pairs = Bool[np.ndarray, "model model"]


def pair_mean(matrix: Matrix, chosen: Pairs) -> Interval:
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


def same_tasks(members: Sequence[Member]) -> Pairs:
    """Pairs of models of the same tasks and other seeds: their agreement is the ceiling of any other."""
    return _pairs(members, lambda a, b: a.tasks == b.tasks and other_seed(a.seed, b.seed))


def disjoint_tasks(members: Sequence[Member]) -> Pairs:
    """Pairs of models that share no task: similarity cannot come from the same training data."""
    return _pairs(members, lambda a, b: not set(a.tasks) & set(b.tasks))


def sets_and_seeds(members: Sequence[Member]) -> tuple[list[tuple[str, ...]], list[int | None]]:
    """What models were trained on, and their seeds: what `ceilings` goes by."""
    return [member.tasks for member in members], [member.seed for member in members]


def _pairs(members: Sequence[Member], rule: Callable[[Member, Member], bool]) -> Pairs:
    found = np.array([[rule(a, b) for b in members] for a in members])
    np.fill_diagonal(found, False)
    return found


def group_rows(
    measure: str,
    matrix: Matrix,
    null: Matrix,
    members: Sequence[Member],
    rng: np.random.Generator,
    *,
    has_ceiling: bool = True,
    draws: int = 2000,
) -> list[Row]:
    """Rows {measure, models, group, value, lo, hi, n, pairs, null, ceiling, p, held_fixed, published}.

    `null`: mean similarity of each pair with cities shuffled. Groups are the models of the same tasks (the
    ceiling), those of disjoint tasks, both by number of tasks, the share of the ceiling and the slope of the
    trend; over all models and, where some failed, without those. Intervals are over models. `has_ceiling`:
    whether dividing by a ceiling means anything (not for distances). `draws`: relabellings of a test.
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
            found = _rows(measure, matrix[cells], null[cells], mine, rng, has_ceiling, draws)
            rows += [{"measure": measure, "models": which, **row} for row in found]
    return rows


def _rows(
    measure: str,
    matrix: Matrix,
    null: Matrix,
    members: Sequence[Member],
    rng: np.random.Generator,
    has_ceiling: bool,
    draws: int,
) -> list[Row]:
    most = ceilings(matrix, *sets_and_seeds(members))

    def row(group: str, found: Interval, chosen: Pairs, **more: object) -> Row:
        pairs = np.triu(chosen & np.isfinite(matrix), 1)
        return {
            "group": group,
            "value": found.value,
            **found.ends,
            "n": found.n,
            "pairs": int(pairs.sum()),
            "null": float(null[pairs].mean()),
            "ceiling": mean_of(most[pairs]) if has_ceiling else None,
            "p": None,
            "held_fixed": None,
            "published": published_group(measure, group),
        } | more

    rows = _consistency_rows(matrix, members, rng, row, has_ceiling, draws)
    counts, same = np.array([len(member.tasks) for member in members]), same_tasks(members)
    for count in np.unique(counts).tolist():
        name, chosen = f"same tasks, {count} task(s) each", same & _both(counts == count)
        is_news = np.ptp(counts) > 0 or published_group(measure, name)
        if is_news and (chosen & np.isfinite(matrix)).any():
            rows.append(row(name, pair_mean(matrix, chosen), chosen))
    return rows + _trend_rows(matrix, members, rng, row, draws)


def _both(chosen: Bool[np.ndarray, "model"]) -> Pairs:
    """Pairs of chosen models."""
    return chosen[:, None] & chosen[None, :]


def _consistency_rows(
    matrix: Matrix,
    members: Sequence[Member],
    rng: np.random.Generator,
    row: Callable[..., Row],
    has_ceiling: bool,
    draws: int,
) -> list[Row]:
    """Self-consistency as the ceiling of cross-task similarity (the paper compares without one): models of
    the same tasks, of disjoint tasks, and the mean share of their `ceilings` over pairs of the latter that
    have one. p: of same - disjoint, relabelling models.
    """
    same, disjoint = same_tasks(members), disjoint_tasks(members)
    has_same, has_disjoint = ((chosen & np.isfinite(matrix)).any() for chosen in (same, disjoint))

    def difference(moved: Matrix) -> float:
        return float(np.nanmean(moved[np.triu(same)]) - np.nanmean(moved[np.triu(disjoint)]))

    def ratio(kept: Sequence[int]) -> float:
        cells = np.ix_(kept, kept)
        most = ceilings(matrix[cells], *sets_and_seeds([members[k] for k in kept]))
        shares = (matrix[cells] / most)[np.triu(disjoint[cells])]
        shares = shares[np.isfinite(shares)]
        return float(shares.mean()) if shares.size else float("nan")

    rows = []
    if has_same:
        rows.append(row("same tasks, other seed", pair_mean(matrix, same), same))
    if has_disjoint:
        p = None
        if has_same:
            p = relabelling_test(difference, matrix, rng, draws=draws, alternative="greater").p
        rows.append(row("disjoint tasks", pair_mean(matrix, disjoint), disjoint, p=p))
    shares = jackknife(ratio, range(len(members)))
    if np.isfinite(shares.value) and has_ceiling:
        rows.append(row("disjoint, of the ceiling", shares, disjoint, null=None, ceiling=1.0))
    return rows


def _trend_rows(
    matrix: Matrix,
    members: Sequence[Member],
    rng: np.random.Generator,
    row: Callable[..., Row],
    draws: int,
) -> list[Row]:
    """Models of equally many tasks, none in common, by their number, and the change per task with an interval
    over models; none where no such pair is. p: of the change, relabelling models.

    `held_fixed` names what the numbers of tasks have in common: "rows" (all models saw as many rows),
    "exposure" (as many of each task), "both", or "neither", when more tasks also means more training and
    the trend cannot be read as an effect of the number of tasks.
    """
    counts = np.array([len(member.tasks) for member in members])
    disjoint = disjoint_tasks(members) & np.isfinite(matrix)
    groups = {count: disjoint & _both(counts == count) for count in np.unique(counts).tolist()}
    groups = {count: chosen for count, chosen in groups.items() if chosen.any()}
    used = [member for member in members if len(member.tasks) in groups]
    rows, exposure = ({getattr(member, name) for member in used} for name in ("rows", "exposure"))
    held = {(True, True): "both", (True, False): "rows", (False, True): "exposure"}
    about: Row = {"p": None, "held_fixed": held.get((len(rows) == 1, len(exposure) == 1), "neither")}
    change = []
    if len(groups) > 1:
        compared = disjoint & (counts[:, None] == counts[None, :])
        mine = np.flatnonzero(compared.any(axis=0))
        cells, x = matrix[np.ix_(mine, mine)], counts[mine]
        pairs = np.argwhere(np.triu(compared[np.ix_(mine, mine)], 1))
        slope = jackknife(lambda kept: rise(cells, x, pairs[np.isin(pairs, kept).all(axis=1)]), range(len(x)))
        about["p"] = relabelling_test(lambda moved: rise(moved, x, pairs), cells, rng, draws=draws).p
        change = [row("disjoint, change per task", slope, disjoint, null=None, ceiling=None, **about)]
    return [
        row(f"disjoint, {count} task(s) each", pair_mean(matrix, chosen), chosen, **about)
        for count, chosen in groups.items()
    ] + change


def rise(matrix: Matrix, counts: Int[np.ndarray, "model"], pairs: Int[np.ndarray, "pair 2"]) -> float:
    """Least-squares slope of the similarity of pairs of models with their number of tasks; NaN without two
    numbers of tasks.
    """
    y = matrix[pairs[:, 0], pairs[:, 1]]
    x = counts[pairs[:, 0]][np.isfinite(y)]
    return float(np.polyfit(x, y[np.isfinite(y)], 1)[0]) if x.size and np.ptp(x) > 0 else float("nan")
