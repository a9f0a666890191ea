"""The tables of an anatomy: norms and ranks of updates, answers of their parts, means over bases."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from cwr_mech.activations.site import Site
from cwr_mech.analysis.anatomy.grafts import Graft, answerer, graft, planned
from cwr_mech.analysis.anatomy.modules import sides
from cwr_mech.analysis.anatomy.update import module_rows, update_rows
from cwr_mech.analysis.locating.survey import Located, Survey
from cwr_mech.analysis.locating.tables import LOCATED
from cwr_mech.analysis.patching.sites import first_read
from cwr_mech.analysis.stats.means import given, mean_columns, mean_of
from cwr_mech.analysis.transfer.answers import Questions, tuned_of
from cwr_mech.analysis.transfer.transfer import Base, score_rows
from cwr_mech.errors import AnalysisError
from cwr_mech.experiments.finetuning import PLAIN, condition_of
from cwr_mech.model.evaluation import Evaluation, answer_rows
from cwr_mech.results import Result, Row, groups
from cwr_mech.tasks.registry import PAPER_TASKS
from cwr_mech.training.runs import Run

COLUMNS = (
    *("task", "trained", "metric", "unit", "new", "old", "base_new", "base_old", "new_constant"),
    *("base_old_constant", "learned", "ni", "retention"),
)
"""Columns of `score_rows` that a row of `grafts` takes over."""
BASE, WHOLE = "base", "whole update"
MEASURES = ("own", "others", "retention", "own_share", "others_share")
Advance = Callable[[int], object]


@dataclass(frozen=True)
class Before:
    """A base: where it reads a city, what interchanging that site does, its questions and its answers."""

    run: Run
    site: Site
    read: Row
    questions: Questions
    scores: Base

    @classmethod
    def ask(
        cls, run: Run, example: Run, tasks: Sequence[str], n: int, seed: int, advance: Advance
    ) -> "Before":
        """Find the site and ask the questions in the world of `example`, a fine-tuning of the base.

        Raises AnalysisError without new cities, and for a base that reads a city at no single site.
        """
        world, model = example.world(), run.model()
        if not len(world.new()):
            raise AnalysisError("this world has no new cities about which grafts could be asked")
        found = first_read(model, run.world(), run.config.data.tasks)
        site = found.primary
        read = {"base": run.name, "task": found.task} | dict(found.row(site))
        questions = Questions(world, tasks, n, seed, protocol=run.config.data.protocol)
        scores = questions.ask(partial(answer_rows, model), advance)
        return cls(run, site, read, questions, Base(run.name, scores["old"], scores["new"]))

    @property
    def layer(self) -> int:
        """After which block a city is read."""
        return self.site.number(self.run.config.model.n_layers)


def anatomy_result(
    runs: Sequence[tuple[Run, Run]],
    *,
    tasks: Sequence[str] = PAPER_TASKS,
    n: int = 200,
    seed: int = 42,
    places: bool = False,
    advance: Advance = lambda n: None,
) -> Result:
    """Norm and rank of the updates of fine-tuned runs, each given with its base, and answers of their parts.

    A usual fine-tuning is grafted into its base in parts; one under another condition (frozen modules,
    projected gradients) is scored as it is. The city side reaches up to the layer at which the base reads a
    city, found by interchange, and state grafts are made there. n: test questions a task and group of cities.
    places: also find where the answers put new cities (`analysis/locating`), of all parts but state grafts.
    `advance(k)` is called after k answers, of which there are `n_answers(runs, tasks, n)`.
    Raises AnalysisError for models of different shapes, for equal weights, and without new cities.
    """
    names = ("sites", "modules", "matrices", "grafts", "carried", *(("places",) if places else ()))
    tables: dict[str, list[Row]] = {name: [] for name in names}
    bases: dict[str, Before] = {}
    for run, parent in runs:
        if parent.name not in bases:
            bases[parent.name] = Before.ask(parent, run, tasks, n, seed, advance)
            tables["sites"].append(bases[parent.name].read)
        for name, rows in examined(run, bases[parent.name], places, advance).items():
            tables[name] += rows
    layers = sorted({before.layer for before in bases.values()})
    both = {layer: sides(runs[0][1].config.model.modules, layer) for layer in layers}
    return Result(
        kind="anatomy",
        params={"runs": [run.name for run, _ in runs], "tasks": list(tasks), "rows": n, "seed": seed},
        values={"n_models": len(runs), "n_bases": len(bases), "layers": layers},
        tables=tables | {"summary": summary(tables["carried"])},
        notes=[
            *(
                f"Cities are read after block {layer}: the city side is {'+'.join(side['city'])}, the answer "
                f"side {'+'.join(side['answer'])}."
                for layer, side in both.items()
            ),
            "Improvement: share of the gap between new and training cities that is closed, 0 as in the base, "
            "1 as good as on training cities. Others: mean over untrained tasks that the base had learned.",
            "State grafts: only the residual stream at the tokens at which new cities are read is exchanged.",
            f"{n} test questions a task and group of cities, the same ones for all models of a base. "
            "Intervals: Student's t over bases, one number each.",
        ],
    )


def n_answers(runs: Sequence[tuple[Run, Run]], tasks: Sequence[str], n: int) -> int:
    """Answers that `anatomy_result` decodes."""
    bases = len({parent.name for _, parent in runs})
    parts = sum(len(parts_of(run, parent, 0)) - 1 for run, parent in runs)
    return 2 * n * len(tasks) * (bases + parts)


def parts_of(run: Run, base: Run, layer: int) -> tuple[Graft, ...]:
    """What is asked of a fine-tuning: of a usual one all its grafts, else base and whole update."""
    modules = base.config.model.modules
    whole = Graft("whole", WHOLE, modules)
    if tuned_condition(run):
        return Graft("base", BASE, (), 0.0), replace(whole, kind="condition", name=tuned_condition(run))
    return Graft("base", BASE, (), 0.0), whole, *planned(modules, layer)


def tuned_condition(run: Run) -> str:
    """What is unusual about a fine-tuning; "" for a usual one."""
    return condition_of(run.config).removeprefix(PLAIN).removeprefix(", ")


def examined(run: Run, before: Before, places: bool, advance: Advance) -> dict[str, list[Row]]:
    """The rows of one fine-tuned run for every table."""
    survey = Survey(run.world(), LOCATED) if places else None
    base, tuned, world = before.run.model(), run.model(), run.world()
    head = {"run": run.name, "base": before.run.name, "set": "+".join(run.config.data.tasks)}
    modules = base.config.modules
    rows = update_rows(base, tuned)
    known = {"old": before.scores.old, "new": before.scores.new}
    about = tuned_of(run, known)
    table: list[Row] = []
    put: list[Row] = []
    for part in parts_of(run, before.run, before.layer):
        if part.kind == "base":
            scores: Mapping[str, Evaluation] = known
        else:
            ids, digits = world.ids[world.new()], world.config.id_digits
            scores = before.questions.ask(answerer(part, base, tuned, before.site, ids, digits), advance)
        model = replace(about, old=scores["old"], new=scores["new"])
        mine = {"kind": part.kind, "graft": part.name, "modules": "+".join(part.modules), "alpha": part.alpha}
        for row in score_rows(model, before.scores):
            table.append(head | mine | {name: row[name] for name in COLUMNS})
        if survey is not None and part.kind != "state":
            located = survey.model(graft(base, tuned, part.modules, part.alpha))
            put += [head | row for row in place_rows(part, about.trained, survey, located)]
    city = sides(modules, before.layer)["city"]
    return {
        "modules": [head | row for row in module_rows(rows, modules, city)],
        "matrices": [head | row for row in rows],
        "grafts": table,
        "carried": [head | row for row in carried(table)],
    } | ({"places": put} if places else {})


def place_rows(part: Graft, trained: Sequence[str], survey: Survey, located: Located) -> list[Row]:
    """Mean error of the coordinates that the answers in each task imply for new and for training cities, in
    tenths of a degree.
    """
    is_new, rows = survey.cities.is_new, []
    for task in located.implied:
        about = {"kind": part.kind, "graft": part.name, "task": task, "trained": task in trained}
        errors = located.errors(task)
        means = {"error_new": errors[is_new].mean(), "error_training": errors[~is_new].mean()}
        rows.append(about | {name: float(mean) for name, mean in means.items()})
    return rows


def carried(rows: Sequence[Row]) -> list[Row]:
    """One row a part: improvement of the trained tasks, mean improvement of the others that the base had
    learned, retention of the trained tasks, and both improvements as shares of the whole update's.
    """
    found: list[Row] = []
    for mine in groups(rows, "graft").values():
        trained = [row for row in mine if row["trained"]]
        others = [row["ni"] for row in mine if not row["trained"] and row["learned"]]
        kept = {key: mine[0][key] for key in ("kind", "graft", "modules", "alpha")}
        means = {"own": mean_of(row["ni"] for row in trained), "others": mean_of(others)}
        found.append(kept | means | {"retention": mean_of(row["retention"] for row in trained)})
    whole = next((row for row in found if row["graft"] == WHOLE), None)
    return [row | {f"{key}_share": _share(row, whole, key) for key in ("own", "others")} for row in found]


def _share(row: Row, whole: Row | None, key: str) -> float | None:
    """A part's improvement over the whole update's; None where the whole improves nothing."""
    if whole is None or not given(row[key]) or not given(whole[key]) or whole[key] <= 0:
        return None
    return float(row[key] / whole[key])


def summary(rows: Sequence[Row]) -> list[Row]:
    """Means over bases with intervals, for every trained set and part."""
    found = []
    for (trained, part), mine in groups(rows, "set", "graft").items():
        line: Row = {"set": trained, "kind": mine[0]["kind"], "graft": part, "models": len(mine)}
        for key in MEASURES:
            line |= mean_columns(key, [row[key] for row in mine])
        found.append(line)
    return found
