"""Claims about fine-tunings whose gradients at the tokens of new cities are projected: on- or off-manifold,
with all other gradients free, and with all others cut.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from statistics import mean

from cwr_mech.config import RouteConfig, parse
from cwr_mech.experiments.finetuning import HALF_REHEARSED, PLAIN
from cwr_mech.experiments.ripe import CUT_ROUTES, RIPE_ROUTES
from cwr_mech.findings.claims import Claim, Evidence, NoResults, Units, of_units, withheld
from cwr_mech.findings.evidence import Saved, by_bases, mean_over, minus
from cwr_mech.findings.finetuned import TENTH, TENTH_WHY, kept

DIVERGENT = "distance"


def _labels(rows: str, routes: Sequence[Mapping[str, object]], end: str = "") -> list[str]:
    """Conditions as results name them (`cwr_mech.experiments.finetuning.condition_of`)."""
    return [f"{rows}, {parse(RouteConfig, dict(route)).name}{end}" for route in routes]


ON, OFF, *MATCHED = _labels(PLAIN, RIPE_ROUTES)
"""Conditions of the gradient at the tokens of new cities: on- and off-manifold, and on covariance-matched
subspaces, several draws."""
CITY_SIDE = ", only E+L0+L1"
CUT_WHOLE, CUT_ON, CUT_OFF, CUT_MATCHED, CUT_REST = _labels(HALF_REHEARSED, CUT_ROUTES, CITY_SIDE)
"""The same where only the city side is trained and the gradient cut elsewhere: whole, on- and off-manifold,
on covariance-matched directions, and on the rest without these."""
PROJECTED_AT = (1, "digit3+last_digit")
"""Layer and tokens at which the plan `ripe` projects gradients."""
PROJECTED_TASKS = ("distance", "angle", "compass")
CUT_TASKS = ("distance", "compass")
"""The divergent task, and one that converges, which are trained with the gradient cut."""
CUT_LATER = "angle"
"""Another that converges, trained so in the first bases alone."""


def condition_claims() -> Iterator[Claim]:
    """What answers say when gradients at city tokens are projected on or off the manifold."""
    claim = partial(Claim, question="conditions", smallest=TENTH, why=TENTH_WHY)
    for task in PROJECTED_TASKS:
        yield claim(
            id=f"off-manifold-own-{task}",
            statement=f"With gradients projected off-manifold, fine-tuning on {task} still teaches {task}",
            contrast="normalised improvement in the trained task, gradients off-manifold",
            evidence=_where_read(partial(Saved.own, task=task, condition=OFF), task),
        )
        yield claim(
            id=f"off-manifold-others-{task}",
            statement=f"With gradients projected off-manifold, fine-tuning on {task} still teaches the "
            f"other tasks",
            contrast="mean normalised improvement in untrained tasks, gradients off-manifold",
            evidence=_where_read(partial(Saved.others, task=task, condition=OFF), task),
        )
        yield claim(
            id=f"on-manifold-own-{task}",
            statement=f"Gradients projected on-manifold teach {task} more than gradients projected on "
            "directions in which activations vary as much",
            contrast="improvement in the trained task: on-manifold, minus covariance-matched",
            evidence=_where_read(partial(_beyond_matched, task=task), task),
        )
    yield claim(
        id="repair-on-manifold",
        statement="With gradients projected on-manifold, fine-tuning on distance teaches the other tasks "
        "more",
        contrast="mean improvement in untrained tasks: on-manifold, minus unprojected",
        evidence=_where_read(
            lambda saved: minus(saved.others(DIVERGENT, ON), saved.others(DIVERGENT)), DIVERGENT
        ),
    )
    yield claim(
        id="on-manifold-keeps",
        statement="Projecting gradients on-manifold costs the trained task",
        contrast="improvement in the trained task: on-manifold, minus unprojected; mean of three tasks",
        evidence=lambda saved: mean_over([minus(saved.own(t, ON), saved.own(t)) for t in PROJECTED_TASKS]),
        predicted="below",
        kind="control",
    )


def _where_read(units: Callable[[Saved], Units], task: str) -> Callable[[Saved], Evidence]:
    """Only of bases that read the task's city where gradients are projected: elsewhere it is no test of the
    route (a rule of reports/PREREGISTRATION.md).
    """

    def found(saved: Saved) -> Evidence:
        every, read = units(saved), read_at(saved)
        kept = {base: value for base, value in every.items() if read.get((base, task)) == PROJECTED_AT}
        where = "where gradients are projected (L{}, {})".format(*PROJECTED_AT)
        reason = f"{len(kept)} of {len(every)} bases read {task} {where}"
        return replace(of_units(kept), reason=reason) if kept else withheld(reason)

    return found


def _beyond_matched(saved: Saved, task: str) -> Units:
    """On-manifold minus the mean of the covariance-matched draws that were trained."""
    draws: list[Units] = []
    for condition in MATCHED:
        with suppress(NoResults):
            draws.append(saved.own(task, condition))
    return minus(saved.own(task, ON), mean_over([draw for draw in draws if draw]))


def read_at(saved: Saved) -> dict[tuple[str, str], tuple[int, str]]:
    """(base, task) -> layer and token position at which interchange moves answers; weak sites left out."""
    found = {}
    for result in saved.results.values():
        if result.kind == "sites":
            run = str(result.params["run"]).removeprefix("zoo:")
            for row in result.tables["reading"]:
                if row["slot"] == 0 and not row["weak"]:
                    found[run, row["task"]] = (row["layer"], row["position"])
    if not found:
        raise NoResults("the sites at which bases read cities are not among the results")
    return found


def cut_claims() -> Iterator[Claim]:
    """Where updates have no way round: through which directions of new cities do they run?"""
    control = _retention("cut-retention", CUT_TASKS)
    claim = partial(Claim, question="cut", smallest=TENTH, why=TENTH_WHY, control=control)
    yield _more_than("compass", "cut-route-distance-more", control)
    yield claim(
        id="cut-manifold-serves-distance-less",
        statement="The manifold's directions serve distance less than compass",
        contrast="improvement in the trained task: on-manifold minus covariance-matched; trained on compass "
        "minus trained on distance",
        evidence=_more_in("compass", "distance", _on_minus_matched),
    )
    for task in CUT_TASKS:
        yield from _task_claims(task, control)
    yield control


def later_cut_claims() -> Iterator[Claim]:
    """The same of CUT_LATER beside distance."""
    control = _retention(f"cut-retention-{CUT_LATER}", (CUT_LATER,))
    yield _more_than(CUT_LATER, f"cut-route-distance-more-than-{CUT_LATER}", control)
    yield from _task_claims(CUT_LATER, control)
    yield control


def _more_than(task: str, name: str, control: Claim) -> Claim:
    """Distance runs off the manifold more than another task does."""
    return Claim(
        id=name,
        question="cut",
        statement=f"Distance depends on directions off the manifold more than {task} does",
        contrast="improvement in the trained task: off-manifold minus on-manifold; trained on distance minus "
        f"trained on {task}",
        evidence=_more_in(DIVERGENT, task, _off_minus_on),
        smallest=TENTH,
        why=TENTH_WHY,
        control=control,
    )


def _task_claims(task: str, control: Claim) -> Iterator[Claim]:
    """Whether a task is learned where updates have no way round, and through which directions."""
    claim = partial(Claim, question="cut", smallest=TENTH, why=TENTH_WHY, control=control)
    through = partial(_through, tasks=(task,))
    yield claim(
        id=f"cut-own-{task}",
        statement=f"Through new cities' activations alone, the city side learns {task} about them",
        contrast="normalised improvement in the trained task, whole gradient",
        evidence=partial(Saved.own, task=task, condition=CUT_WHOLE),
        kind="manipulation check",
    )
    yield claim(
        id=f"cut-off-manifold-own-{task}",
        statement=f"Updates that run off-manifold alone teach {task}",
        contrast="normalised improvement in the trained task, gradients off-manifold",
        evidence=through(partial(Saved.own, task=task, condition=CUT_OFF)),
    )
    yield claim(
        id=f"cut-on-manifold-own-{task}",
        statement=f"Updates that run on-manifold teach {task} more than updates on directions in which "
        "activations vary as much",
        contrast="improvement in the trained task: on-manifold, minus covariance-matched",
        evidence=through(partial(_on_minus_matched, task=task)),
    )
    yield claim(
        id=f"cut-without-manifold-{task}",
        statement=f"{task.capitalize()} is learned less without the manifold's directions than without "
        "as many others in which activations vary as much",
        contrast="improvement in the trained task: without covariance-matched directions, minus off-manifold",
        evidence=through(partial(_contrast, which=Saved.own, task=task, a=CUT_REST, b=CUT_OFF)),
    )
    yield claim(
        id=f"cut-on-manifold-others-{task}",
        statement=f"Updates of {task} that run on-manifold teach the untrained tasks more than "
        "updates that run off-manifold",
        contrast="mean improvement in untrained tasks: on-manifold, minus off-manifold",
        evidence=through(partial(_contrast, which=Saved.others, task=task, a=CUT_ON, b=CUT_OFF)),
    )


def _retention(name: str, tasks: Sequence[str]) -> Claim:
    """The control of claims about these tasks, each trained with the gradient cut."""
    return Claim(
        id=name,
        question="cut",
        statement="Fine-tuning through new cities' activations alone keeps what the model knew about "
        "training cities in untrained tasks",
        contrast="change on training cities in untrained tasks, as a share of the gap (0: kept), whole "
        "gradient" + (f"; mean of {' and '.join(tasks)}" if len(tasks) > 1 else f", trained on {tasks[0]}"),
        evidence=partial(kept, condition=CUT_WHOLE, sets=tasks),
        against=-TENTH,
        smallest=0.0,
        why="a threshold: a loss of a tenth of the gap between held-out and training cities",
        kind="control",
    )


def _through(units: Callable[[Saved], Units], tasks: Sequence[str]) -> Callable[[Saved], Evidence]:
    """Only where the tasks are learned with the whole gradient: a task that improves by less than is of
    interest has no route to speak of (a rule of reports/PREREGISTRATION.md).
    """

    def found(saved: Saved) -> Evidence:
        for task in tasks:
            whole = saved.own(task, CUT_WHOLE)
            if not whole:
                raise NoResults(f"no fine-tuning on {task} of these bases ({CUT_WHOLE})")
            if mean(whole.values()) < TENTH:
                return withheld(f"{task} improves by {mean(whole.values()):.2f} with the whole gradient")
        return of_units(units(saved))

    return found


def _more_in(task: str, other: str, of: Callable[[Saved, str], Units]) -> Callable[[Saved], Evidence]:
    """A contrast of conditions in one task, minus the same in another."""
    return _through(lambda saved: minus(of(saved, task), of(saved, other)), (task, other))


def _contrast(saved: Saved, which: Callable[[Saved, str, str], Units], task: str, a: str, b: str) -> Units:
    return minus(which(saved, task, a), which(saved, task, b))


def _on_minus_matched(saved: Saved, task: str) -> Units:
    return _contrast(saved, Saved.own, task, CUT_ON, CUT_MATCHED)


def _off_minus_on(saved: Saved, task: str) -> Units:
    return _contrast(saved, Saved.own, task, CUT_OFF, CUT_ON)


CLAIMS = (
    *(row for claim in (*condition_claims(), *cut_claims()) for row in by_bases(claim)),
    *(by_bases(claim)[0] for claim in later_cut_claims()),
)
