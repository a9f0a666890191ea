"""Is the map that a probe finds used by the model?"""

from itertools import product
from typing import Annotated

from cwr_mech.analysis.study import Names, Opt, RunArg, Seed, Step, each, names, study, uses
from cwr_mech.errors import UnknownName
from cwr_mech.results import Result


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
    from cwr_mech.analysis.erasure.erasure import erase_task, erasure_result
    from cwr_mech.analysis.sources import run_of
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
    table = []
    for task, block in each(product(chosen, blocks), "erasing", "blocks"):
        table += erase_task(model, world, task, int(block), n_fit=fit, n_test=rows, seed=seed)
    return erasure_result(found.name, table, fit=fit, seed=seed)
