"""Tables of a course: scores at every checkpoint of fine-tunings, and at matched competence.

Two fine-tunings that stop after as many steps need not have learned their own task equally well, and what
they teach other tasks may still grow or already fall. Comparing them where the trained task has closed the
same share of its gap takes the number of steps out of the comparison.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from statistics import mean

from cwr_mech.analysis.locating.survey import Survey
from cwr_mech.analysis.stats.means import mean_columns
from cwr_mech.analysis.transfer.answers import evaluations, tuned_of
from cwr_mech.analysis.transfer.transfer import Base, score_rows
from cwr_mech.experiments.finetuning import condition_of
from cwr_mech.results import Row, groups
from cwr_mech.tasks.registry import PAPER_TASKS, ordered
from cwr_mech.training.runs import Run

LEVELS = (0.5, 0.75, 0.9)
"""Shares of the gap closed in the trained tasks at which fine-tunings are compared."""
OUTCOMES = ("own", "others", "index")
ABOUT = ("run", "base", "set", "condition")


def tasks_of(run: Run) -> tuple[str, ...]:
    """All tasks that are asked: the paper's, and those of the run and its base."""
    return ordered((*PAPER_TASKS, *run.base().config.data.tasks, *run.config.data.tasks))


def course_rows(
    run: Run,
    *,
    n: int,
    seed: int,
    survey: Survey | None = None,
    advance: Callable[[int], object] = lambda n: None,
) -> list[Row]:
    """A row for the base (step 0) and for each checkpoint of a fine-tuning after the first.

    own, others: improvement on new cities (share of the gap closed) of the trained tasks, and mean of the
    other tasks that the base had learned; old: the trained tasks' change on training cities. With a `survey`,
    place_own, place_others: mean error of the coordinates that the answers of trained and of other tasks
    imply for new cities; index: ln(place_others / place_own).
    """
    base, tasks, world = run.base(), tasks_of(run), run.world()
    ask = partial(evaluations, tasks=tasks, n=n, seed=seed, advance=advance)
    before = ask(base, world=world)
    start = Base(str(run.parent), before["old"], before["new"])
    about: Row = {"run": run.name, "base": str(run.parent), "set": "+".join(run.config.data.tasks)}
    about["condition"] = condition_of(run.config)
    found = []
    for step in (0, *[step for step in run.steps if step > 0]):
        scores = ask(run, step=step) if step else before
        rows = list(score_rows(tuned_of(run, scores), start))
        own = [row["ni"] for row in rows if row["trained"]]
        others = [row["ni"] for row in rows if not row["trained"] and row["learned"]]
        kept = [row["retention"] for row in rows if row["trained"]]
        line = about | {"step": step, "own": _mean(own), "others": _mean(others), "old": _mean(kept)}
        if survey is not None:
            line |= places(run if step else base, step or base.last_step, run.config.data.tasks, survey)
        found.append(line)
    return found


def places(run: Run, step: int, trained: Sequence[str], survey: Survey) -> Row:
    """Where answers of the trained and of the other tasks put new cities at a checkpoint, and their ratio."""
    located = survey.model(run.model(step))
    new = survey.cities.is_new
    errors = {task: float(located.errors(task)[new].mean()) for task in located.implied}
    own = [error for task, error in errors.items() if task in trained]
    others = [error for task, error in errors.items() if task not in trained]
    row: Row = {"place_own": _mean(own), "place_others": _mean(others)}
    known = math.isfinite(row["place_own"] + row["place_others"]) and min(*own, *others) > 0
    return row | {"index": math.log(row["place_others"] / row["place_own"]) if known else math.nan}


def crossing(own: Sequence[float], level: float) -> tuple[int, float] | None:
    """Where `own` first reaches `level`: the index i of the checkpoint before, and the share of the way to
    the next one, own[i] + share (own[i+1] - own[i]) = level. None where it is never reached.
    """
    for i, (before, after) in enumerate(pairwise(own)):
        if before < level <= after:
            return i, (level - before) / (after - before)
    return None


def at_level(steps: Sequence[int], columns: Mapping[str, Sequence[float]], level: float) -> Row:
    """`columns` (one holds `own`) where own first reaches `level`, between checkpoints by the share of the
    way. Steps, which are log-spaced, are interpolated as ln(1 + step). All None where it is never reached.
    """
    found = crossing(columns["own"], level)
    if found is None:
        return {"level": level, "step": None} | dict.fromkeys(key for key in columns if key != "own")
    i, share = found

    def between(values: Sequence[float]) -> float | None:
        value = values[i] + share * (values[i + 1] - values[i])
        return value if math.isfinite(value) else None

    step = between([math.log1p(step) for step in steps])
    return {"level": level, "step": None if step is None else round(math.expm1(step))} | {
        key: between(values) for key, values in columns.items() if key != "own"
    }


def matched_rows(course: Sequence[Row]) -> list[Row]:
    """What stands at LEVELS of the trained task, run by run; None for what a run never reached."""
    found = []
    for mine in groups(course, "run").values():
        keys = [key for key in OUTCOMES if key in mine[0]]
        columns = {key: [row[key] for row in mine] for key in keys}
        about = {key: mine[0][key] for key in ABOUT}
        found += [about | at_level([row["step"] for row in mine], columns, level) for level in LEVELS]
    return found


def summary_rows(matched: Sequence[Row]) -> list[Row]:
    """Means over bases at each level, with 95 % over bases: a row for each set of tasks and condition."""
    found = []
    for (condition, trained, level), mine in groups(matched, "condition", "set", "level").items():
        reached = [row for row in mine if row["step"] is not None]
        row: Row = {"condition": condition, "set": trained, "level": level}
        row |= {"models": len(mine), "reached": len(reached)}
        for key in [key for key in ("step", *OUTCOMES[1:]) if key in mine[0]]:
            row |= mean_columns(key, [one[key] for one in reached])
        found.append(row)
    return found


def _mean(values: Sequence[float | None]) -> float:
    given = [value for value in values if value is not None and math.isfinite(value)]
    return mean(given) if given else math.nan
