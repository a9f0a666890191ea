"""When the map forms: probe, likeness to the final model and dimension at every checkpoint, as a Result."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cwr_mech.activations.reader import ActivationStore
from cwr_mech.analysis.manifold.manifold import fit_manifold
from cwr_mech.analysis.probing.dimension import spectrum
from cwr_mech.analysis.probing.probe import probe, r2_interval, random_folds
from cwr_mech.analysis.selection import layer_number, shared_ids
from cwr_mech.analysis.similarity.cka import linear_cka_interval
from cwr_mech.analysis.similarity.neighbours import twonn
from cwr_mech.errors import AnalysisError
from cwr_mech.results import Result

Row = dict[str, Any]


def timeline_result(
    run: str,
    stores: Mapping[int, ActivationStore],
    hook: str,
    task: str,
    site: str,
    *,
    rows_a_step: int,
    draws: int = 5,
    seed: int = 0,
    advance: Callable[[int], object] = lambda n: None,
) -> Result:
    """`stores`: step -> activation file, of one run. Table `steps`, a row for each; the last step is the one
    that the others are compared with. Raises AnalysisError for fewer than two steps.
    """
    if len(stores) < 2:
        raise AnalysisError(f"run {run} has {len(stores)} checkpoint(s)", "a timeline needs two")
    steps = sorted(stores)
    ids = shared_ids(list(stores.values()), "old")
    first = stores[steps[0]]
    xy = first.xy[first.rows(ids)]
    fold = random_folds(len(ids), np.random.default_rng([seed, 0]))
    final = stores[steps[-1]].get(hook, task, site, ids)
    rows: list[Row] = []
    for step in steps:
        x = stores[step].get(hook, task, site, ids)
        rng = np.random.default_rng([seed, step])
        found = probe(x, xy, fold, rng, draws=draws)
        precision = r2_interval(found.decoded, xy, rng)
        share = fit_manifold(x, xy, seed=seed).share
        likeness = linear_cka_interval(x, final)
        counted = spectrum(x)
        last = step == steps[-1]
        rows.append(
            {
                "run": run,
                "step": step,
                "rows": step * rows_a_step,
                "r2": found.score.r2,
                "r2_lo": precision.lo,
                "r2_hi": precision.hi,
                "r2_shuffled": float(found.shuffled.mean()),
                "error_median": found.score.error_median,
                "share": share.value,
                "share_lo": share.lo,
                "share_hi": share.hi,
                "cka_final": likeness.value,
                "cka_final_lo": None if last else likeness.lo,
                "cka_final_hi": None if last else likeness.hi,
                "participation_singular": counted.participation_singular,
                "twonn": twonn(x),
            }
        )
        advance(1)
    return Result(
        kind="timeline",
        params={
            "runs": [run],
            "hook": hook,
            "layer": layer_number(hook, first.hooks),
            "task": task,
            "site": site,
            "draws": draws,
            "seed": seed,
        },
        values={"n": len(ids), "r2_final": rows[-1]["r2"]},
        tables={"steps": rows},
        notes=[
            f"{len(ids)} old cities, prompt {task}; held-out R2 of a ridge probe, control: shuffled places.",
            "CKA with the last checkpoint is debiased, its interval over cities; at the last step it is 1.",
        ],
    )
