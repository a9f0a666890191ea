"""Claims about models before any fine-tuning: what they learn, their maps, how similar they are."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from statistics import mean

from scipy import stats

from cwr_mech.analysis.published import content, matrix
from cwr_mech.analysis.stats.intervals import Interval
from cwr_mech.analysis.stats.models import FAILED_BELOW
from cwr_mech.findings.claims import Claim, Evidence, Units, of_statistic, withheld
from cwr_mech.findings.evidence import Saved, across
from cwr_mech.tasks.registry import PAPER_TASKS

CKA = "cka"
"""Debiased. The paper's is biased, which adds less than 0.01 with its 4,413 cities but much with our 256."""
LEAST_TASKS = 4
"""Tasks that must have been learned alone before anything is said about which task differs from the
others."""
COMPONENTS = 4
"""Principal components in which the map is looked for: the two coordinates', and as many again."""
Pairs = Mapping[tuple[str, str], float]
"""(task, task) -> mean similarity; a task with itself: other seeds."""
NOISE = 0.1
NOISE_WHY = "models of one task and other seeds differ by about this much"
HALF = "half of the variance of the coordinates"


def learned_claims() -> Iterator[Claim]:
    """Manipulation checks: a model that has not learned its task says nothing about its representation."""
    claim = partial(Claim, question="tasks")
    for task in PAPER_TASKS:
        for word, tasks in (("together", PAPER_TASKS), ("alone", (task,))):
            yield claim(
                id=f"learned-{word}-{task}",
                statement=f"Models learn {task} {'with all other tasks' if len(tasks) > 1 else word}",
                contrast=f"share of the gap closed on test questions, against {FAILED_BELOW}",
                evidence=partial(_gain, tasks=tasks, task=task),
                smallest=0.0,
                why="a threshold",
                against=FAILED_BELOW,
                kind="manipulation check",
            )


def _gain(saved: Saved, tasks: Sequence[str], task: str) -> Units:
    return {run: float(saved.gains.loc[run, task]) for run in saved.trained_on(*tasks)}


def map_claims() -> Iterator[Claim]:
    """Is there a linear map of the cities in the residual stream?"""
    claim = partial(Claim, question="maps", smallest=0.5, why=HALF)
    yield claim(
        id="map-all-tasks",
        statement="Models trained on all tasks together hold a linear map of the cities",
        contrast="R² of coordinates on held-out cities; shuffled coordinates give about 0",
        evidence=lambda saved: _r2(saved, saved.trained_on(*PAPER_TASKS)),
    )
    yield claim(
        id="map-held-out-placed",
        statement="Cities that were held out of training are decoded as well as others once they are "
        "trained on",
        contrast="R² with held-out cities in pretraining; shuffled coordinates give about 0",
        evidence=_with_new,
        kind="control",
    )
    published = content()["probe_r2"]["values"]
    for task in PAPER_TASKS:
        yield claim(
            id=f"map-{task}",
            statement=f"Models of {task} alone hold a linear map of the cities",
            contrast="R² of coordinates on held-out cities, models that learned; shuffled: about 0",
            evidence=partial(_of_learned, task=task),
            published=published.get(task),
        )


def _r2(saved: Saved, runs: Sequence[str]) -> dict[str, float]:
    return {run: float(saved.best_r2(run)["r2"]) for run in runs}


def _with_new(saved: Saved) -> Units:
    models = saved.models
    chosen = models[models["base"].isna() & models["family"].str.contains("pretraining")]
    return _r2(saved, list(chosen["run"]))


def _of_learned(saved: Saved, task: str) -> Evidence | Units:
    runs = saved.trained_on(task)
    learned = saved.learned(runs)
    if len(learned) < len(runs) and len(learned) < 3:
        return withheld(f"{len(runs) - len(learned)} of {len(runs)} models of {task} alone did not learn it")
    return _r2(saved, learned)


def surfaced_claims() -> Iterator[Claim]:
    """Do the first principal components hold the map, and more so in models of more tasks?"""
    yield Claim(
        id="surfaced",
        question="surfaced",
        statement="Models of all tasks hold the map in their first components more than models of one task",
        contrast=f"R² of coordinates from {COMPONENTS} principal components, held-out cities: models of all "
        "tasks, minus models of one task that have learned it, in its prompt",
        evidence=_surfaced,
        smallest=0.1,
        why="a tenth of the variance of the coordinates",
    )


def _surfaced(saved: Saved) -> Evidence:
    """Mean over single-task models of (bases in the same prompt, minus this model); jackknife over models."""
    rows = saved.table("surfacing", "components")
    r2 = rows[rows["k"] == COMPONENTS].set_index(["run", "task"])["r2"].to_dict()
    alone = {run: task for task, runs in saved.singles.items() for run in runs if (run, task) in r2}
    many = [
        run for run in saved.trained_on(*PAPER_TASKS) if all((run, task) in r2 for task in alone.values())
    ]

    def gap(kept: Sequence[str]) -> float:
        mine, bases = [run for run in alone if run in kept], [run for run in many if run in kept]
        if not mine or not bases:
            return math.nan
        return mean(mean(r2[base, alone[run]] for base in bases) - r2[run, alone[run]] for run in mine)

    return of_statistic(gap, [*many, *alone])


def similarity_claims() -> Iterator[Claim]:
    """Do models of different tasks arrive at similar representations?"""
    claim = partial(Claim, question="similarity", smallest=NOISE, why=NOISE_WHY)
    theirs = published_pairs("cka")
    yield claim(
        id="convergence",
        statement="Models of different single tasks arrange the cities more similarly than chance",
        contrast="CKA between models of different tasks, minus CKA with one side's cities shuffled",
        evidence=_level,
        published=mean(value for (a, b), value in theirs.items() if a != b),
    )
    yield claim(
        id="below-ceiling",
        statement="Models of different tasks are less similar than models of one task and other seeds",
        contrast="CKA with other seeds of the same task (noise ceiling), minus CKA between tasks",
        evidence=lambda saved: _between(saved, saved.similarity(CKA), _gap_to_ceiling),
        published=_gap_to_ceiling(theirs),
    )
    for measure in ("cka", "rsa", "mutual_knn"):
        yield claim(
            id=f"outlier-{measure}",
            statement=f"Distance is the task whose models differ from all others, by {measure}",
            contrast=f"{measure} of other tasks among themselves, minus theirs with distance",
            evidence=partial(_outlier, measure=measure),
            published=outlier_gap(published_pairs(measure)),
        )
    yield claim(
        id="trend",
        statement="The more tasks a model learns, the more similar models of disjoint tasks are",
        contrast="change of CKA with one more task, models of disjoint tasks that have learned them",
        evidence=_trend,
        smallest=0.05,
        why="half of the published change of 0.1 a task",
        published=0.098,
        incomparable=_confounded,
    )


def published_pairs(measure: str) -> dict[tuple[str, str], float]:
    """A published matrix of single-task models as pairs, without crossing; a task with itself: seeds."""
    cells, tasks = matrix(measure), PAPER_TASKS
    return {
        (a, b): float(cells[tasks.index(a), tasks.index(b)])
        for a, b in [*combinations(tasks, 2), *((task, task) for task in tasks)]
        if "crossing" not in (a, b)
    }


def _between(saved: Saved, values: Pairs, statistic: Callable[[Pairs], float]) -> Evidence:
    """A statistic of similarities by pairs of tasks; single-task models that have learned are the units."""
    singles = saved.singles
    if len(singles) < 3:
        return withheld(saved.unlearned())
    runs = [run for mine in singles.values() for run in mine]
    return of_statistic(lambda kept: statistic(across(values, singles, kept)), runs)


def _level(saved: Saved) -> Evidence:
    """Mean over pairs of tasks of similarity minus its null; names the tasks where some are not learned."""
    above = saved.above_shuffled(CKA)
    found, failed = _between(saved, above, partial(_mean, same=False)), saved.unlearned()
    if found.found is None:
        return found
    return replace(found, reason=f"over {', '.join(saved.singles)} alone: {failed}" if failed else "")


def _outlier(saved: Saved, measure: str) -> Evidence:
    values, singles = saved.similarity(measure), saved.singles
    if len(singles) < LEAST_TASKS or "distance" not in singles:
        return withheld(
            f"only {len(singles)} of {len(PAPER_TASKS)} tasks are learned alone ({', '.join(singles)}); "
            f"{saved.unlearned()}"
        )
    return _between(saved, values, outlier_gap)


def _mean(pairs: Pairs, *, same: bool) -> float:
    values = [value for (a, b), value in pairs.items() if (a == b) == same]
    return mean(values) if values else float("nan")


def _gap_to_ceiling(pairs: Pairs) -> float:
    return _mean(pairs, same=True) - _mean(pairs, same=False)


def outlier_gap(pairs: Pairs) -> float:
    different = {pair: value for pair, value in pairs.items() if pair[0] != pair[1]}
    others = [value for pair, value in different.items() if "distance" not in pair]
    mine = [value for pair, value in different.items() if "distance" in pair]
    return mean(others) - mean(mine) if others and mine else float("nan")


def _trend(saved: Saved) -> Evidence:
    """Slope over models that have learned all their tasks, with its jackknife over models."""
    rows = saved.table("similarity", "groups")
    rows = rows[(rows["measure"] == CKA) & (rows["group"] == "disjoint, change per task")]
    if saved.unlearned() or (rows["models"] == "without failed models").any():
        rows = rows[rows["models"] == "without failed models"]
    if rows.empty:
        return withheld(f"no two numbers of tasks with models that learned them; {saved.unlearned()}")
    value, lo, hi, n = rows.iloc[0][["value", "lo", "hi", "n"]].astype(float)
    error = (hi - value) / float(stats.t.ppf(0.975, n - 1))
    return Evidence(Interval(value, lo, hi, int(n), error=error))


def _confounded(saved: Saved) -> str:
    rows = saved.table("similarity", "groups")
    held = set(rows[rows["group"] == "disjoint, change per task"]["held_fixed"].dropna())
    if held == {"both"}:
        return ""
    return "models of more tasks saw other numbers of rows, and those with compass began with compass alone"


CLAIMS = (*learned_claims(), *map_claims(), *surfaced_claims(), *similarity_claims())
