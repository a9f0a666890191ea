"""Claims about what fine-tuning teaches about held-out cities; bases are the units of every interval."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from statistics import mean
from typing import Any

import numpy as np

from cwr_mech.analysis.locating.tables import LOCATED
from cwr_mech.analysis.published import content, matrix
from cwr_mech.experiments.finetuning import HALF_REHEARSED, PLAIN, REHEARSED
from cwr_mech.experiments.ripe import LATER_PAIRS, REHEARSED_PAIRS
from cwr_mech.findings.claims import Claim, Units
from cwr_mech.findings.evidence import MATCHED, Saved, by_bases, mean_over, minus
from cwr_mech.tasks.registry import PAPER_TASKS

ELICITED = "replay trained, elicitation new"
"""The paper's fine-tunings: some rows of every task about held-out cities beside those of the trained
task."""
TENTH, TENTH_WHY = 0.1, "a tenth of the gap between held-out and training cities"
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


def published_less() -> float:
    """What distance teaches the other six, minus what other tasks teach theirs."""
    theirs = published_transfer()
    return theirs["distance"] - mean(value for task, value in theirs.items() if task != "distance")


def half_of(published: float) -> dict[str, Any]:
    """The smallest effect of interest of a claim about a difference that the paper has."""
    return {"smallest": round(abs(published) / 2, 2), "why": "half of the published difference"}


def retention(condition: str) -> Claim:
    """The control of what a fine-tuning says about tasks that it does not train: has it forgotten them?"""
    name, words = next((name, words) for name, words, one in REPLAYED if one == condition)
    return Claim(
        id=f"{name}retention",
        question="transfer",
        statement=f"Fine-tuning keeps what the model knew about training cities in untrained tasks{words}",
        contrast="change on training cities in untrained tasks, as a share of the gap (0: kept)",
        evidence=partial(kept, condition=condition, sets=() if condition == PLAIN else LOCATED),
        against=-TENTH,
        smallest=0.0,
        why="a threshold: a loss of a tenth of the gap between held-out and training cities",
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
    yield claim(
        id="transfer",
        statement="Fine-tuning on one task teaches the other tasks about held-out cities",
        contrast="mean normalised improvement in tasks that were not trained",
        evidence=lambda saved: mean_over([saved.others(task) for task in trained(saved)]),
        smallest=TENTH,
        why=TENTH_WHY,
        published=float(content()["ft1_no_elicitation"]["transfer"]),
        incomparable=lambda saved: saved.transient(trained(saved)),
    )
    theirs = published_less()
    teaches_less = partial(claim, predicted="below", published=theirs, **half_of(theirs))
    for name, words, condition in REPLAYED:
        yield teaches_less(
            id=f"{name}distance-teaches-less",
            statement="Fine-tuning on distance teaches the other tasks less than fine-tuning on another task "
            f"does{words}",
            contrast=f"mean improvement in untrained tasks{words}: trained on distance, minus trained on "
            "another task",
            evidence=partial(_distance_less, condition=condition),
            incomparable=partial(transient, condition=condition),
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
    for name, words, condition in (REPLAYED[0], REPLAYED[-1]):
        yield claim(
            id=f"{name}interference",
            statement=f"Distance as one of two fine-tuning tasks harms the untrained tasks{words}",
            contrast="improvement beyond the better single teacher: pairs with distance, minus other pairs"
            f"{words}",
            evidence=partial(_interference, condition=condition),
            predicted="below",
            published=with_it - without,
            **half_of(with_it - without),
            incomparable=partial(transient, condition=condition),
            control=None if condition == PLAIN else _kept_by_pairs(condition),
        )
    yield _kept_by_pairs(HALF_REHEARSED)
    yield claim(
        id="elicitation",
        statement="With elicitation rows the untrained tasks gain more than without",
        contrast="mean improvement in untrained tasks: with elicitation rows, minus without",
        evidence=lambda saved: minus(
            mean_over([saved.others(task, ELICITED) for task in trained(saved, ELICITED)]),
            mean_over([saved.others(task) for task in trained(saved, ELICITED)]),
        ),
        smallest=TENTH,
        why=TENTH_WHY,
        published=0.474 - 0.359,
        control=retention(ELICITED),
        incomparable=lambda saved: saved.transient(trained(saved)),
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
        incomparable=lambda saved: saved.transient(trained(saved)),
    )


def trained(saved: Saved, condition: str = PLAIN) -> list[str]:
    """Single tasks on which bases were fine-tuned, in the order of the tasks."""
    sets = set(saved.improvements(condition)["set"])
    return [task for task in PAPER_TASKS if task in sets]


def transient(saved: Saved, condition: str) -> str:
    """Why transfer of these fine-tunings cannot be set beside the paper's: some have not learned theirs."""
    return saved.transient(trained(saved, condition), condition)


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
    """What distance teaches the other tasks, minus what the other trained tasks teach theirs; beyond plain
    fine-tunings only tasks that place a city, as some bases are fine-tuned on no others."""
    tasks = trained(saved, condition) if condition == PLAIN else LOCATED
    taught = {task: saved.others(task, condition) for task in tasks}
    rest = [theirs for task, theirs in taught.items() if task != "distance"]
    return minus(saved.others("distance", condition), mean_over(rest))


def _matched_less(saved: Saved) -> Units:
    """The same where each has learned its own task equally well. A task that gets there in some bases only is
    left out in all of them, so that bases differ in nothing else."""
    mine = saved.matched("distance")
    rest = [saved.matched(task) for task in trained(saved) if task != "distance"]
    return minus(mine, mean_over([theirs for theirs in rest if set(mine) <= set(theirs)]))


def _kept_by_pairs(condition: str) -> Claim:
    """The control of what two tasks do to others with replay."""
    control = retention(condition)
    pairs = {"+".join(pair) for pair in (*REHEARSED_PAIRS, *LATER_PAIRS)}
    return replace(
        control,
        id=f"{control.id}-of-pairs",
        statement=f"{control.statement}, whichever two tasks are trained",
        evidence=partial(kept, condition=condition, sets=sorted(pairs)),
    )


def _interference(saved: Saved, condition: str) -> Units:
    """Over the pairs of tasks that all these bases were fine-tuned on: bases differ in nothing else."""
    rows = saved.table("transfer", "deviation")
    rows = rows[(rows["condition"] == condition) & rows["base"].isin(saved.bases)]
    everywhere = rows.groupby("set")["base"].nunique() == rows["base"].nunique()
    rows = rows[rows["set"].isin(everywhere.index[everywhere])]
    rows = rows[~rows["trained"] & rows["learned"] & rows["deviation"].notna()]
    inside = rows["set"].str.split("+").map(lambda tasks: "distance" in tasks).astype(bool)
    with_it, without = (rows[one].groupby("base")["deviation"].mean().to_dict() for one in (inside, ~inside))
    return minus(with_it, without)


def kept(saved: Saved, condition: str, sets: Sequence[str] = ()) -> Units:
    """Base -> mean change on training cities in untrained tasks, as a share of the gap in which improvement
    is counted: (after - before) / (before - held-out cities before). The column `retention` of transfer
    results is another number, a logarithm of errors.

    sets: only fine-tunings on these.
    """
    rows = saved.improvements(condition)
    rows = rows[~rows["trained"] & (rows["set"].isin(sets) if sets else True)]
    share = (rows["old"] - rows["base_old"]) / (rows["base_old"] - rows["base_new"])
    return share.groupby(rows["base"]).mean().to_dict()


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


CLAIMS = (
    *(
        row
        for claim in (*own_claims(), *transfer_claims(), *further_claims())
        for row in ((claim,) if claim.kind == "manipulation check" else by_bases(claim))
    ),
)
