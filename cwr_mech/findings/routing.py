"""Claims about how new cities are taught: where answers put them, by which side of the network, and where
updates point. Hypotheses were made on the first three bases; later bases are judged apart, as confirmatory.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from statistics import mean

from cwr_mech.analysis.locating.tables import LOCATED
from cwr_mech.experiments.finetuning import PLAIN
from cwr_mech.findings.claims import Claim, Evidence, Units, withheld
from cwr_mech.findings.conditions import DIVERGENT, read_at
from cwr_mech.findings.evidence import Saved, by_bases, mean_over, minus
from cwr_mech.findings.finetuned import REPLAYED, TENTH, TENTH_WHY, retention

CONVERGENT = ("angle", "compass", "perimeter")
"""Tasks whose fine-tuning integrates held-out cities in the paper, beside which distance is held."""
FURTHER, FURTHER_WHY = round(math.log(1.5), 2), "one place 1.5 times as far off as the other"


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
                evidence=partial(divergence, task=task, condition=condition),
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
    rest = [divergence(saved, task, condition) for task in LOCATED if task != DIVERGENT]
    return minus(divergence(saved, DIVERGENT, condition), mean_over(rest))


def divergence(saved: Saved, task: str, condition: str) -> dict[str, float]:
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


def _step_share(saved: Saved, task: str) -> dict[str, float]:
    """Base -> raw share of one Adam step on new cities in the manifold's span, at the base's reading site."""
    sites, rows = read_at(saved), saved.table("subspace", "shares")
    rows = rows[(rows["update"] == "adam") & (rows["group"] == "new") & (rows["basis"] == "manifold")]
    mine = rows[rows["task"] == task].set_index(["run", "layer", "site"])["share"]
    keys = {base: (base, *sites[base, task]) for base in saved.bases if (base, task) in sites}
    return {base: float(mine[key]) for base, key in keys.items() if key in mine.index}


def _whole_share(saved: Saved, task: str) -> dict[str, float]:
    """Base -> raw share of the displacement of new cities over a whole fine-tuning, in the trained prompt."""
    sites, rows = read_at(saved), saved.table("trajectory", "trajectory")
    rows = rows[(rows["set"] == task) & (rows["prompt"] == task) & (rows["condition"] == PLAIN)]
    rows = rows[rows["step"] == rows.groupby("run")["step"].transform("max")]
    return {
        str(row["base"]): float(row["moved_new"])
        for _, row in rows.iterrows()
        if row["base"] in saved.bases and sites.get((row["base"], task)) == (row["layer"], row["site"])
    }


CLAIMS = tuple(
    row
    for claim in (*place_claims(), *side_claims(), *share_claims())
    for row in (by_bases(claim) if claim.id != "places-in-pretraining" else (claim,))
)
