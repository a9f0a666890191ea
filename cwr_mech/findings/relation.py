"""Does similarity of single-task models predict what fine-tuning on one task teaches another?

The paper correlates 30 ordered pairs of tasks. Here the same is done with and without distance, which carries
the published correlation, and within each asked task, since some tasks are easy to reach from anywhere. Cells
that share a task are not independent, so p relabels the tasks (Mantel) on symmetrised transfer.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from cwr_mech.analysis.prediction.predictors import EXACT_DRAWS
from cwr_mech.analysis.prediction.study import VARIANTS
from cwr_mech.analysis.published import correlate, matrix
from cwr_mech.analysis.stats.testing import mantel_test
from cwr_mech.findings.claims import CKA, Saved
from cwr_mech.results import Result, Row
from cwr_mech.tasks.registry import PAPER_TASKS

LEAST_TASKS = 4
"""Fewer tasks have too few relabellings to tell anything."""

TaskMatrix = Float[np.ndarray, "task task"]


def relation_result(saved: Saved, inputs: Mapping[str, str], command: str) -> Result:
    """The result of kind "relation" from saved results of kinds "similarity" and "transfer".

    Table `correlations`: similarity "published" or "own", transfer "published" or "here", over the tasks for
    which all is known.
    """
    own, here = own_similarity(saved, saved.alone()), own_transfer(saved)
    combinations = (
        ("published", matrix("cka"), "published", matrix("transfer")),
        ("published", matrix("cka"), "here", here),
        ("own", own, "here", here),
    )
    rows: list[Row] = []
    for name, similarity, outcome, transfer in combinations:
        shown: list[list[int]] = []
        for pairs, leave_out, trainers in VARIANTS:
            kept = known_tasks(similarity, transfer, leave_out)
            if not trainers and len(kept) >= LEAST_TASKS and kept not in shown:
                shown.append(kept)
                row: Row = {"similarity": name, "transfer": outcome, "pairs": pairs}
                rows.append(row | correlation(similarity, transfer, kept))
    return Result(
        kind="relation",
        command=command,
        inputs=dict(inputs),
        params={"runs": saved.alone(), "draws": EXACT_DRAWS},
        tables={"correlations": rows},
        arrays={"similarity": own, "transfer": here, "tasks": np.array(PAPER_TASKS)},
        notes=[
            "Similarity: CKA of single-task models, mean over seeds. Transfer: "
            "improvement on new cities, trained task by asked task, mean over bases; tasks that no base has "
            "learned are left out.",
            "p: one-sided, over relabellings of the tasks. Within asked tasks: the mean of each asked task "
            "is taken out of both.",
        ],
    )


def correlation(similarity: TaskMatrix, transfer: TaskMatrix, kept: list[int]) -> Row:
    """What a table says of the tasks `kept` (their places in PAPER_TASKS)."""
    names = [PAPER_TASKS[index] for index in kept]
    x, y = (values[np.ix_(kept, kept)] for values in (similarity, transfer))
    found = correlate(x, y, names)
    test = mantel_test(x, (y + y.T) / 2, np.random.default_rng(0), draws=EXACT_DRAWS)
    return {
        "tasks": len(kept),
        "without": ", ".join(task for task in PAPER_TASKS if task not in names),
        "n": found.n,
        "r": found.r,
        "r2": found.r2,
        "slope": found.slope,
        "p": test.p,
        "r_adjusted": found.r_adjusted,
    }


def known_tasks(similarity: TaskMatrix, transfer: TaskMatrix, leave_out: tuple[str, ...]) -> list[int]:
    """Places of the tasks all of whose pairs are known; tasks with most gaps are left out first."""
    kept = [index for index, task in enumerate(PAPER_TASKS) if task not in leave_out]
    gaps = ~np.isfinite(similarity + similarity.T + transfer + transfer.T)
    np.fill_diagonal(gaps, False)
    while kept and gaps[np.ix_(kept, kept)].any():
        kept.pop(int(gaps[np.ix_(kept, kept)].sum(axis=1).argmax()))
    return kept


def own_similarity(saved: Saved, runs: Sequence[str]) -> TaskMatrix:
    """CKA between the models `runs` of one task each, mean over pairs of models; NaN without any."""
    found = np.full((len(PAPER_TASKS), len(PAPER_TASKS)), np.nan)
    for pair, value in saved.single_task_pairs(runs, CKA).items():
        if not {*pair} <= {*PAPER_TASKS}:
            continue
        i, j = (PAPER_TASKS.index(task) for task in pair)
        found[i, j] = found[j, i] = value
    return found


def own_transfer(saved: Saved) -> TaskMatrix:
    """Improvement by trained and asked task, mean over bases; NaN without any."""
    found = np.full((len(PAPER_TASKS), len(PAPER_TASKS)), np.nan)
    for (trained, asked), values in saved.improvements().items():
        if trained in PAPER_TASKS and asked in PAPER_TASKS:
            found[PAPER_TASKS.index(trained), PAPER_TASKS.index(asked)] = np.mean(list(values.values()))
    return found
