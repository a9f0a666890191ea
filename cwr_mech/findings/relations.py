"""Claims about what foretells transfer: similarity of representations, and of gradients."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from cwr_mech.analysis.published import content
from cwr_mech.analysis.stats.testing import mantel_test
from cwr_mech.experiments.finetuning import PLAIN
from cwr_mech.findings.claims import Claim, Evidence, NoResults, Units, of_statistic, withheld
from cwr_mech.findings.evidence import Saved, across, by_bases
from cwr_mech.findings.finetuned import REPLAYED, kept, retention, trained, transient
from cwr_mech.findings.pretrained import CKA, LEAST_TASKS
from cwr_mech.tasks.registry import PAPER_TASKS

HIGHEST_R = 0.999
"""Correlations of few pairs may be 1, whose Fisher z is infinite."""
ASKED = (REPLAYED[0], REPLAYED[-1])
"""Of which fine-tunings it is asked: plain ones, and those that replay enough to forget little."""
LEAST_PAIRS = 10
"""Pairs of tasks that a correlation needs: those of five tasks."""
SMALLEST: dict[str, Any] = {
    "smallest": round(math.atanh(0.3), 2),
    "why": "r = 0.3 explains 9 % of the variance",
}


def relation_claims() -> Iterator[Claim]:
    """Does representational similarity of single-task models predict transfer? Tasks are the units."""
    claim = partial(Claim, question="relation")
    for start, words, condition in ASKED:
        for end, more, left_out, key in (
            ("", "", ("crossing",), "r"),
            (
                "-without-distance",
                " once distance is left out",
                ("crossing", "distance"),
                "r_without_distance",
            ),
        ):
            yield claim(
                id=f"{start}similarity-predicts-transfer{end}",
                statement="Tasks whose single-task models are more similar teach each other more"
                f"{words}{more}",
                contrast="Fisher's z (arctanh of r) over pairs of tasks: CKA of single-task models with "
                f"improvement{words}, both ways averaged",
                evidence=partial(_relation, left_out=left_out, condition=condition),
                **SMALLEST,
                published=math.atanh(content()["similarity_predicts_transfer"][key]),
                incomparable=partial(transient, condition=condition),
                units="tasks",
                control=_remembered(condition),
            )
    yield from filter(None, (_remembered(condition) for _, _, condition in ASKED))


def _remembered(condition: str) -> Claim | None:
    """The control of transfer with replay, over all fine-tunings. Plain ones forget, and are said to."""
    if condition == PLAIN:
        return None
    control = retention(condition)
    return replace(
        control,
        id=f"{control.id}-of-all",
        question="relation",
        statement=f"{control.statement}, whichever task is trained",
        evidence=lambda saved: kept(saved.explored(), condition, PAPER_TASKS),
    )


def _relation(saved: Saved, left_out: tuple[str, ...], condition: str) -> Evidence:
    """Correlation over pairs of learned tasks: jackknife over tasks, p by relabelling tasks (Mantel). With
    replay, of the first bases, as others are not fine-tuned on every task so."""
    singles = saved.singles
    saved = saved if condition == PLAIN else saved.explored()
    taught = {task: saved.by_task(task, condition) for task in trained(saved, condition)}
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
        return _fisher(one, two)

    test = mantel_test(x, y, np.random.default_rng(0), alternative="two-sided")
    return of_statistic(lambda kept: z(list(kept)), range(len(tasks)), unit="task", p=test.p)


def _fisher(x: np.ndarray, y: np.ndarray) -> float:
    """Fisher's z of a correlation."""
    return math.atanh(float(np.clip(np.corrcoef(x, y)[0, 1], -HIGHEST_R, HIGHEST_R)))


def beforehand_claims() -> Iterator[Claim]:
    """Can transfer be told from a base, before any fine-tuning?"""
    for start, words, condition in ASKED:
        yield Claim(
            id=f"{start}gradients-predict-transfer",
            question="beforehand",
            statement=f"Tasks whose gradients at cities are alike in a base teach each other more{words}",
            contrast="Fisher's z (arctanh of r) over pairs of tasks: alignment of gradients at training "
            f"cities (debiased CKA, layer and token of `predict`) with improvement{words}, both ways "
            "averaged",
            evidence=partial(_foretold, condition=condition),
            **SMALLEST,
            control=_remembered(condition),
        )


def _foretold(saved: Saved, condition: str) -> Units:
    """Base -> z over pairs of tasks that it has learned."""
    rows = saved.table("prediction", "pairs")
    rows = rows[(rows["predictor"] == "alignment") & rows["from"].str.startswith("step")]
    taught = saved.improvements(condition).pivot_table(index=["base", "set"], columns="task", values="ni")
    found = {}
    for base, mine in rows.groupby("run"):
        last = mine[mine["from"] == max(mine["from"], key=lambda word: int(word.removeprefix("step ")))]
        x, y = [], []
        for a, b, value in zip(last["a"], last["b"], last["value"], strict=True):
            ways = [
                taught.loc[(base, one), other]
                for one, other in ((a, b), (b, a))
                if (base, one) in taught.index and other in taught.columns
            ]
            if len(ways) == 2 and np.isfinite([*ways, value]).all():
                x.append(value)
                y.append(sum(ways) / 2)
        if len(x) >= LEAST_PAIRS and min(np.ptp(x), np.ptp(y)) > 0:
            found[str(base)] = _fisher(np.array(x), np.array(y))
    return found


CLAIMS = (*relation_claims(), *(row for claim in beforehand_claims() for row in by_bases(claim)))
