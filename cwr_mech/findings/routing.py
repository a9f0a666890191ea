"""Claims about how new cities are taught: where answers put them, on- or off-manifold, by which side of the
network. Hypotheses were made on the first three bases; later bases are judged apart, as confirmatory.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from statistics import mean

from cwr_mech.analysis.locating.tables import LOCATED
from cwr_mech.config import RouteConfig, parse
from cwr_mech.experiments.finetuning import PLAIN
from cwr_mech.experiments.plans import RIPE_ROUTES
from cwr_mech.findings.claims import Claim, Evidence, NoResults, Units, of_units, withheld
from cwr_mech.findings.evidence import Saved, by_bases, mean_over, minus
from cwr_mech.findings.finetuned import REPLAYED, TENTH, TENTH_WHY, retention

DIVERGENT = "distance"
CONVERGENT = ("angle", "compass", "perimeter")
"""Tasks whose fine-tuning integrates held-out cities in the paper, beside which distance is held."""
FURTHER, FURTHER_WHY = round(math.log(1.5), 2), "one place 1.5 times as far off as the other"
PROJECTED = [f"{PLAIN}, {parse(RouteConfig, dict(route)).name}" for route in RIPE_ROUTES]
ON, OFF, *MATCHED = PROJECTED
"""Conditions of the gradient at the tokens of new cities, as results name them: on- and off-manifold, and on
covariance-matched subspaces, several draws."""
PROJECTED_AT = (1, "digit3+last_digit")
"""Layer and tokens at which the plan `ripe` projects gradients."""
PROJECTED_TASKS = ("distance", "angle", "compass")


def place_claims() -> Iterator[Claim]:
    """Do answers in different tasks imply different coordinates for the same city?"""
    places = partial(Claim, question="places", smallest=FURTHER, why=FURTHER_WHY)
    for name, words, replay in REPLAYED:
        condition = "" if replay == PLAIN else f"; {replay}"
        claim = partial(places, control=retention(replay))
        for task in LOCATED:
            yield claim(
                id=f"{name}divergence-{task}",
                statement=f"After fine-tuning on {task}{words}, other tasks' answers are farther off about "
                f"new cities than {task}'s are",
                evidence=partial(_divergence, task=task, condition=condition),
                contrast="log ratio of errors of implied coordinates: other tasks' over the trained task's, "
                "new minus training cities",
            )
        yield claim(
            id=f"{name}divergence-distance-more",
            statement="Fine-tuning on distance makes tasks disagree about new cities more than compass or "
            f"perimeter do{words}",
            contrast="divergence index: trained on distance, minus mean of trained on compass and on "
            "perimeter",
            evidence=partial(_more, condition=condition),
        )
    yield places(
        id="places-in-pretraining",
        statement="Answers of models that had the cities in pretraining put them as near as training cities",
        contrast="log ratio of errors of implied coordinates: new over training cities, mean over tasks",
        evidence=_in_pretraining,
        kind="control",
    )


def _more(saved: Saved, condition: str) -> Units:
    rest = [_divergence(saved, task, condition) for task in LOCATED if task != DIVERGENT]
    return minus(_divergence(saved, DIVERGENT, condition), mean_over(rest))


def _divergence(saved: Saved, task: str, condition: str) -> dict[str, float]:
    """Base -> divergence index of its fine-tuning on `task`, the usual one or that of a condition (as
    `label_of` words it), beyond that of training cities."""
    rows, models = saved.table("locate", "divergence"), saved.table("locate", "models")
    chosen = models[models["models"] == f"fine-tuned on {task}{condition}"].drop_duplicates("run")
    usual = chosen.set_index("run")["base"]
    rows = rows[rows["run"].isin(usual.index) & rows["task"].isin(LOCATED) & (rows["trained"] == task)]
    by_run = rows.groupby("run")["excess"].mean()
    return {str(usual[run]): float(value) for run, value in by_run.items() if usual[run] in saved.bases}


def _in_pretraining(saved: Saved) -> Evidence | Units:
    rows, models = saved.table("locate", "errors"), saved.table("locate", "models")
    runs = models[models["models"].str.contains("pretraining")]["run"]
    rows = rows[rows["run"].isin(runs) & (rows["answers"] == "model") & rows["task"].isin(LOCATED)]
    if rows.empty:
        return withheld("no such models")
    log = rows.assign(log=rows["error"].map(math.log)).groupby(["run", "cities"])["log"].agg(mean).unstack()
    return (log["new"] - log["training"]).to_dict()


def side_claims() -> Iterator[Claim]:
    """Which side of the network carries what fine-tuning teaches?"""
    claim = partial(Claim, question="sides")
    for task in ("distance", "compass", "angle"):
        for outcome, words in (("own", f"{task} itself"), ("others", "the untrained tasks")):
            yield claim(
                id=f"city-side-{task}-{outcome}",
                statement=f"What fine-tuning on {task} teaches in {words} is carried by the city side of "
                f"the network",
                contrast="normalised improvement with only the city side's update grafted, minus only the "
                "answer side's",
                evidence=partial(_city_side, task=task, outcome=outcome),
                smallest=TENTH,
                why=TENTH_WHY,
            )


def _city_side(saved: Saved, task: str, outcome: str) -> Units:
    city, answer = (_graft(saved, task, side, outcome) for side in ("city side", "answer side"))
    return minus(city, answer)


def _graft(saved: Saved, task: str, graft: str, outcome: str) -> dict[str, float]:
    """Base -> improvement with one part of the update of its fine-tuning on `task` grafted into it."""
    rows = saved.table("anatomy", "carried")
    rows = rows[(rows["set"] == task) & (rows["graft"] == graft) & rows["base"].isin(saved.bases)]
    return dict(zip(rows["base"], rows[outcome], strict=True))


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
        every, read = units(saved), _read_at(saved)
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


def share_claims() -> Iterator[Claim]:
    """How much of an update lies in the manifold's directions where cities are read?"""
    for id_, update, whole, share in (
        ("share-step", "A step on distance", "the update's squared norm", _step_share),
        ("share-whole", "All of fine-tuning on distance", "the whole displacement", _whole_share),
    ):
        yield Claim(
            id=id_,
            question="shares",
            statement=f"{update} moves new cities less within the manifold's directions than other tasks do",
            contrast=f"share of {whole} in the manifold's span, at the reading site: distance, minus mean of "
            "angle, compass and perimeter",
            evidence=partial(_less_than_others, share=share),
            predicted="below",
            smallest=0.1,
            why=f"a tenth of the {'update' if share is _step_share else 'displacement'}",
        )


def _less_than_others(saved: Saved, share: Callable[[Saved, str], Units]) -> Units:
    return minus(share(saved, DIVERGENT), mean_over([share(saved, task) for task in CONVERGENT]))


def _read_at(saved: Saved) -> dict[tuple[str, str], tuple[int, str]]:
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


def _step_share(saved: Saved, task: str) -> dict[str, float]:
    """Base -> raw share of one Adam step on new cities in the manifold's span, at the base's reading site."""
    sites, rows = _read_at(saved), saved.table("subspace", "shares")
    rows = rows[(rows["update"] == "adam") & (rows["group"] == "new") & (rows["basis"] == "manifold")]
    mine = rows[rows["task"] == task].set_index(["run", "layer", "site"])["share"]
    keys = {base: (base, *sites[base, task]) for base in saved.bases if (base, task) in sites}
    return {base: float(mine[key]) for base, key in keys.items() if key in mine.index}


def _whole_share(saved: Saved, task: str) -> dict[str, float]:
    """Base -> raw share of the displacement of new cities over a whole fine-tuning, in the trained prompt."""
    sites, rows = _read_at(saved), saved.table("trajectory", "trajectory")
    rows = rows[(rows["set"] == task) & (rows["prompt"] == task) & (rows["condition"] == PLAIN)]
    rows = rows[rows["step"] == rows.groupby("run")["step"].transform("max")]
    return {
        str(row["base"]): float(row["moved_new"])
        for _, row in rows.iterrows()
        if row["base"] in saved.bases and sites.get((row["base"], task)) == (row["layer"], row["site"])
    }


CLAIMS = tuple(
    row
    for claim in (*place_claims(), *side_claims(), *condition_claims(), *share_claims())
    for row in (by_bases(claim) if claim.id != "places-in-pretraining" else (claim,))
)
