"""The engine of claims: what is claimed, against what, what would be too small to matter, and the verdict.

A claim is one contrast with one number for each unit (a trained model, or a task where tasks are the
population). It is tested twice by Student's t with n - 1 degrees of freedom: is the contrast different
from its reference, and does it lie within the smallest effect of interest (two one-sided tests)? p values
are adjusted over the findings of a report (Benjamini-Hochberg, for each of the two tests, exploratory and
confirmatory ones apart). Verdicts:

    supported               differs from the reference, on the side that the claim predicts
    refuted                 differs from it, on the other side
    no effect of that size  lies within the smallest effect of interest (whether or not it is exactly 0)
    inconclusive            none of these, or fewer than three units

Controls and manipulation checks are judged in the same way, without adjustment, and never count as support.
A finding whose own control lies on the wrong side of its threshold is inconclusive, whatever its numbers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cwr_mech.analysis.stats.intervals import Interval, jackknife, mean_interval
from cwr_mech.analysis.stats.testing import ALPHA, benjamini_hochberg, difference_p, equivalence_p
from cwr_mech.results import Row


class NoResults(Exception):
    """A table that a claim needs is not among the results, or holds no row of these models."""


Kind = Literal["finding", "control", "manipulation check"]
Role = Literal["exploratory", "confirmatory"]
Verdict = Literal["supported", "refuted", "no effect of that size", "inconclusive"]
CONFIRMED = "-confirmed"
"""End of the name of a claim that is asked again of later bases."""
CONTROL = "its control"
"""How the reason of a claim whose control does not hold begins."""
VERDICTS: tuple[Verdict, ...] = ("supported", "refuted", "no effect of that size", "inconclusive")


@dataclass(frozen=True)
class Evidence:
    """The contrast with its interval over units; `p` replaces Student's where models or tasks are relabelled.

    `found` None: nothing is published, and `reason` says why (no models, or models that have not learned).
    """

    found: Interval | None
    reason: str = ""
    p: float | None = None


Units = Mapping[str, float]
"""A number for each unit; `of_units` makes evidence of it."""


def of_units(values: Mapping[str, float | None]) -> Evidence:
    """One number for each model; models without one are left out."""
    given = [value for value in values.values() if value is not None and math.isfinite(value)]
    if not given:
        return withheld("no models to tell from")
    return Evidence(mean_interval(np.array(given, dtype=np.float64)))


def of_statistic(
    statistic: Callable[[Sequence[Any]], float],
    units: Sequence[Any],
    unit: str = "model",
    p: float | None = None,
) -> Evidence:
    """A statistic of all units together, such as a mean over pairs, with its jackknife over units."""
    if not units or not math.isfinite(statistic(units)):
        return withheld("no models to tell from")
    return Evidence(jackknife(statistic, units, unit=unit), p=p)


def withheld(reason: str) -> Evidence:
    """No number, and why."""
    return Evidence(None, reason)


@dataclass(frozen=True)
class Claim:
    """What is claimed, and everything that has to be said before the numbers are seen.

    `contrast` names the one number that is compared with `against`; `predicted` is the side on which the
    claim puts it. `smallest`: effects below this are of no interest, `why` says why; 0 for a threshold.
    `published`: the same contrast in the paper, None where it has none; `incomparable` says why ours must
    not be set beside it, "" where it may.
    """

    id: str
    question: str
    statement: str
    contrast: str
    evidence: Callable[[Any], Evidence | Units]
    smallest: float
    why: str
    predicted: Literal["above", "below"] = "above"
    against: float = 0.0
    published: float | None = None
    incomparable: str | Callable[[Any], str] = ""
    units: Literal["models", "tasks"] = "models"
    kind: Kind = "finding"
    role: Role = "exploratory"
    control: "Claim | None" = None


def judge(claims: Sequence[Claim], saved: Any) -> list[Row]:
    """One row for each claim, in their order: contrast, interval, adjusted p values, verdict, agreement."""
    evidence = [_found(claim, saved) for claim in claims]
    tests = [_p_values(claim, found) for claim, found in zip(claims, evidence, strict=True)]
    adjusted = np.array(tests, dtype=np.float64).reshape(-1, 2)
    for role in ("exploratory", "confirmatory"):
        family = [k for k, claim in enumerate(claims) if (claim.kind, claim.role) == ("finding", role)]
        for test in range(2):
            adjusted[family, test] = benjamini_hochberg(adjusted[family, test])
    judged = zip(claims, evidence, adjusted.tolist(), strict=True)
    return [_row(claim, found, p, saved) for claim, found, p in judged]


def _found(claim: Claim, saved: Any) -> Evidence:
    try:
        found = claim.evidence(saved)
    except NoResults as error:
        return withheld(str(error))
    return found if isinstance(found, Evidence) else of_units(found)


def _p_values(claim: Claim, evidence: Evidence) -> tuple[float, float]:
    """p that the contrast differs from its reference, and p that it is smaller than is of interest."""
    if evidence.found is None:
        return math.nan, math.nan
    differs = difference_p(evidence.found, claim.against) if evidence.p is None else evidence.p
    return differs, equivalence_p(evidence.found, claim.smallest, claim.against)


def verdict_of(claim: Claim, value: float, p_differs: float, p_equivalent: float) -> Verdict:
    """The verdict from adjusted p values. NaN, a test that cannot be made, decides nothing.

    An effect that differs from 0 but lies within what is of interest is "no effect of that size".
    """
    if p_equivalent < ALPHA:
        return "no effect of that size"
    if p_differs < ALPHA:
        return "supported" if (value > claim.against) == (claim.predicted == "above") else "refuted"
    return "inconclusive"


def agreement(claim: Claim, verdict: Verdict, value: float, saved: Any) -> str:
    """How ours stands to the published value: "agrees", "opposite", or "cannot be compared" and why.

    An effect smaller than is of interest is opposite to a published one that is larger.
    """
    if claim.published is None:
        return "not published"
    reason = claim.incomparable if isinstance(claim.incomparable, str) else claim.incomparable(saved)
    if not reason and verdict == "inconclusive":
        reason = "inconclusive here"
    if reason:
        return f"cannot be compared: {reason}"
    theirs, ours = claim.published - claim.against, value - claim.against
    if verdict == "no effect of that size":
        return "agrees" if abs(theirs) < claim.smallest else "opposite"
    return "agrees" if (theirs > 0) == (ours > 0) else "opposite"


def _row(claim: Claim, evidence: Evidence, p: Sequence[float], saved: Any) -> Row:
    p_differs, p_equivalent = p
    row: Row = {
        name: getattr(claim, name)
        for name in (
            *("id", "question", "statement", "contrast", "kind", "role", "units"),
            *("against", "predicted", "smallest", "why", "published"),
        )
    }
    found = evidence.found
    if found is None:
        told = f"cannot be compared: {evidence.reason}" if claim.published is not None else "not published"
        empty = dict.fromkeys(("value", "lo", "hi", "p_differs", "p_equivalent"))
        return row | empty | {"n": 0, "verdict": "inconclusive", "reason": evidence.reason, "agreement": told}
    verdict = verdict_of(claim, found.value, p_differs, p_equivalent)
    if failed := _failed_control(claim, saved):
        verdict = "inconclusive"
    return row | {
        "value": found.value,
        **found.ends,
        "n": found.n,
        "p_differs": p_differs,
        "p_equivalent": p_equivalent,
        "verdict": verdict,
        "reason": failed or (evidence.reason if verdict == "inconclusive" else "") or found.reason or "",
        "agreement": agreement(claim, verdict, found.value, saved),
    }


def _failed_control(claim: Claim, saved: Any) -> str:
    """Why a claim says nothing, whatever its numbers: its control lies on the wrong side of its threshold,
    surely or not, or cannot be asked. "" where it holds."""
    if claim.control is None:
        return ""
    control = judge([claim.control], saved)[0]
    if not control["n"]:
        return f"{CONTROL} cannot be asked: {control['reason']}"
    wanted = claim.control.predicted
    if (control["value"] > claim.control.against) == (wanted == "above"):
        return ""
    return (
        f"{CONTROL} fails: {control['contrast']} is {control['value']:.3f}, and was to be {wanted} "
        f"{claim.control.against:g}"
    )
