"""Means over groups of pairs of models, as rows of a table: each with its interval, its null, its ceiling and
the published value.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from cwr_mech.analysis.paper_values import published_group
from cwr_mech.analysis.stats.intervals import Interval
from cwr_mech.analysis.stats.models import (
    Member,
    ceilings,
    consistency,
    disjoint_tasks,
    pair_mean,
    same_tasks,
    trend,
)
from cwr_mech.errors import AnalysisError
from cwr_mech.results import Row

Matrix = Float[np.ndarray, "model model"]


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
        if is_news and (same & equal & np.isfinite(matrix)).any():
            rows.append(
                row(f"same tasks, {count} task(s) each", pair_mean(matrix, same & equal), same & equal)
            )
    if rising is None:
        return rows
    p, fixed = None if rising.test is None else rising.test.p, rising.held_fixed
    for group in rising.groups:
        equal = disjoint & (counts[:, None] == int(group.name)) & (counts[None, :] == int(group.name))
        name = f"disjoint, {group.name} task(s) each"
        rows.append(row(name, group.interval, equal, p=p, held_fixed=fixed))
    if rising.slope is not None:
        name = "disjoint, change per task"
        rows.append(row(name, rising.slope, disjoint, null=None, ceiling=None, p=p, held_fixed=fixed))
    return rows


def _mean(values: Float[np.ndarray, "pair"]) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else None
