"""`cwr-mech patch`: which activations carry a city from the question to the answer?"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Report, Step

if TYPE_CHECKING:
    from cwr_mech.analysis.patching.pairs import Pairs
    from cwr_mech.analysis.patching.parts import Question
    from cwr_mech.analysis.patching.study import Extras
    from cwr_mech.analysis.patching.sweep import Cost
    from cwr_mech.model.qwen2 import HookedQwen2
    from cwr_mech.results import Result
    from cwr_mech.training.runs import Run


def command(
    run: Annotated[
        list[str] | None, typer.Argument(help="The run; the latest by default. Several become the units.")
    ] = None,
    task: Annotated[str, typer.Option(help="Task, several by comma, or all.")] = "distance",
    components: Annotated[
        str, typer.Option(help="What is patched, by comma, e.g. resid_post,z,mlp_out; or all.")
    ] = "resid_post,attn_out,mlp_out,z",
    spans: Annotated[
        str, typer.Option(help="Where: default, positions, or spans such as swapped_last,equals.")
    ] = "default",
    pairs: Annotated[int, typer.Option(min=8, help="Pairs of questions.")] = 64,
    metric: Annotated[
        str, typer.Option(help="Scores, by comma: logit_diff, logprob_diff, kl, digits; the first leads.")
    ] = "logit_diff,logprob_diff",
    subspace: Annotated[
        str | None,
        typer.Option(help="Replace a part only: manifold, pca, probe, covariance-matched, random, readers."),
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Rank of manifold and pca subspaces.")] = None,
    das: Annotated[int | None, typer.Option(min=1, help="Learn a subspace of this rank (DAS).")] = None,
    slot: Annotated[int | None, typer.Option(min=1, help="Swap this city, from 1; any by default.")] = None,
    group: Annotated[str, typer.Option(help="Cities: old, or new (swapped for old ones).")] = "old",
    only_subspace: Annotated[
        bool,
        typer.Option(
            "--only-subspace", help="No sweep: which part of a city's state do answers follow, run by run?"
        ),
    ] = False,
    donor: Annotated[
        list[str] | None,
        typer.Option(help="With --only-subspace: take donors from this run, too, aligned. May be repeated."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="A number is right within this share of the best constant's error.")
    ] = 0.25,
    seed: Annotated[int, typer.Option(min=0, help="Seed of pairs and resampling.")] = 42,
    step: Step = None,
    top: Annotated[int, typer.Option(min=1, help="Rows of the table shown here; all are saved.")] = 12,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads; small models need only one.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a sweep that was stopped.")] = False,
    report: Report = None,
) -> None:
    """Swap one city for another inside the model, place by place, and see how far the answer follows: in both
    directions, beside an unrelated city, the run itself, and other controls.
    """
    import torch

    from cwr_mech.analysis.patching.metrics import check_metrics
    from cwr_mech.analysis.patching.parts import Question
    from cwr_mech.analysis.patching.study import Extras
    from cwr_mech.analysis.patching.survey import pooled_result, tasks_result
    from cwr_mech.errors import AnalysisError, ConfigError
    from cwr_mech.tasks.registry import TASKS, get_task
    from cwr_mech.training.runs import load_run

    from .common import report_folder, save_result, say
    from .patch_parts import watched_parts
    from .stores import split

    torch.set_num_threads(threads)
    named: list[str | None] = list(run) if run else [None]
    sources = [load_run(name) for name in named]
    target = report_folder(report or sources[0].name).name
    tasks = list(TASKS) if task == "all" else split(task) or []
    asked = {name: check_metrics(split(metric) or [], get_task(name).max_answer_tokens) for name in tasks}
    kinds, place = tuple(split(subspace) or ()), None if slot is None else slot - 1
    if only_subspace:
        groups = split(group) or []
        questions = [Question(name, pairs, seed, each, 0, tolerance) for name in tasks for each in groups]
        loaded = {item: load_run(item) for item in donor or []}
        found = watched_parts(sources, loaded, questions, kinds or PARTS, rank, step)
        save_result(found, target, "patch-parts")
        return
    if donor:
        raise ConfigError("--donor needs --only-subspace", "a sweep takes its donors from the run itself")
    leading = []
    for name, metrics in asked.items():
        question, results = Question(name, pairs, seed, group, place, tolerance), []
        label = f"patch-{name}" if group == "old" else f"patch-{name}-{group}"
        for source in sources:
            study = Study(source, step, question, components, spans, metrics, Extras(kinds, rank, das))
            try:
                kept = study.pairs()
            except AnalysisError as error:
                if len(tasks) == len(sources) == 1:
                    raise
                say(f"left out: {source.name}, {name}: {error.message}")
                continue
            own = label if len(sources) == 1 else f"{label}-{source.name.replace(':', '-')}"
            results.append(study.run(kept, target, own, resume, top))
        if len(results) > 1:
            results.insert(0, pooled_result(results, seed=seed))
            show(results[0], top)
            save_result(results[0], target, label)
        leading += results[:1]
    if not leading:
        raise AnalysisError(
            "no model answered any of the tasks: see above", "train longer, or raise --tolerance"
        )
    if len(leading) > 1:
        compared = tasks_result(leading)
        show_tasks(compared)
        save_result(compared, target, "patch-tasks")


PARTS = ("manifold", "pca", "covariance-matched", "random")


@dataclass(frozen=True)
class Study:
    """One model asked one question: what to patch, as it was typed."""

    source: "Run"
    step: int | None
    question: "Question"
    components: str
    spans: str
    metrics: tuple[str, ...]
    extras: "Extras"

    def pairs(self) -> "Pairs":
        """Pairs of questions that the model answers; AnalysisError when there are too few."""
        from cwr_mech.analysis.patching.parts import ask

        return ask(self.source.model(self.step), self.source.world(), self.question)

    def run(self, pairs: "Pairs", report: str, label: str, resume: bool, top: int) -> "Result":
        """The cost said first, progress shown, a sweep that can resume; what came is printed and saved."""
        from cwr_mech.analysis.patching.cells import COMPONENTS, check_places, grid
        from cwr_mech.analysis.patching.layout import CONDITIONS
        from cwr_mech.analysis.patching.store import SweepStore, sweep_key
        from cwr_mech.analysis.patching.study import About, examine
        from cwr_mech.analysis.patching.sweep import cost, sweep
        from cwr_mech.analysis.patching.table import write_csv

        from .common import RUNS, progress, report_folder, save_result, say
        from .stores import command_line, split

        source, task, metrics = self.source, self.question.task, self.metrics
        model, world = source.model(self.step), source.world()
        places = check_places(split(self.spans) or [], task, world.config.id_digits)
        chosen = COMPONENTS if self.components == "all" else split(self.components) or []
        cells = grid(model.cfg, chosen, places)
        work = cost(model, pairs, cells, metrics=metrics, conditions=CONDITIONS)
        show_cost(task, len(pairs), len(cells), work, model)
        digest = source.sha256(self.step)
        key = sweep_key(digest, pairs, cells, metrics, [str(condition) for condition in CONDITIONS])
        store = SweepStore(RUNS / ".sweeps" / f"{report}-{label}", key, resume=resume)
        with progress(f"patch {task}", work.rows, "patches") as advance:
            swept = sweep(
                model, pairs, cells, metrics=metrics, conditions=CONDITIONS, store=store, advance=advance
            )
        inputs = {source.checkpoint(self.step).as_posix(): digest}
        about = About(source.name, self.step or source.last_step, inputs, command_line())
        result = examine(model, world, self.question, pairs, swept, about, self.extras)
        show(result, top)
        save_result(result, report, label)
        table = report_folder(report) / "results" / f"{label}.csv"
        say(f"table   {write_csv(table, result.tables['cells'])}")
        store.remove()
        return result


def show_cost(task: str, n_pairs: int, n_cells: int, work: "Cost", model: "HookedQwen2") -> None:
    """Say what a sweep will take on this machine, measured by a few plain runs."""
    from .common import duration, say

    seconds = work.operations / speed(model)
    say(
        f"{task}: {n_cells} cells in {n_pairs} pairs are {work.rows:,} patched runs ({work.known:,} more are "
        f"known without running), about {duration(seconds)} and as much for estimates and decoding, "
        f"{(work.record_bytes + work.budget) / 2**20:.0f} MB at most"
    )


def speed(model: "HookedQwen2") -> float:
    """Multiply-adds a second of this machine in plain runs of this model, the best of three."""
    import time

    import torch

    from cwr_mech.analysis.patching.forward import Forward, Tree

    forward, tokens = Forward(model), torch.zeros(128, 24, dtype=torch.int64, device=model.W_E.device)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        forward.record(tokens, Tree(24))
        times.append(time.perf_counter() - start)
    weights = sum(value.numel() for name, value in model.named_parameters() if name.startswith("blocks"))
    return weights * tokens.numel() / min(times)


def show(result: "Result", top: int) -> None:
    """Print the largest effects and what was found in words."""
    from .common import console, rows_of, say, table

    metric = result.params["metric"]
    rows = [r for r in result.tables["cells"] if r["metric"] == metric and r["recovered"] is not None]
    rows.sort(key=lambda row: -abs(row["recovered"]))
    columns = ["direction", "component", "layer", "head", "span", "n", "effect", "recovered"]
    columns += ["lo", "hi", "null", "p_adj"]
    title = f"{result.params['task']}: largest shares of the {metric} recovered, of {len(rows)} cells"
    console.print(table(title, columns, rows_of(rows[:top], columns)))
    for note in result.notes:
        say(note)


def show_tasks(result: "Result") -> None:
    """Print how tasks compare."""
    from .common import console, rows_of, table

    columns = list(result.tables["tasks"][0])
    console.print(table("tasks compared", columns, rows_of(result.tables["tasks"], columns)))
