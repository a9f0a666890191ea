"""What claims are made of: the saved results of a report as tables, by model, and what its models have
learned."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd

from cwr_mech.analysis.best import DECODED, best
from cwr_mech.analysis.stats.models import FAILED_BELOW
from cwr_mech.experiments.finetuning import PLAIN
from cwr_mech.findings.claims import CONFIRMED, Claim, NoResults
from cwr_mech.results import Result, Row
from cwr_mech.tasks.registry import PAPER_TASKS

EXPLORED = 3
"""The first bases, by seed, on which hypotheses were made; later ones confirm or refute them."""
AT_CEILING = 0.9
"""Share of the gap that a fine-tuning must close on its own tasks before its transfer can be compared."""
MATCHED = 0.75
"""Share of the gap of their own task at which fine-tunings are compared before they end: the highest level of
`cwr_mech.analysis.course` that the first ripe base reached in distance, angle, compass and perimeter."""


class Saved:
    """Results of one report. `bases`: the models of all tasks that claims about fine-tunings are over."""

    def __init__(
        self,
        results: Mapping[str, Result],
        bases: Sequence[str] | None = None,
        tables: dict[tuple[str, str], pd.DataFrame] | None = None,
    ) -> None:
        self.results = dict(sorted(results.items()))  # "transfer" before "transfer-half": the first counts
        self._chosen = bases
        self._tables = {} if tables is None else tables
        self._over: dict[tuple[str, ...], Saved] = {}
        self._improvements: dict[str, pd.DataFrame] = {}

    def table(self, kind: str, name: str) -> pd.DataFrame:
        """A table of all results of one kind, one under the other. Raises NoResults without a row."""
        if (kind, name) not in self._tables:
            own = [result for result in self.results.values() if result.kind == kind]
            frame = pd.DataFrame([row for result in own for row in result.tables.get(name, [])])
            for column in {"run", "base", "run_a", "run_b"} & set(frame):
                frame[column] = frame[column].str.removeprefix("zoo:")
            self._tables[kind, name] = frame
        if self._tables[kind, name].empty:
            raise NoResults(f"no results of kind {kind} in this report")
        return self._tables[kind, name]

    @cached_property
    def bases(self) -> list[str]:
        """Bases of the fine-tunings, by seed. Raises NoResults without any.

        A fine-tuning need not be among the models: there may be results about a run alone.
        """
        if self._chosen is not None:
            return list(self._chosen)
        models = self.models
        tables = (rows for result in self.results.values() for rows in result.tables.values())
        found = {str(row.get("base")).removeprefix("zoo:") for rows in tables for row in rows}
        return list(models[models["run"].isin(found)].sort_values("seed", kind="stable")["run"])

    def explored(self) -> "Saved":
        """The same results, over the first bases alone."""
        return self.with_bases(self.bases[:EXPLORED])

    def later(self) -> "Saved":
        """The same results, over the bases that came after the hypotheses. Raises NoResults without any."""
        if not self.bases[EXPLORED:]:
            raise NoResults(f"no base beyond the first {EXPLORED}, on which the hypothesis was made")
        return self.with_bases(self.bases[EXPLORED:])

    def with_bases(self, bases: Sequence[str]) -> "Saved":
        """The same results over these bases, one object however often it is asked for: it remembers."""
        key = tuple(bases)
        if key not in self._over:
            self._over[key] = Saved(self.results, bases, self._tables)
        return self._over[key]

    @cached_property
    def models(self) -> pd.DataFrame:
        """Every model: run, base, tasks (joined by +), family, route, seed, rows.

        Models of a user's own tasks, and what starts from them, are left out: claims are about the paper's.
        """
        models = self.table("zoo", "models")
        known = np.array([set(tasks.split("+")) <= set(PAPER_TASKS) for tasks in models["tasks"]])
        models = models[known & ~models["base"].isin(models["run"][~known])]
        if models.empty:
            raise NoResults("no model of the paper's tasks in this report")
        return models

    @cached_property
    def gains(self) -> pd.DataFrame:
        """Share of the gap between constant prediction and perfect answers, training cities: run x task."""
        scores = self.table("zoo", "scores")
        return scores[scores["group"] == "old"].pivot(index="run", columns="task", values="gain")

    def trained_on(self, *tasks: str) -> list[str]:
        """Models trained from fresh weights on exactly these tasks, held-out cities left out, without label
        noise; of models of one seed, that with the fewest rows."""
        chosen = self.models[
            self.models["base"].isna()
            & (self.models["tasks"] == "+".join(tasks))
            & ~self.models["family"].str.contains("pretraining|wrong")
        ]
        return list(chosen["run"][chosen["rows"] == chosen.groupby("seed")["rows"].transform("min")])

    def learned(self, runs: Sequence[str]) -> list[str]:
        """Those that close at least half of the gap on every task they were trained on."""
        return [run for run in runs if self._has_learned[run]]

    @cached_property
    def _has_learned(self) -> dict[str, bool]:
        """Model -> whether it closes at least half of the gap on every task it was trained on."""
        gains = self.gains.to_dict("index")
        tasks = zip(self.models["run"], self.models["tasks"].str.split("+"), strict=True)
        return {
            run: all(gains[run].get(task, math.nan) >= FAILED_BELOW for task in own)
            for run, own in tasks
            if run in gains
        }

    @cached_property
    def singles(self) -> dict[str, list[str]]:
        """Task -> the models of this task alone that have learned it; tasks without one are left out."""
        found = {task: self.learned(self.trained_on(task)) for task in PAPER_TASKS}
        return {task: runs for task, runs in found.items() if runs}

    def unlearned(self) -> str:
        """How many single-task models have not learned their task, in words."""
        runs = [run for task in PAPER_TASKS for run in self.trained_on(task)]
        failed = len(runs) - len(self.learned(runs))
        return f"{failed} of {len(runs)} single-task models close less than half of the gap" if failed else ""

    def best_r2(self, run: str) -> Row:
        """The row of a model's best probe: r2, control_r2_shuffled, layer, hook, task (the prompt)."""
        rows = self.table("maps", "layers")
        mine = rows[rows["run"] == run]
        if mine.empty:
            raise NoResults(f"no probe of {run}")
        return best(mine.to_dict("records"), DECODED)

    def similarity(self, measure: str, column: str = "value") -> dict[tuple[str, str], float]:
        """Pairs of models -> their similarity (or another column of the table), both orders; of a pair in
        several results, that of the first.
        """
        rows = self.table("similarity", "pairs")
        rows = rows[(rows["measure"] == measure) & rows[column].notna()]
        pairs = zip(rows["run_a"], rows["run_b"], rows[column], strict=True)
        found: dict[tuple[str, str], float] = {}
        for a, b, value in pairs:
            found.setdefault((a, b), value)
            found.setdefault((b, a), value)
        return found

    def above_shuffled(self, measure: str) -> dict[tuple[str, str], float]:
        """Pairs of models -> their similarity minus that with one side's cities shuffled."""
        null = self.similarity(measure, "null_mean")
        return {pair: value - null.get(pair, 0.0) for pair, value in self.similarity(measure).items()}

    def improvements(self, condition: str = PLAIN) -> pd.DataFrame:
        """Normalised improvement on held-out cities: base, set, task, ni, trained, retention.

        Only of the paper's tasks, which claims are about, and only tasks that the base had learned: elsewhere
        improvement divides by next to nothing. A fine-tuning in several results counts once.
        """
        if condition in self._improvements:
            return self._improvements[condition]
        rows = self.table("transfer", "scores")
        rows = rows[
            (rows["condition"] == condition) & rows["ni"].notna() & (rows["base_gain"] >= FAILED_BELOW)
        ]
        rows = rows[rows["base"].isin(self.bases) & rows["task"].isin(PAPER_TASKS)]
        rows = rows[[set(tasks.split("+")) <= set(PAPER_TASKS) for tasks in rows["set"]]]
        rows = rows.drop_duplicates(["base", "set", "task", *({"run", "seed"} & set(rows))])
        if rows.empty:
            raise NoResults(f"no fine-tuning of these bases ({condition})")
        self._improvements[condition] = rows
        return rows

    def own(self, task: str, condition: str = PLAIN) -> dict[str, float]:
        """Base -> improvement in `task` of its fine-tuning on that task alone."""
        rows = self.improvements(condition)
        mine = rows[(rows["set"] == task) & (rows["task"] == task)]
        return dict(zip(mine["base"], mine["ni"], strict=True))

    def others(self, task: str, condition: str = PLAIN) -> dict[str, float]:
        """Base -> mean improvement in the tasks that its fine-tuning on `task` did not train."""
        rows = self.improvements(condition)
        mine = rows[(rows["set"] == task) & ~rows["trained"]]
        return mine.groupby("base")["ni"].mean().to_dict()

    def matched(self, task: str) -> dict[str, float]:
        """Base -> mean improvement in other tasks of its fine-tuning on `task` alone where that task's own
        improvement reaches MATCHED; bases whose fine-tuning never gets there are left out.
        """
        rows = self.table("course", "matched")
        rows = rows[(rows["condition"] == PLAIN) & (rows["set"] == task) & (rows["level"] == MATCHED)]
        rows = rows[rows["base"].isin(self.bases) & rows["others"].notna()]
        return dict(zip(rows["base"], rows["others"], strict=True))

    def by_task(self, task: str, condition: str = PLAIN) -> dict[str, float]:
        """Task -> mean improvement over bases, by fine-tunings on `task`."""
        rows = self.improvements(condition)
        return rows[rows["set"] == task].groupby("task")["ni"].mean().to_dict()

    def transient(self, tasks: Sequence[str] = PAPER_TASKS, condition: str = PLAIN) -> str:
        """Why transfer cannot be compared: fine-tunings that stop before their own task is learned, "" if
        none."""
        own = [value for task in tasks for value in self.own(task, condition).values()]
        below = sum(value < AT_CEILING for value in own)
        if not below:
            return ""
        return (
            f"{below} of {len(own)} fine-tunings stop before they close {AT_CEILING:.0%} of the gap in their "
            "own task, and the order of tasks changes with more training"
        )


def across(
    values: Mapping[tuple[str, str], float], groups: Mapping[str, Sequence[str]], kept: Sequence[str]
) -> dict[tuple[str, str], float]:
    """(task, task) -> mean over pairs of models of the two tasks among `kept`; a task with itself: other
    seeds."""
    mine = {task: [run for run in runs if run in kept] for task, runs in groups.items()}
    found = {}
    for a, b in [*combinations(mine, 2), *((task, task) for task in mine)]:
        pairs = combinations(mine[a], 2) if a == b else ((x, y) for x in mine[a] for y in mine[b])
        known = [values[pair] for pair in pairs if pair in values]
        if known:
            found[a, b] = sum(known) / len(known)
    return found


def minus(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    """Unit by unit difference, over the units in both."""
    return {unit: a[unit] - b[unit] for unit in a if unit in b}


def mean_over(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Unit -> mean over the parts, over the units that are in all of them."""
    units = [unit for unit in parts[0] if all(unit in part for part in parts)] if parts else []
    return {unit: sum(part[unit] for part in parts) / len(parts) for unit in units}


def by_bases(claim: Claim) -> tuple[Claim, Claim]:
    """The claim over the first bases (exploratory) and over later ones (confirmatory), as two rows. Each has
    its control over the same bases."""

    def over(some: Callable[[Saved], Saved], one: Claim) -> Claim:
        control = one.control and over(some, one.control)
        return replace(one, control=control, evidence=lambda saved: one.evidence(some(saved)))

    later = replace(claim, id=f"{claim.id}{CONFIRMED}", role="confirmatory")
    return over(Saved.explored, claim), over(Saved.later, later)
