"""Do updates run on the manifold or off it, and would we see it if they did not?"""

from typing import Annotated

from cwr_mech.analysis.study import (
    ActivationFiles,
    FineTunedArg,
    Names,
    Opt,
    OwnTasks,
    QuestionSeed,
    RunArg,
    Seed,
    Sites,
    Step,
    each,
    names,
    stage,
    study,
    uses,
)
from cwr_mech.results import Result


@study("subspace")
def subspace(
    run: RunArg = None,
    *,
    tasks: OwnTasks = "own",
    layers: Annotated[Names, Opt("Layers, e.g. embed,0,2; all blocks by default.")] = None,
    sites: Sites = "last_digit,delimiter",
    rank: Annotated[
        int | None, Opt("Directions of the manifold; as many as carry 95 % by default.", min=1)
    ] = None,
    rows: Annotated[int, Opt("Questions drawn for each task and group.", min=64)] = 768,
    lr: Annotated[float, Opt("Learning rate of the one step.")] = 1e-4,
    seed: Annotated[int, Opt("Seed of questions, halves and draws.", min=0)] = 0,
    step: Step = None,
    activations: ActivationFiles = None,
) -> Result:
    """Share of each task's updates of new and training cities inside the manifold's directions.

    Beside random directions; and whether updates move a city towards its true coordinates. Three kinds of
    update: gradient of the loss at the city, one Adam step, one plain step. Bases are fitted on training
    cities, which are measured in the basis of the half they are not in.
    """
    from cwr_mech.activations.reader import ActivationStore
    from cwr_mech.activations.site import Site
    from cwr_mech.analysis.routing.tables import Asked, subspace_result
    from cwr_mech.analysis.sources import run_of, tasks_named
    from cwr_mech.errors import AnalysisError
    from cwr_mech.experiments.finetuning import in_order

    found = run_of(run)
    asked, places = in_order(tasks_named(tasks, found)), names(sites) or []
    digest, world, depth = found.sha256(step), found.world(), found.config.model.n_layers
    uses(found.source, digest)
    file = next(iter(names(activations) or ()), None)
    store = ActivationStore(file, world=world, model_sha256=digest) if file else None
    numbers = [Site.parse(name, depth).number(depth) for name in names(layers) or ()]
    if depth in numbers:
        raise AnalysisError(
            "no update of a city is measured after the final norm", f"choose layers from embed to {depth - 1}"
        )
    batch = min(found.config.train.batch_size, rows // 4)
    what = Asked(numbers or range(depth), places, rank, rows, batch, lr, seed)
    return subspace_result(found.model(step), world, asked, what, run=found.name, store=store)


@study("conflict")
def conflict(
    run: RunArg = None,
    *,
    tasks: OwnTasks = "own",
    batch: Annotated[int, Opt("Questions of a gradient; each task has 16.", min=1)] = 32,
    rank: Annotated[int, Opt("Leading directions of a task's gradients.", min=1)] = 4,
    seed: QuestionSeed = 0,
    step: Step = None,
) -> Result:
    """Do tasks pull the weights the same way? Cosines and subspaces of their gradients, matrix by matrix."""
    from cwr_mech.analysis.routing.conflict import conflict_result
    from cwr_mech.analysis.sources import run_of, tasks_named
    from cwr_mech.experiments.finetuning import in_order

    found = run_of(run)
    asked = in_order(tasks_named(tasks, found))
    uses(found.source, found.sha256(step))
    return conflict_result(
        found.model(step), found.world(), asked, run=found.name, batch=batch, rank=rank, seed=seed
    )


@study("trajectory")
def trajectory(
    runs: FineTunedArg = None,
    *,
    prompts: Annotated[
        Names, Opt("Prompts to read cities in: own (of the trained tasks), all, or tasks by name.")
    ] = "own",
    last: Annotated[bool, Opt("Only the first and the last checkpoint.")] = False,
    seed: Annotated[int, Opt("Seed of the intervals.", min=0)] = 0,
) -> Result:
    """Where fine-tuning puts new cities, checkpoint by checkpoint: displaced on the manifold, or off it?

    Beside training cities. Each prompt is read at the site at which the base's answers read a city, found by
    interchange, and at the site where its map is clearest. Prompts of tasks that were not trained are read at
    the first and the last checkpoint.
    """
    from cwr_mech.analysis.routing.trajectory import trajectory_result
    from cwr_mech.analysis.transfer.runs import check_worlds, fine_tunings
    from cwr_mech.experiments.finetuning import in_order
    from cwr_mech.tasks.registry import TASKS

    tuned = fine_tunings(names(runs))
    check_worlds(tuned)
    asked = None if prompts == "own" else in_order(list(TASKS) if prompts == "all" else names(prompts) or [])
    for run in tuned:
        uses(run.source, run.sha256())
    return trajectory_result(tuned, asked, last=last, seed=seed)


@study("routing-power")
def routing_power(
    runs: Annotated[
        Names, Opt("Bases, or their fine-tunings on the single tasks: at least three bases.")
    ] = None,
    *,
    task: Annotated[str, Opt("Task into whose displacements codes are written.")] = "distance",
    others: Annotated[Names, Opt("Tasks that it is held against.")] = "angle,compass,perimeter",
    draws: Annotated[int, Opt("Draws for each code.", min=10)] = 200,
    seed: Seed = 0,
) -> Result:
    """Planted truth for the routing test: hidden codes written off the manifold into real displacements.

    In which share of draws does the reported statistic (raw share at the reading site, contrast over bases)
    find a linear code and a cluster code, and how often does it find what is not there?
    """
    from cwr_mech.analysis.patching.sites import first_read
    from cwr_mech.analysis.routing.planted import ERROR, SEPARATION, moved_by, power_rows, share_contrast
    from cwr_mech.analysis.transfer.runs import usual_fine_tunings

    tasks = (task, *(names(others) or ()))
    bases = usual_fine_tunings(names(runs), tasks)
    moved, shares = [], []
    for base, tuned in each(bases, "displacements", "bases"):
        for run in (base, *tuned.values()):
            uses(run.source, run.sha256())
        site = first_read(base.model(), base.world(), base.config.data.tasks).primary
        moved.append(moved_by(base, tuned, site))
        place = {"layer": site.number(), "position": site.position}
        for name, share in moved[-1].shares().items():
            shares.append({"base": base.name, "task": name, **place, "share": share})
    with stage("draws", draws, "draws") as advance:
        power = power_rows(moved, task, draws, seed)
        advance(draws)
    found = share_contrast([base.shares() for base in moved], task, tasks[1:])
    return Result(
        kind="routing_power",
        params={"bases": [base.base for base in moved], "task": task, "others": list(tasks[1:])}
        | {"draws": draws, "seed": seed, "error": ERROR, "separation": SEPARATION},
        values=found.columns("contrast"),
        tables={"power": power, "shares": shares},
        notes=[
            f"Statistic: raw share of new cities' displacement in the manifold's directions, {task} minus "
            f"the mean of {', '.join(tasks[1:])}; {len(moved)} bases are the units. Found: the upper end of "
            "the 90 % interval lies below 0.",
            f"linear: coordinates readable with an error of {ERROR:g} off the manifold; cluster: one "
            f"direction off the manifold, d' = {SEPARATION:g}; on: the linear code inside the manifold's "
            "directions; dealt: displacements dealt to the tasks at random. The last two must not be found.",
        ],
    )
