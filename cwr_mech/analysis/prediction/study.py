"""Can divergence be told before training?"""

from typing import Annotated

from cwr_mech.analysis.study import Names, Opt, QuestionSeed, RunArg, names, study, uses
from cwr_mech.results import Result


@study("predict")
def predict(
    run: RunArg = None,
    *,
    layer: Annotated[int, Opt("Layer of the gradients.", min=0)] = 1,
    site: Annotated[str, Opt("Token position of a city.")] = "last_digit",
    rows: Annotated[int, Opt("Questions for each task.", min=64)] = 2048,
    outcomes: Annotated[
        Names, Opt("Saved transfer results (JSON files) whose own transfer is an outcome, too.")
    ] = None,
    seed: QuestionSeed = 0,
) -> Result:
    """Can divergence be told before training? From the tasks' gradients, early, and the tasks themselves.

    Their similarity is held against published similarity and transfer and against own transfer, by
    permutation over tasks. The run is one of all seven tasks, with its checkpoints.
    """
    from functools import partial
    from pathlib import Path

    from cwr_mech.analysis.prediction.tables import moments, own_outcomes, prediction_result
    from cwr_mech.analysis.sources import run_of, untrained_state

    found = run_of(run)
    uses(found.source, found.sha256())
    known = own_outcomes([Path(name) for name in names(outcomes) or ()])
    models = {"untrained": untrained_state(found)[2]}
    models |= {f"step {step}": partial(found.model, step) for step in moments(found.steps) if step}
    return prediction_result(
        models, found.world(), known, run=found.name, layer=layer, site=site, n_rows=rows, seed=seed
    )
