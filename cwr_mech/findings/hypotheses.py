"""The paper's hypotheses as predictions that can fail, written down before the models were trained.

Integration of new cities, for one fine-tuned model and one prompt: ln(error before / error after) divided by
ln(error before / error of ordinary cities before), errors along the map. 0: as before; 1: placed as well as
ordinary cities were. *Transfer* is its mean over the prompts of tasks that were not trained. One number for
each base model and prediction; base models are the units of every interval, never cities or questions.

The hypothesis on trial says: distance is divergent; its updates leave the map (2a, 2a', 2b); therefore
keeping them on the map repairs transfer (2c), while convergent tasks live on the map: they lose nothing on it
(2d) and everything without it (2e); random subspaces of equal rank do neither (2f, 2g). If what the map's
directions do for distance (2c), random ones do as well, it is not the map that matters. The reviewers of the
paper asked what raising similarity by force does: the condition `penalty` (2h, 3a, 3b).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cwr_mech.analysis.stats.intervals import Interval, mean_interval
from cwr_mech.errors import AnalysisError

Verdict = Literal["supported", "not supported", "undecided"]
DIVERGENT = "distance"
CONVERGENT = ("angle", "compass", "perimeter")
CONDITION_CONTROLS = CONVERGENT
"""Tasks whose fine-tuning integrates new cities in the paper, in which conditions are compared."""
SMALL = 0.1
"""A difference of integration up to here is called none."""


@dataclass(frozen=True)
class Prediction:
    """One number for each base, predicted to lie above or below a threshold.

    `measure(evidence, base)` gives None where a model that it needs is missing.
    """

    name: str
    hypothesis: str
    says: str
    of: str
    above: bool
    threshold: float
    measure: Callable[["Evidence", str], float | None]


@dataclass(frozen=True)
class Evidence:
    """Tables of the results: rows of `trajectory` and of `subspace` (with a column `run`)."""

    trajectory: Sequence[Mapping[str, Any]]
    shares: Sequence[Mapping[str, Any]]

    @property
    def bases(self) -> tuple[str, ...]:
        """The base models."""
        return tuple(dict.fromkeys(str(row["base"]) for row in self.trajectory))

    def ends(
        self, base: str, tasks: str, route: str
    ) -> dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]]:
        """Prompt -> first and last row of the fine-tuning of `base` on `tasks` under a condition."""
        mine = [r for r in self.trajectory if (r["base"], r["set"], r["route"]) == (base, tasks, route)]
        found = {}
        for prompt in dict.fromkeys(str(row["prompt"]) for row in mine):
            rows = sorted((r for r in mine if r["prompt"] == prompt), key=lambda row: int(row["step"]))
            if rows[0]["step"] == 0 and len(rows) > 1:
                found[prompt] = rows[0], rows[-1]
        return found

    def transfer(self, base: str, tasks: str, route: str = "unprojected") -> float | None:
        """Mean integration over the prompts that were not trained."""
        found = [
            integration(start, end)
            for prompt, (start, end) in self.ends(base, tasks, route).items()
            if prompt not in tasks.split("+")
        ]
        return float(np.mean(found)) if found else None

    def off(self, base: str, tasks: str, route: str = "unprojected") -> float | None:
        """Mean over all prompts of the distance off the map at the end, in units of ordinary cities."""
        ends = self.ends(base, tasks, route).values()
        return float(np.mean([end["off_new"] for _, end in ends])) if ends else None

    def similarity(self, base: str, tasks: str, route: str = "unprojected") -> float | None:
        """Mean over all prompts of the CKA over new cities between their activations at the end and what the
        map gives to their true places.
        """
        ends = self.ends(base, tasks, route).values()
        return float(np.mean([end["cka_new"] for _, end in ends])) if ends else None

    def moved(self, base: str, tasks: str, route: str = "unprojected") -> float | None:
        """Share of new cities' displacement over a whole fine-tuning inside the directions of the base's map,
        in the trained prompts, beyond that of random directions with the activations' covariance.
        """
        share, like = (self.trained_end(base, tasks, route, key) for key in ("moved_new", "moved_new_like"))
        return _difference(share, like)

    def trained_end(self, base: str, tasks: str, route: str, column: str) -> float | None:
        """Mean over the trained prompts of a column at the end; None where it is missing."""
        found = [
            end.get(column)
            for prompt, (_, end) in self.ends(base, tasks, route).items()
            if prompt in tasks.split("+")
        ]
        return _mean(found) if found else None

    def share(self, base: str, task: str) -> float | None:
        """Share of an Adam step on new cities inside the map's directions, where the base's map is clearest,
        beyond that of random directions with the activations' covariance.
        """
        rows = [
            row
            for row in self.shares
            if (row["run"], row["task"], row["update"]) == (base, task, "adam")
            and (row["group"], row["basis"]) == ("new", "manifold")
            and row["clearest"]
        ]
        return float(np.mean([row["share"] - row["like"] for row in rows])) if rows else None


def integration(start: Mapping[str, Any], end: Mapping[str, Any]) -> float:
    """See the top of this module; NaN where new cities stood no worse than ordinary ones before."""
    gap = math.log(start["along_new"] / start["along_old"])
    return math.log(start["along_new"] / end["along_new"]) / gap if gap > 0 else math.nan


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _mean(values: Sequence[float | None]) -> float | None:
    given = [value for value in values if value is not None]
    return float(np.mean(given)) if len(given) == len(values) else None


def _against(of: Callable[[Evidence, str, str], float | None]) -> Callable[[Evidence, str], float | None]:
    """The divergent task minus the mean of the convergent ones."""

    def measure(evidence: Evidence, base: str) -> float | None:
        others = _mean([of(evidence, base, task) for task in CONVERGENT])
        return _difference(of(evidence, base, DIVERGENT), others)

    return measure


def _difference_of(
    of: Callable[["Evidence", str, str], float | None], condition: str
) -> Callable[["Evidence", str], float | None]:
    """A measure under one condition minus the same unprojected."""
    return lambda evidence, base: _difference(
        of(evidence, base, condition), of(evidence, base, "unprojected")
    )


def _conditions(
    tasks: Sequence[str], condition: str, against: str
) -> Callable[[Evidence, str], float | None]:
    """Transfer under one condition minus transfer under another, mean over tasks."""

    def measure(evidence: Evidence, base: str) -> float | None:
        return _mean(
            [
                _difference(evidence.transfer(base, task, condition), evidence.transfer(base, task, against))
                for task in tasks
            ]
        )

    return measure


TRANSFER, OFF = "difference of transfer", "difference of distance off the map, in units of ordinary cities"
SIMILARITY = "difference of the CKA of new cities with the map at their true places"
PREDICTIONS: tuple[Prediction, ...] = (
    Prediction(
        "1",
        "distance is divergent",
        "fine-tuning on distance integrates new cities worse than angle, compass and perimeter do",
        TRANSFER,
        False,
        0.0,
        _against(lambda evidence, base, task: evidence.transfer(base, task)),
    ),
    Prediction(
        "2a",
        "off-manifold routing",
        "one step on distance lies less in the map's directions than one on the others",
        "difference of shares, beyond random directions like the activations",
        False,
        0.0,
        _against(lambda evidence, base, task: evidence.share(base, task)),
    ),
    Prediction(
        "2a'",
        "off-manifold routing",
        "what a whole fine-tuning on distance does to new cities lies less in the map's directions than what "
        "the others do",
        "difference of shares, beyond random directions like the activations",
        False,
        0.0,
        _against(lambda evidence, base, task: evidence.moved(base, task)),
    ),
    Prediction(
        "2b",
        "off-manifold routing",
        "fine-tuning on distance leaves new cities farther off the map than the others do",
        OFF,
        True,
        0.0,
        _against(lambda evidence, base, task: evidence.off(base, task)),
    ),
    Prediction(
        "2c",
        "off-manifold routing",
        "kept to the map's directions, distance integrates better than when kept to random ones",
        TRANSFER,
        True,
        0.0,
        _conditions([DIVERGENT], "on-manifold", "random"),
    ),
    Prediction(
        "2c'",
        "off-manifold routing",
        "kept to the map's directions, distance integrates better than untouched",
        TRANSFER,
        True,
        0.0,
        _conditions([DIVERGENT], "on-manifold", "unprojected"),
    ),
    Prediction(
        "2d",
        "off-manifold routing",
        "kept to the map's directions, angle, compass and perimeter lose little",
        TRANSFER,
        True,
        -SMALL,
        _conditions(CONDITION_CONTROLS, "on-manifold", "unprojected"),
    ),
    Prediction(
        "2e",
        "off-manifold routing",
        "kept out of the map's directions, angle, compass and perimeter lose more than out of random ones",
        TRANSFER,
        False,
        -SMALL,
        _conditions(CONDITION_CONTROLS, "off-manifold", "random-complement"),
    ),
    Prediction(
        "2f",
        "off-manifold routing",
        "placebo: kept to random directions, distance integrates no better than untouched",
        TRANSFER,
        False,
        SMALL,
        _conditions([DIVERGENT], "random", "unprojected"),
    ),
    Prediction(
        "2g",
        "off-manifold routing",
        "placebo: kept out of random directions, angle, compass and perimeter lose little",
        TRANSFER,
        True,
        -SMALL,
        _conditions(CONDITION_CONTROLS, "random-complement", "unprojected"),
    ),
    Prediction(
        "2h",
        "off-manifold routing",
        "pulled to the map by a penalty, distance integrates better than untouched",
        TRANSFER,
        True,
        0.0,
        _conditions([DIVERGENT], "penalty", "unprojected"),
    ),
    Prediction(
        "3a",
        "similarity makes transfer",
        "the penalty does what it is for: distance's new cities end more similar to the map than untouched",
        SIMILARITY,
        True,
        0.0,
        _difference_of(lambda evidence, base, route: evidence.similarity(base, DIVERGENT, route), "penalty"),
    ),
    Prediction(
        "3b",
        "similarity makes transfer",
        "pulled to the map by a penalty, angle loses little",
        TRANSFER,
        True,
        -SMALL,
        _conditions(["angle"], "penalty", "unprojected"),
    ),
)
"""Everything about models of this program that the routing report tests."""


def judge(interval: Interval, prediction: Prediction) -> tuple[Verdict, str]:
    """Supported when the whole interval lies on the predicted side, not supported when it lies on the other,
    undecided otherwise; and the reason in words.
    """
    if interval.reason is not None:
        return "undecided", interval.reason
    side = "above" if prediction.above else "below"
    low, high = interval.lo - prediction.threshold, interval.hi - prediction.threshold
    if (low > 0) if prediction.above else (high < 0):
        return "supported", f"the interval lies {side} {prediction.threshold:g}"
    if (high < 0) if prediction.above else (low > 0):
        return "not supported", f"the interval does not lie {side} {prediction.threshold:g}"
    most = high if prediction.above else -low
    held = f"the interval over {interval.n} models holds {prediction.threshold:g}"
    return "undecided", f"{held}, and reaches {most:.2g} {side} it"


def try_predictions(evidence: Evidence) -> list[dict[str, Any]]:
    """One row for each prediction: effect with its interval over base models, and the verdict.

    Predictions whose models are missing are rows without an effect. Raises AnalysisError without any model.
    """
    if not evidence.bases:
        raise AnalysisError("no fine-tuned model to test the predictions on")
    rows = []
    for prediction in PREDICTIONS:
        given = {base: prediction.measure(evidence, base) for base in evidence.bases}
        values = np.array([value for value in given.values() if value is not None and math.isfinite(value)])
        row = {
            "prediction": prediction.name,
            "hypothesis": prediction.hypothesis,
            "says": prediction.says,
            "measure": prediction.of,
            "predicted": f"{'above' if prediction.above else 'below'} {prediction.threshold:g}",
            "models": len(values),
            "as_predicted": int(np.sum((values > prediction.threshold) == prediction.above)),
        }
        if len(values):
            interval = mean_interval(values, unit="model")
            verdict, reason = judge(interval, prediction)
            row |= {"effect": interval.value, "lo": interval.lo, "hi": interval.hi}
        else:
            verdict, reason = "undecided", "no model"
            row |= {"effect": None, "lo": None, "hi": None}
        rows.append(row | {"verdict": verdict, "reason": reason})
    return rows


def overall(rows: Sequence[Mapping[str, Any]], needed: Sequence[str]) -> tuple[Verdict, str]:
    """A hypothesis is supported when all predictions it needs are, not supported when one of them is not."""
    verdicts = {str(row["prediction"]): str(row["verdict"]) for row in rows if row["prediction"] in needed}
    against = [name for name, verdict in verdicts.items() if verdict == "not supported"]
    if against:
        return "not supported", "against it: " + ", ".join(against)
    missing = [name for name in needed if verdicts.get(name) != "supported"]
    if missing:
        return "undecided", "undecided: " + ", ".join(missing)
    return "supported", "all of " + ", ".join(needed)


NEEDED: Mapping[str, tuple[str, ...]] = {
    "distance is divergent": ("1",),
    "off-manifold routing": ("2a", "2a'", "2b", "2c", "2d", "2e"),
}
"""Hypothesis -> the predictions it stands or falls with."""
