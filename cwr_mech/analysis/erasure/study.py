"""Is the map that a probe finds used by the model?"""

from itertools import product
from typing import Annotated

from cwr_mech.analysis.study import Names, Opt, RunArg, Seed, Step, each, names, study, uses
from cwr_mech.errors import UnknownName
from cwr_mech.results import Result, Row, groups


@study("erase")
def erase(
    run: RunArg = None,
    *,
    layers: Annotated[Names, Opt("Blocks, e.g. 0,2; all by default.")] = None,
    tasks: Annotated[Names, Opt("Tasks; the run's own by default.")] = None,
    rows: Annotated[int, Opt("Test questions a task.", min=20, short="-n")] = 300,
    fit: Annotated[int, Opt("Training questions that the erasers are fitted on.", min=50)] = 1500,
    seed: Seed = 0,
    step: Step = None,
) -> Result:
    """Erase the coordinate subspace (LEACE) after a block, at every city's last digit and delimiter.

    Says how much of what the model gains over a constant-prediction baseline is lost, beside random subspaces
    of equal rank.
    """
    from cwr_mech.analysis.erasure.erasure import RANK, erase_task
    from cwr_mech.analysis.sources import run_of
    from cwr_mech.analysis.stats.means import mean_of
    from cwr_mech.tasks.registry import get_task

    found = run_of(run)
    model, world = found.model(step), found.world()
    known = [str(layer) for layer in range(model.cfg.n_layers)]
    blocks = names(layers) or known
    for block in blocks:
        if block not in known:
            raise UnknownName("block", block, known)
    chosen = [get_task(task).name for task in names(tasks) or found.config.data.tasks]
    uses((found.checkpoint(step) / "model.safetensors").as_posix(), found.sha256(step))
    table: list[Row] = []
    for task, block in each(product(chosen, blocks), "erasing", "blocks"):
        table += erase_task(model, world, task, int(block), n_fit=fit, n_test=rows, seed=seed)
    conditions = groups(table, "condition").items()
    return Result(
        kind="erasure",
        params={"runs": [found.name], "fit": fit, "seed": seed, "rank": RANK},
        values={f"lost_{name}": mean_of(row["lost"] for row in mine) for name, mine in conditions},
        tables={"conditions": table},
        notes=[
            "Lost: share of what the model gains over the best constant answer; 0 nothing, 1 everything, "
            "more than 1: worse than the constant. Intervals: 95 %, bootstrap over questions.",
            f"Controls: random subspaces of rank {RANK}, uniform, and like the activations (which take "
            "away as much of what varies). R2 after: a new probe, on erased activations of other questions.",
            "Erased at the last digit and the delimiter of every city, after one block; copies of a place "
            "that later tokens made before that block are not erased.",
        ],
    )
