"""Claims about what fine-tuning teaches about held-out cities; bases are the units of every interval."""

import math
from collections.abc import Iterator
from functools import partial
from statistics import mean

import numpy as np

from cwr_mech.analysis.published import content, matrix
from cwr_mech.analysis.stats.testing import mantel_test
from cwr_mech.experiments.finetuning import HALF_REHEARSED, PLAIN, REHEARSED
from cwr_mech.findings.claims import Claim, Evidence, NoResults, Units, of_statistic, withheld
from cwr_mech.findings.evidence import MATCHED, Saved, across, by_bases, mean_over, minus
from cwr_mech.findings.pretrained import CKA, LEAST_TASKS
from cwr_mech.tasks.registry import PAPER_TASKS

ELICITED = "replay trained, elicitation new"
"""The paper's fine-tunings: some rows of every task about held-out cities beside those of the trained
task."""
TENTH, TENTH_WHY = 0.1, "a tenth of the gap between held-out and training cities"
HIGHEST_R = 0.999
"""Correlations of few pairs may be 1, whose Fisher z is infinite."""
REPLAYED = (
    ("", "", PLAIN),
    ("elicited-", ", with the paper's elicitation rows", ELICITED),
    ("rehearsed-", ", with a sixth of the rows replaying all tasks", REHEARSED),
    ("half-rehearsed-", ", with half of the rows replaying all tasks", HALF_REHEARSED),
)
"""What else a fine-tuning holds of all tasks, least first: start of the names of claims, words, condition."""


def published_transfer() -> dict[str, float]:
    """Trained task -> mean published improvement of the other six."""
    cells = matrix("transfer")
    return {task: float(np.delete(cells[i], i).mean()) for i, task in enumerate(PAPER_TASKS)}


def retention(condition: str) -> Claim:
    """The control of what a fine-tuning says about tasks that it does not train: has it forgotten them?"""
    name, words = next((name, words) for name, words, one in REPLAYED if one == condition)
    return Claim(
        id=f"{name}retention",
        question="transfer",
        statement=f"Fine-tuning keeps what the model knew about training cities in untrained tasks{words}",
        contrast="change on training cities in untrained tasks, as a share of the gap (0: kept)",
        evidence=partial(_retention, condition=condition),
        against=-TENTH,
        smallest=0.0,
        why="a threshold: a loss of a tenth of the gap",
        kind="control",
    )


def own_claims() -> Iterator[Claim]:
    """What fine-tuning on one task teaches about held-out cities in that task."""
    for task in PAPER_TASKS:
        yield Claim(
            id=f"own-{task}",
            question="transfer",
            statement=f"Fine-tuning on {task} teaches {task} about held-out cities",
            contrast="normalised improvement in the trained task",
            evidence=partial(Saved.own, task=task),
            smallest=TENTH,
            why=TENTH_WHY,
            published=float(matrix("transfer")[PAPER_TASKS.index(task), PAPER_TASKS.index(task)]),
            kind="manipulation check",
        )


def transfer_claims() -> Iterator[Claim]:
    """What fine-tuning on one task teaches about held-out cities in other tasks."""
    claim = partial(Claim, question="transfer")
    theirs = published_transfer()
    rest = mean(value for task, value in theirs.items() if task != "distance")
    yield claim(
        id="transfer",
        statement="Fine-tuning on one task teaches the other tasks about held-out cities",
        contrast="mean normalised improvement in tasks that were not trained",
        evidence=lambda saved: mean_over([saved.others(task) for task in _trained(saved)]),
        smallest=TENTH,
        why=TENTH_WHY,
        published=float(content()["ft1_no_elicitation"]["transfer"]),
        incomparable=lambda saved: saved.transient(_trained(saved)),
    )
    teaches_less = partial(
        claim,
        predicted="below",
        smallest=round((rest - theirs["distance"]) / 2, 2),
        why="half of the published difference",
        published=theirs["distance"] - rest,
    )
    for name, words, condition in REPLAYED:
        yield teaches_less(
            id=f"{name}distance-teaches-less",
            statement="Fine-tuning on distance teaches the other tasks less than fine-tuning on another task "
            f"does{words}",
            contrast=f"mean improvement in untrained tasks{words}: trained on distance, minus trained on "
            "another task",
            evidence=partial(_distance_less, condition=condition),
            incomparable=partial(_transient, condition=condition),
            control=retention(condition),
        )
    yield teaches_less(
        id="matched-distance-teaches-less",
        statement="Fine-tuning on distance teaches the other tasks less than fine-tuning on another task "
        "does, where both have learned their own task equally well",
        contrast=f"others' improvement where the trained task reaches {MATCHED}: trained on distance, "
        "minus trained on another task (those that reach it in every base)",
        evidence=_matched_less,
        control=retention(PLAIN),
    )


def further_claims() -> Iterator[Claim]:
    """Two tasks at once, elicitation rows, what is kept, and where a probe finds the new cities."""
    claim = partial(Claim, question="transfer")
    with_it, without = _published_deviation()
    yield claim(
        id="interference",
        statement="Distance as one of two fine-tuning tasks harms the untrained tasks",
        contrast="improvement beyond the better single teacher: pairs with distance, minus other pairs",
        evidence=_interference,
        predicted="below",
        smallest=round((without - with_it) / 2, 2),
        why="half of the published difference",
        published=with_it - without,
        incomparable=lambda saved: saved.transient(_trained(saved)),
    )
    yield claim(
        id="elicitation",
        statement="With elicitation rows the untrained tasks gain more than without",
        contrast="mean improvement in untrained tasks: with elicitation rows, minus without",
        evidence=lambda saved: minus(
            mean_over([saved.others(task, ELICITED) for task in _trained(saved, ELICITED)]),
            mean_over([saved.others(task) for task in _trained(saved, ELICITED)]),
        ),
        smallest=TENTH,
        why=TENTH_WHY,
        published=0.474 - 0.359,
        incomparable=lambda saved: saved.transient(_trained(saved)),
    )
    yield from (retention(condition) for _, _, condition in REPLAYED)
    places = content()["new_cities"]
    yield claim(
        id="probe-error",
        statement="A probe places held-out cities farther off when distance is among the fine-tuning tasks",
        contrast="log ratio of the probe's error on held-out cities: sets with distance, over sets without",
        evidence=_probe_error,
        smallest=round(math.log(1.5), 2),
        why="1.5 times as far",
        published=math.log(places["with_distance"] / places["without_distance"]),
        incomparable=lambda saved: saved.transient(_trained(saved)),
    )


def _trained(saved: Saved, condition: str = PLAIN) -> list[str]:
    """Single tasks on which bases were fine-tuned, in the order of the tasks."""
    sets = set(saved.improvements(condition)["set"])
    return [task for task in PAPER_TASKS if task in sets]


def _transient(saved: Saved, condition: str) -> str:
    """Why transfer of these fine-tunings cannot be set beside the paper's: some have not learned theirs."""
    return saved.transient(_trained(saved, condition), condition)


def _published_deviation() -> tuple[float, float]:
    """Published deviation of untrained tasks from the better teacher: pairs with distance, other pairs."""
    table = content()["ft2"]
    cells = [
        ("distance" in tasks, value)
        for tasks, line in zip(table["sets"], table["deviation"], strict=True)
        for task, value in zip(PAPER_TASKS, line, strict=True)
        if task not in tasks
    ]
    with_it, without = ([value for inside, value in cells if inside == chosen] for chosen in (True, False))
    return mean(with_it), mean(without)


def _distance_less(saved: Saved, condition: str = PLAIN) -> Units:
    """What distance teaches the other tasks, minus what the other trained tasks teach theirs."""
    taught = {task: saved.others(task, condition) for task in _trained(saved, condition)}
    rest = [theirs for task, theirs in taught.items() if task != "distance"]
    return minus(saved.others("distance", condition), mean_over(rest))


def _matched_less(saved: Saved) -> Units:
    """The same where each has learned its own task equally well. A task that gets there in some bases only is
    left out in all of them, so that bases differ in nothing else."""
    mine = saved.matched("distance")
    rest = [saved.matched(task) for task in _trained(saved) if task != "distance"]
    return minus(mine, mean_over([theirs for theirs in rest if set(mine) <= set(theirs)]))


def _interference(saved: Saved) -> Units:
    rows = saved.table("transfer", "deviation")
    rows = rows[(rows["condition"] == PLAIN) & ~rows["trained"] & rows["learned"] & rows["deviation"].notna()]
    rows = rows[rows["base"].isin(saved.bases)]
    inside = rows["set"].str.split("+").map(lambda tasks: "distance" in tasks).astype(bool)
    with_it, without = (rows[one].groupby("base")["deviation"].mean().to_dict() for one in (inside, ~inside))
    return minus(with_it, without)


def _retention(saved: Saved, condition: str) -> Units:
    rows = saved.improvements(condition)
    return rows[~rows["trained"]].groupby("base")["retention"].mean().to_dict()


def _probe_error(saved: Saved) -> Units:
    """Each fine-tuning at the layer and prompt where its own probe is best; plain fine-tunings only."""
    models = saved.models
    plain = models["family"].str.fullmatch(r"fine-tuned on \d tasks?")
    tuned = models[models["base"].isin(saved.bases) & plain]
    new = saved.table("maps", "new").set_index(["run", "task", "hook"])["error_mean"]
    errors: dict[str, dict[bool, list[float]]] = {}
    for _, row in tuned.iterrows():
        best = saved.best_r2(row["run"])
        key = (row["run"], best["task"], best["hook"])
        if key in new.index:
            groups = errors.setdefault(row["base"], {True: [], False: []})
            groups["distance" in row["tasks"].split("+")].append(float(new[key]))
    both = {base: found for base, found in errors.items() if found[True] and found[False]}
    return {base: math.log(mean(found[True]) / mean(found[False])) for base, found in both.items()}


def relation_claims() -> Iterator[Claim]:
    """Does representational similarity of single-task models predict transfer? Tasks are the units."""
    claim = partial(Claim, question="relation")
    for name, left_out, key in (
        ("", ("crossing",), "r"),
        (" once distance is left out", ("crossing", "distance"), "r_without_distance"),
    ):
        yield claim(
            id=f"similarity-predicts-transfer{'-without-distance' if 'distance' in left_out else ''}",
            statement=f"Tasks whose single-task models are more similar teach each other more{name}",
            contrast="Fisher's z (arctanh of r) over pairs of tasks: CKA of single-task models with "
            "improvement, both ways averaged",
            evidence=partial(_relation, left_out=left_out),
            smallest=round(math.atanh(0.3), 2),
            why="r = 0.3 explains 9 % of the variance",
            published=math.atanh(content()["similarity_predicts_transfer"][key]),
            incomparable=lambda saved: saved.transient(_trained(saved)),
            units="tasks",
        )


def _relation(saved: Saved, left_out: tuple[str, ...]) -> Evidence:
    """Correlation over pairs of learned tasks: jackknife over tasks, p by relabelling tasks (Mantel)."""
    singles = saved.singles
    taught = {task: saved.by_task(task) for task in _trained(saved)}
    tasks = [task for task in singles if task in taught and task not in left_out]
    if len(tasks) < LEAST_TASKS:
        return withheld(f"{len(tasks)} tasks are learned alone and fine-tuned on; {saved.unlearned()}")
    runs = [run for mine in singles.values() for run in mine]
    alike = across(saved.similarity(CKA), singles, runs)
    x, y = np.eye(len(tasks)), np.zeros((len(tasks), len(tasks)))
    for i, a in enumerate(tasks):
        for j, b in enumerate(tasks):
            if i != j:
                x[i, j] = alike.get((a, b), alike.get((b, a), math.nan))
                y[i, j] = taught[a].get(b, math.nan)
    y = (y + y.T) / 2
    if not np.isfinite(x + y).all():
        raise NoResults("some pairs of tasks have no similarity or no transfer")
    cells = np.triu_indices(len(tasks), 1)
    if min(np.ptp(x[cells]), np.ptp(y[cells])) == 0:
        return withheld("similarity or transfer is the same for all pairs of tasks")

    def z(kept: list[int]) -> float:
        cells = np.triu_indices(len(kept), 1)
        one, two = (table[np.ix_(kept, kept)][cells] for table in (x, y))
        if min(np.ptp(one), np.ptp(two)) == 0:
            return math.nan
        return math.atanh(float(np.clip(np.corrcoef(one, two)[0, 1], -HIGHEST_R, HIGHEST_R)))

    test = mantel_test(x, y, np.random.default_rng(0), alternative="two-sided")
    return of_statistic(lambda kept: z(list(kept)), range(len(tasks)), unit="task", p=test.p)


CLAIMS = (
    *(
        row
        for claim in (*own_claims(), *transfer_claims(), *further_claims())
        for row in (by_bases(claim) if claim.kind == "finding" else (claim,))
    ),
    *relation_claims(),
)
