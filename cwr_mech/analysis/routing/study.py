"""Do updates run on the manifold or off it, and would we see it if they did not?"""

from typing import Annotated

from cwr_mech.analysis.study import Names, Opt, names, stage, study, uses
from cwr_mech.results import Result


@study("routing-power")
def routing_power(
    runs: Annotated[
        Names, Opt("Bases, or their fine-tunings on the single tasks: at least three bases.")
    ] = None,
    *,
    task: Annotated[str, Opt("Task into whose displacements codes are written.")] = "distance",
    others: Annotated[Names, Opt("Tasks that it is held against.")] = "angle,compass,perimeter",
    draws: Annotated[int, Opt("Draws for each code.", min=10)] = 200,
    seed: Annotated[int, Opt("Seed of the draws.", min=0)] = 0,
) -> Result:
    """Planted truth for the routing test: hidden codes written off the manifold into real displacements.

    In which share of draws does the reported statistic (raw share at the reading site, contrast over bases)
    find a linear code and a cluster code, and how often does it find what is not there?
    """
    from cwr_mech.analysis.patching.sites import first_read
    from cwr_mech.analysis.routing.planted import moved_by, power_result
    from cwr_mech.analysis.transfer.runs import usual_fine_tunings

    tasks = (task, *(names(others) or ()))
    bases = usual_fine_tunings(names(runs), tasks)
    moved = []
    with stage("displacements", len(bases), "bases") as advance:
        for base, tuned in bases:
            for run in (base, *tuned.values()):
                uses(run.source, run.sha256())
            site = first_read(base.model(), base.world(), base.config.data.tasks).primary
            moved.append((moved_by(base, tuned, site), site))
            advance(1)
    with stage("draws", draws, "draws") as advance:
        result = power_result(moved, task, draws, seed)
        advance(draws)
    return result
