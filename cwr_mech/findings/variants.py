"""Claims about models with label noise and of other sizes (last runs of the plan `ripe`), beside usual bases.

All are fine-tuned on tasks that place a city, with half of the rows replaying all tasks. There is one base a
share of noise and one a size; a base with noise is told from 0 by the spread of usual ones (`as_one_more`).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from cwr_mech.analysis.best import DECODED, best
from cwr_mech.analysis.locating.tables import LOCATED
from cwr_mech.analysis.stats.intervals import t_interval
from cwr_mech.analysis.stats.models import FAILED_BELOW
from cwr_mech.experiments.finetuning import HALF_REHEARSED
from cwr_mech.experiments.ripe import NOISY
from cwr_mech.findings.claims import Claim, Evidence, NoResults, Units, of_statistic, withheld
from cwr_mech.findings.evidence import Saved, mean_over, minus
from cwr_mech.findings.finetuned import TENTH, TENTH_WHY, half_of, kept, published_less
from cwr_mech.findings.pretrained import CKA, HALF, NOISE, NOISE_WHY
from cwr_mech.findings.routing import FURTHER, FURTHER_WHY, divergence

LEAST_SIZES = 3
LEAST_ALONE = 3
"""Tasks that must have been learned alone with noise: distance, angle and compass are trained so."""
OTHERS = 2
"""Tasks besides distance that a base must have learned."""
ABSENT = "no base with"
"""How the reason begins why a claim about a share of noise that was not trained has no number."""
SPREAD = "one base with noise, its interval from the spread of the n usual ones"


def noise(saved: Saved) -> bool:
    """Whether any base has label noise."""
    try:
        return bool(_bases(saved)["label_noise"].any())
    except NoResults:
        return False


def sizes(saved: Saved) -> bool:
    """Whether bases differ in size."""
    try:
        return _bases(saved)["parameters"].nunique() > 1
    except NoResults:
        return False


def _bases(saved: Saved) -> pd.DataFrame:
    """Every base with its parameters and label noise: run -> row."""
    models = saved.table("locate", "models")
    if not {"parameters", "label_noise"} <= set(models):
        raise NoResults("results of kind locate do not say how large models are; make them anew")
    return models[models["base"].isna()].drop_duplicates("run").set_index("run")


def over(saved: Saved, noise: float = 0.0, usual: bool = True) -> Saved:
    """The same results, over bases with this label noise, of the `usual` size (most bases') or of any."""
    bases = _bases(saved)
    size = bases["parameters"].mode()[0]
    chosen = bases[np.isclose(bases["label_noise"], noise) & ((bases["parameters"] == size) | (not usual))]
    if chosen.empty:
        raise NoResults(f"{ABSENT} {_percent(noise)} of answers wrong")
    return saved.with_bases(list(chosen.index))


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _condition(noise: float) -> str:
    return HALF_REHEARSED + (f", {_percent(noise)} of answers wrong" if noise else "")


def as_one_more(noisy: Mapping[str, float], usual: Mapping[str, float]) -> Evidence:
    """The value of one base (the mean of several), as far as usual bases tell how much seeds differ:
    value +- t s / sqrt(bases), with the standard deviation s of usual bases and their degrees of freedom.
    """
    if not noisy or len(usual) < 2:
        missing = "no result of a base with noise"
        return withheld(missing if not noisy else "too few usual bases to tell how seeds differ")
    error = float(np.std(list(usual.values()), ddof=1)) / math.sqrt(len(noisy))
    return Evidence(t_interval(float(np.mean(list(noisy.values()))), error, len(usual)))


def _beside_usual(saved: Saved, units: Callable[[Saved, float], Units], noise: float) -> Evidence:
    """What is asked of the base with noise, if it has learned enough, and of all usual ones.

    Both are asked about the same tasks, those that the base with noise has learned: a mean over other tasks
    is another number.
    """
    tasks = set.union(*(_tasks(saved, base) for base in over(saved, noise).bases))
    rows = saved.table("transfer", "scores")
    tables = {("transfer", "scores"): rows[rows["task"].isin(tasks)]}
    noisy, usual = (
        units(Saved(saved.results, over(saved, share).bases, dict(tables)), share) for share in (noise, 0.0)
    )
    learned = {base: value for base, value in noisy.items() if _learned(saved, base)}
    if noisy and not learned:
        found = ", ".join(f"{base} ({value:.2f})" for base, value in noisy.items())
        return withheld(f"{found} has not learned distance and {OTHERS} other tasks")
    return as_one_more(learned, usual)


def _places(saved: Saved, noise: float, task: str) -> Units:
    return divergence(saved, task, f"; {_condition(noise)}")


def _less(saved: Saved, noise: float) -> Units:
    """What distance teaches the other tasks, minus what compass and perimeter teach theirs."""
    taught = {task: saved.others(task, _condition(noise)) for task in LOCATED}
    return minus(taught.pop("distance"), mean_over(list(taught.values())))


def _retention(saved: Saved, noise: float) -> Units:
    return kept(saved, _condition(noise), LOCATED)


def _map(saved: Saved, noise: float) -> Units:
    rows = saved.table("places", "scores")
    found = {run: rows[rows["run"] == run].to_dict("records") for run in saved.bases}
    return {run: float(best(mine, DECODED)["r2"]) for run, mine in found.items() if mine}


def _convergence(saved: Saved, noise: float) -> Evidence:
    """Mean CKA between single-task models of one share of noise, minus that of shuffled cities."""
    over(saved, noise)  # raises where this share was not trained
    models = saved.table("similarity", "models")
    chosen = models[
        np.isclose(models["label_noise"], noise) & ~models["tasks"].str.contains("+", regex=False)
    ]
    known = chosen["failed"].eq(False)
    alone = dict(chosen[known].set_index("run")["tasks"])
    if (n := len(set(alone.values()))) < LEAST_ALONE:
        rest = ", ".join(chosen[~known]["run"])
        return withheld(f"{n} of {LEAST_ALONE} tasks learned alone" + (f", not: {rest}" if rest else ""))
    value, null = saved.similarity(CKA), saved.similarity(CKA, "null_mean")

    def level(runs: Sequence[str]) -> float:
        pairs = [(a, b) for k, a in enumerate(runs) for b in runs[:k] if alone[a] != alone[b]]
        known = [value[pair] - null[pair] for pair in pairs if pair in value]
        return float(np.mean(known)) if known else math.nan

    return of_statistic(level, list(alone))


def noise_claims(share: float) -> Iterator[Claim]:
    """Does what is said of usual models hold with this share of wrong answers?"""
    end, wrong = f"-{100 * share:g}", f"with {_percent(share)} of answers wrong"
    claim = partial(Claim, question="noise")
    asked = partial(_beside_usual, noise=share)
    control = claim(
        id=f"noise-retention{end}",
        statement=f"Fine-tuning {wrong} keeps what the model knew about training cities in untrained tasks",
        contrast=f"change on training cities in untrained tasks, as a share of the gap (0: kept); {SPREAD}",
        evidence=partial(asked, units=_retention),
        against=-TENTH,
        smallest=0.0,
        why=f"a threshold: a loss of {TENTH_WHY}",
        kind="control",
    )
    for task in LOCATED:
        yield claim(
            id=f"noise-divergence-{task}{end}",
            statement=f"In a base {wrong}, fine-tuned on {task}, other tasks' answers are farther off about "
            f"new cities than {task}'s are",
            contrast="log ratio of errors of implied coordinates: other tasks' over the trained task's, new "
            f"minus training cities; {SPREAD}",
            evidence=partial(asked, units=partial(_places, task=task)),
            smallest=FURTHER,
            why=FURTHER_WHY,
            control=control,
        )
    yield claim(
        id=f"noise-distance-teaches-less{end}",
        statement="Fine-tuning on distance teaches the other tasks less than fine-tuning on another task "
        f"does, in a base {wrong}",
        contrast="mean improvement in untrained tasks: trained on distance, minus trained on compass or "
        f"perimeter; {SPREAD}",
        evidence=partial(asked, units=_less),
        predicted="below",
        control=control,
        **half_of(published_less()),
    )
    yield claim(
        id=f"noise-map{end}",
        statement=f"A model of all tasks holds a linear map of the cities {wrong}",
        contrast=f"R² of coordinates on held-out cities; shuffled: about 0; {SPREAD}",
        evidence=partial(asked, units=_map),
        smallest=0.5,
        why=HALF,
    )
    yield claim(
        id=f"noise-convergence{end}",
        statement=f"Models of different single tasks arrange the cities more similarly than chance {wrong}",
        contrast="CKA between models of distance, angle and compass alone, minus CKA with one side's cities "
        "shuffled",
        evidence=partial(_convergence, noise=share),
        smallest=NOISE,
        why=NOISE_WHY,
    )
    yield control


def size_claims() -> Iterator[Claim]:
    """Is divergence a matter of capacity?"""
    yield Claim(
        id="size-divergence",
        question="size",
        statement="The larger a model, the less other tasks' answers diverge after fine-tuning on distance",
        contrast="change of the divergence index with ten times the parameters, bases that have learned and "
        "do not forget (slope, jackknife over bases)",
        evidence=_slope,
        predicted="below",
        smallest=FURTHER,
        why=FURTHER_WHY,
    )


def _slope(saved: Saved) -> Evidence:
    every = over(saved, usual=False)
    size = _bases(saved)["parameters"].to_dict()
    index, lost = _places(every, 0.0, task="distance"), _retention(every, 0.0)
    fit = [run for run in index if _learned(every, run) and lost.get(run, math.nan) > -TENTH]
    out = sorted(set(index) - set(fit))
    if len({size[run] for run in fit}) < LEAST_SIZES:
        return withheld(
            f"{len({size[run] for run in fit})} sizes, and {LEAST_SIZES} are needed"
            + (f"; left out: {', '.join(out)}" if out else "")
        )

    def slope(runs: Sequence[str]) -> float:
        x = [math.log10(size[run]) for run in runs]
        return float(np.polyfit(x, [index[run] for run in runs], 1)[0]) if len(set(x)) > 1 else math.nan

    found = of_statistic(slope, fit)
    return Evidence(found.found, f"left out: {', '.join(out)}") if out else found


def _learned(saved: Saved, base: str) -> bool:
    """Whether a base has learned distance and OTHERS other tasks."""
    tasks = _tasks(saved, base)
    return "distance" in tasks and len(tasks) > OTHERS


def _tasks(saved: Saved, base: str) -> set[str]:
    """The tasks that a base has learned."""
    rows = saved.table("transfer", "scores")
    return set(rows[(rows["base"] == base) & (rows["base_gain"] >= FAILED_BELOW)]["task"])


CLAIMS = (*(claim for share in NOISY for claim in noise_claims(share)), *size_claims())
