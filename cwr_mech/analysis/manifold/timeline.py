"""When the map forms: probe, similarity to the final model and dimension at every checkpoint, as a Result."""

from collections.abc import Mapping

import numpy as np

from cwr_mech.activations.reader import ActivationStore
from cwr_mech.analysis.manifold.manifold import fit_manifold
from cwr_mech.analysis.probing.dimension import spectrum
from cwr_mech.analysis.probing.probe import TrainingCities, probe, r2_interval
from cwr_mech.analysis.selection import layer_number
from cwr_mech.analysis.similarity.cka import linear_cka_interval
from cwr_mech.analysis.study import each
from cwr_mech.results import Result, Row


def timeline_result(
    run: str,
    stores: Mapping[int, ActivationStore],
    hook: str,
    task: str,
    site: str,
    *,
    rows_a_step: int,
    draws: int,
    seed: int,
) -> Result:
    """`stores`: step -> activation file, of one run. Table `steps`, a row for each; the last step is the one
    that the others are compared with.
    """
    steps = sorted(stores)
    known = TrainingCities.of([stores[step] for step in steps], seed=seed)
    ids, xy, fold = known.ids, known.xy, known.fold
    final = stores[steps[-1]].get(hook, task, site, ids)
    rows: list[Row] = []
    for step in each(steps, "probes", "checkpoints"):
        x = stores[step].get(hook, task, site, ids)
        rng = np.random.default_rng([seed, step])
        decoded, found = probe(x, xy, fold, rng, draws=draws)
        precision = r2_interval(decoded, xy, rng)
        share = fit_manifold(x, xy, seed=seed).share
        similarity = linear_cka_interval(x, final)
        counted = spectrum(x)
        last = step == steps[-1]
        rows.append(
            {
                "run": run,
                "step": step,
                "rows": step * rows_a_step,
                "r2": found["r2"],
                "r2_lo": precision.lo,
                "r2_hi": precision.hi,
                "r2_shuffled": found["control_r2_shuffled"],
                "error_median": found["error_median"],
                **share.columns("share"),
                "cka_final": similarity.value,
                "cka_final_lo": None if last else similarity.lo,
                "cka_final_hi": None if last else similarity.hi,
                "participation_singular": counted["participation_singular"],
                "twonn": counted["twonn"],
            }
        )
    return Result(
        kind="timeline",
        params={
            "runs": [run],
            "hook": hook,
            "layer": layer_number(hook, stores[steps[0]].hooks),
            "task": task,
            "site": site,
            "draws": draws,
            "seed": seed,
        },
        values={"n": len(ids), "r2_final": rows[-1]["r2"]},
        tables={"steps": rows},
        notes=[
            f"{len(ids)} training cities, prompt {task}; held-out R2 of a ridge probe; control: shuffled.",
            "CKA with the last checkpoint is debiased, its interval over cities; at the last step it is 1.",
        ],
    )
