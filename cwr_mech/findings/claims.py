"""What the claims of the zoo's report are made of: saved results as claims read them, intervals over models,
verdicts. The claims themselves are in `claims_pretrained` and `claims_tuned`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from scipy import stats

from cwr_mech.analysis.stats.intervals import Interval, jackknife_error, mean_interval
from cwr_mech.analysis.stats.models import FAILED_BELOW
from cwr_mech.experiments.finetuning import PLAIN
from cwr_mech.results import Result, Row
from cwr_mech.tasks.registry import PAPER_TASKS, ordered

VERDICTS = ("supported", "not supported", "undecided", "no models yet")
SHARED_NEIGHBOURS = "mutual_knn"
CKA = "cka"
"""Debiased. The paper's is biased, which adds less than 0.01 with its 4,413 cities but much with our 256."""
MEASURES = (CKA, "rsa", "svcca", SHARED_NEIGHBOURS)
"""Measures of similarity of which the paper or its rebuttal published matrices."""
Pairs = Mapping[tuple[str, str], float]
"""(task, task) in the order of the tasks -> similarity."""


def verdict(found: Interval, null: float) -> str:
    """Whether an interval over models lies above `null` ("supported"), below, or says neither."""
    if not math.isfinite(found.lo):
        return "undecided"
    return "supported" if found.lo > null else "not supported" if found.hi < null else "undecided"


def claim(
    section: str,
    text: str,
    theirs: float | str | None,
    found: Interval | None,
    *,
    null: float = 0.0,
    against: str = "0",
) -> Row:
    """One row: the claim, the published value, ours with its interval, what it is held against, verdict."""
    row: Row = {
        "section": section,
        "claim": text,
        "published": theirs if theirs is None or isinstance(theirs, str) else f"{theirs:.3g}",
        "against": against,
    }
    if found is None:
        empty = dict.fromkeys(("ours", "lo", "hi"))
        return row | empty | {"models": 0, "direction": "-", "verdict": "no models yet"}
    return row | {
        "ours": found.value,
        "lo": found.lo if math.isfinite(found.lo) else None,
        "hi": found.hi if math.isfinite(found.hi) else None,
        "models": found.n,
        "direction": "same" if found.value > null else "opposite",
        "verdict": verdict(found, null),
    }


class Saved:
    """The saved results of a report, as the claims read them."""

    def __init__(self, results: Mapping[str, Result]) -> None:
        def rows(kind: str, table: str) -> list[Row]:
            chosen = (result for result in results.values() if result.kind == kind)
            return [row for result in chosen for row in result.tables.get(table, [])]

        self.models = rows("zoo", "models")
        self.compared = rows("similarity", "models")
        self.tasks_of = {row["run"]: tuple(row["tasks"].split("+")) for row in [*self.compared, *self.models]}
        self.bases = {row["run"]: row["base"] for row in self.models}
        self.scores, self.maps = rows("zoo", "scores"), rows("maps", "layers")
        self.new, self.pairs = rows("maps", "new"), rows("similarity", "pairs")
        self.groups, self.relation = rows("similarity", "groups"), rows("relation", "correlations")
        self.routing, self.predictors = rows("routing", "predictions"), rows("prediction", "tests")
        self.cosines = [row for row in rows("conflict", "cosines") if row["matrix"] == "all"]
        self.patched = [
            row
            for row in rows("patch_parts", "parts")
            if (row["source"], row["group"]) == ("own", "old") and row["follow"] is not None
        ]
        learned = {
            (row["run"], row["task"])
            for row in self.scores
            if row["group"] == "old" and row["gain"] >= FAILED_BELOW
        }
        # Where the base had not learned a task, old cities are hardly better than new ones, and improvement
        # divides by that difference.
        self.transfer, self.deviation = (
            [row for row in rows("transfer", table) if (row["base"], row["task"]) in learned]
            for table in ("scores", "deviation")
        )

    def pretrained(self, tasks: Sequence[str]) -> list[str]:
        """Models trained from scratch on exactly these tasks, without the new cities."""
        return [
            row["run"]
            for row in self.models
            if self.tasks_of[row["run"]] == tuple(tasks) and row["base"] is None
            if "pretraining" not in row["family"]
        ]

    def alone(self) -> list[str]:
        """Models trained from scratch on a single task."""
        return [run for task in PAPER_TASKS for run in self.pretrained((task,))]

    def gains(self, runs: Iterable[str], task: str) -> list[float]:
        """Share of the gap between the best constant answer and a perfect one that each model closes."""
        return self._scores(runs, task, "gain")

    def values(self, runs: Iterable[str], task: str) -> list[float]:
        """Error or accuracy of each model on old cities."""
        return self._scores(runs, task, "value")

    def _scores(self, runs: Iterable[str], task: str, column: str) -> list[float]:
        wanted = set(runs)
        return [
            row[column]
            for row in self.scores
            if row["run"] in wanted and row["task"] == task and row["group"] == "old"
        ]

    def best_r2(self, runs: Iterable[str]) -> list[float]:
        """R² of the best layer and prompt of each model that was probed."""
        found = ([row["r2"] for row in self.maps if row["run"] == run] for run in runs)
        return [max(values) for values in found if values]

    def single_task_pairs(self, runs: Sequence[str], measure: str) -> dict[tuple[str, str], float]:
        """Mean similarity for each pair of tasks, over the given models of one task each; a task with itself
        is other seeds.
        """
        wanted, found = set(runs), dict[tuple[str, str], list[float]]()
        for row in self.pairs:
            if (
                row["measure"] == measure
                and {row["run_a"], row["run_b"]} <= wanted
                and row["value"] is not None
            ):
                (a,), (b,) = self.tasks_of[row["run_a"]], self.tasks_of[row["run_b"]]
                first, second = (a, b) if a == b else ordered((a, b))
                found.setdefault((first, second), []).append(row["value"])
        return {pair: float(np.mean(values)) for pair, values in found.items()}

    def improvements(self, arm: str = PLAIN) -> dict[tuple[str, str], dict[str, float]]:
        """(set trained, task asked) -> base -> improvement on new cities."""
        found: dict[tuple[str, str], dict[str, float]] = {}
        for row in self.transfer:
            if row["arm"] == arm and row["ni"] is not None:
                found.setdefault((row["set"], row["task"]), {})[row["base"]] = row["ni"]
        return found


def of_models(values: Iterable[float | None]) -> Interval | None:
    """Mean over models with Student's t interval; None without any."""
    given = np.array([value for value in values if value is not None and math.isfinite(value)], dtype=float)
    return mean_interval(given) if given.size else None


def jackknifed(statistic: Callable[[Sequence[str]], float], runs: Sequence[str]) -> Interval | None:
    """A statistic of a set of models with the delete-one-model jackknife; None where it is undefined."""
    value = statistic(runs)
    if not math.isfinite(value):
        return None
    without = np.array([statistic([run for run in runs if run != left]) for left in runs])
    if len(runs) < 3 or not np.isfinite(without).all():
        return Interval(value, np.nan, np.nan, len(runs), "model", "t", reason="too few models")
    reach = float(stats.t.ppf(0.975, len(runs) - 1)) * jackknife_error(without)
    return Interval(value, value - reach, value + reach, len(runs), "model", "jackknife over models")


def mean_of(values: Iterable[float]) -> float:
    """Mean; NaN of nothing."""
    given = list(values)
    return float(np.mean(given)) if given else math.nan
