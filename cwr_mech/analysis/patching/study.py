"""Which states carry a city from the question to the answer, and which part of them do answers read?"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Annotated, TypeVar

from cwr_mech.analysis.study import (
    Names,
    Opt,
    OwnTasks,
    RunArg,
    RunsArg,
    Seed,
    Step,
    each,
    names,
    stage,
    study,
    uses,
)
from cwr_mech.errors import ConfigError
from cwr_mech.results import Result

if TYPE_CHECKING:
    from cwr_mech.training.runs import Run

T = TypeVar("T")
Pairs = Annotated[int, Opt("Pairs of questions that differ in one city.", min=8)]
Tolerance = Annotated[
    float, Opt("A number is right within this share of the constant-prediction baseline's error.", min=0)
]
PATCHED = "resid_post,attn_out,mlp_out,z"
CitiesHere = Annotated[str, Opt("old, or new (training cities are put in new ones' places).")]


def _answered(
    runs: "Sequence[Run]", tasks: Sequence[str], ask: "Callable[[Run, str], T]"
) -> tuple[list[list[T]], list[str]]:
    """What `ask` finds for every task in every run that answers enough of its questions, and notes about the
    others. Raises NoPairs where none does, and what `ask` raises for any other reason.
    """
    from cwr_mech.analysis.patching.pairs import NoPairs

    found: list[list[T]] = []
    lost: list[str] = []
    first: NoPairs | None = None
    for task in tasks:
        mine = []
        for run in runs:
            try:
                mine.append(ask(run, task))
            except NoPairs as error:
                if len(runs) == len(tasks) == 1:
                    raise
                lost.append(f"Left out: {run.name}, {task}: {error.message}.")
                first = first or error
        found += [mine] if mine else []
    if first and not found:
        raise NoPairs(f"there are no pairs of {', '.join(tasks)} to patch: {lost[0]}", first.hint)
    return found, lost


def _patched_texts(
    runs: "Sequence[Run]", prompt: str | None, components: Sequence[str], pairs: int, seed: int
) -> Result:
    """Entities swapped in the texts of a folder's activation file. Raises ConfigError for several folders."""
    from cwr_mech.analysis.patching.text_swaps import swaps_result
    from cwr_mech.analysis.sources import open_sources
    from cwr_mech.training.compute import choose

    if len(runs) > 1:
        raise ConfigError("patch takes one model that reads text", "patch each by itself")
    source = open_sources(runs[0].source)[0]
    model = runs[0].text_model().to(choose("auto", "float32", "off").device)
    prompt = prompt or source.store.tasks[0]
    return swaps_result(
        model, source.store, prompt, run=source.label, components=components, pairs=pairs, seed=seed
    )


@study("sites")
def sites(
    run: RunArg = None,
    *,
    tasks: OwnTasks = "own",
    cities: CitiesHere = "old",
    city: Annotated[str, Opt("Which city of the question, from 1; several by comma.")] = "1",
    pairs: Pairs = 64,
    tolerance: Annotated[
        float, Opt("An answer has moved when it is this near, in shares of the constant's error.", min=0)
    ] = 0.05,
    seed: Seed = 0,
    step: Step = None,
) -> Result:
    """Where does a task read a city? Interchange interventions on the whole state, at every layer and token.

    A site where fewer than half of the answers become the source's is causally weak: what a probe decodes
    there is not what the answers use.
    """
    from cwr_mech.analysis.sources import run_of, tasks_named

    found = run_of(run)
    asked = tasks_named(tasks, found)
    places = names(city) or []
    if not places or not all(place.isdigit() and int(place) > 0 for place in places):
        raise ConfigError(f"'{city}' names no city of a question", "count them from 1, as in --city 1,2")
    from cwr_mech.analysis.patching.sites import CausalSites, causal_sites, sites_result

    model, world, slots = found.model(step), found.world(), [int(place) - 1 for place in places]
    uses(found.checkpoint(step).as_posix(), found.sha256(step))
    search = partial(causal_sites, n_pairs=pairs, seed=seed, cities=cities, slots=slots, tolerance=tolerance)
    with stage("sites", len(asked), "tasks") as advance:

        def ask(_: "Run", task: str) -> CausalSites:
            try:
                return search(model, world, task)
            finally:
                advance(1)

        known, lost = _answered([found], asked, ask)
    settings = {"seed": seed, "cities": cities, "pairs": pairs, "tolerance": tolerance}
    result = sites_result([mine for (mine,) in known], run=found.name, params=settings)
    return replace(result, notes=[*result.notes, *lost])


@study("patch")
def patch(
    runs: RunsArg = None,
    *,
    task: Annotated[
        str | None,
        Opt("Task of the questions, distance by default; or a prompt of texts, the first by default."),
    ] = None,
    components: Annotated[Names, Opt("What is patched, e.g. resid_post,z,mlp_out; or all.")] = PATCHED,
    spans: Annotated[
        Names, Opt("Where: default, positions, or spans such as swapped_reading,equals.")
    ] = "default",
    pairs: Pairs = 64,
    metric: Annotated[
        Names, Opt("Scores: logit_diff, logprob_diff, kl, digits; the first leads.")
    ] = "logit_diff,logprob_diff",
    subspace: Annotated[
        Names, Opt("Interchange parts of the state too: manifold, pca, probe, ... or all.")
    ] = None,
    das: Annotated[int | None, Opt("Learn a subspace of this rank (DAS).", min=1)] = None,
    cities: CitiesHere = "old",
    slot: Annotated[
        int | None, Opt("The city of the question that differs, from 1; any by default.", min=1)
    ] = None,
    tolerance: Tolerance = 0.25,
    seed: Seed = 42,
    step: Step = None,
    resume: Annotated[bool, Opt("Go on with a sweep that was stopped; it lies in runs/.sweeps.")] = False,
) -> Result:
    """Activation patching of one task, component by component and token by token, in both directions.

    Controls in every cell: an unrelated city, the run itself, a city with the same answer. Then decoded
    answers, sources at known steps, attribution and path patching, and subspaces beside strong controls.
    Several runs are pooled: models are the units.

    In a model with a tokenizer of its own one entity is swapped for another of equal length, in the texts
    that cache-acts has read: how far does the next token follow? There --task is a prompt.
    """
    from cwr_mech.analysis.sources import runs_of, tasks_named

    found = runs_of(runs)
    if found[0].reads_text:
        wanted = [name for name in names(components) or () if name != "z" or components != PATCHED]
        return _patched_texts(found, task, wanted, pairs, seed)
    asked = tasks_named(task or "distance", found[0])
    if len(asked) > 1:
        raise ConfigError(
            f"patch takes one task, not {', '.join(asked)}", "put tasks beside each other with patch-tasks"
        )
    from cwr_mech.analysis.patching.examine import Extras, Sweeping, patched
    from cwr_mech.analysis.patching.metrics import check_metrics
    from cwr_mech.analysis.patching.parts import Question
    from cwr_mech.analysis.patching.store import SWEEPS, Sweeps
    from cwr_mech.analysis.patching.subspaces import check_subspaces
    from cwr_mech.analysis.patching.survey import pooled_result
    from cwr_mech.tasks.registry import get_task

    question = Question(asked[0], pairs, seed, cities, None if slot is None else slot - 1, tolerance)
    extras = Extras(check_subspaces(names(subspace) or []), das=das)
    metrics = check_metrics(names(metric) or [], get_task(question.task).max_answer_tokens)
    chosen = tuple(names(components) or ()), tuple(names(spans) or ())
    with Sweeps(SWEEPS, resume=resume) as kept:
        sweeping = Sweeping(*chosen, metrics, kept)
        (results,), lost = _answered(
            found, asked, lambda run, _: patched(run, step, question, sweeping, extras)
        )
    result = pooled_result(results, seed=seed)
    return replace(result, notes=[*result.notes, *lost])


@study("patch-tasks")
def patch_tasks(
    runs: RunsArg = None,
    *,
    tasks: OwnTasks = "own",
    pairs: Pairs = 64,
    tolerance: Tolerance = 0.25,
    seed: Seed = 42,
    step: Step = None,
) -> Result:
    """Tasks beside each other: until which layer a city is held where it is named, from where '=' has it.

    Patches the residual stream and single heads where the model reads the city, found by interchange, and at
    '=', by the logit difference.
    """
    from cwr_mech.analysis.sources import runs_of, tasks_named

    found = runs_of(runs)
    asked = tasks_named(tasks, found[0])
    from cwr_mech.analysis.patching.examine import Sweeping, patched
    from cwr_mech.analysis.patching.pairs import READING
    from cwr_mech.analysis.patching.parts import Question
    from cwr_mech.analysis.patching.survey import pooled_result, tasks_result

    sweeping = Sweeping(("resid_post", "z"), (READING, "equals"), ("logit_diff",))

    def ask(run: "Run", task: str) -> Result:
        return patched(run, step, Question(task, pairs, seed, tolerance=tolerance), sweeping, None)

    results, lost = _answered(found, asked, ask)
    result = tasks_result([pooled_result(mine, seed=seed) for mine in results])
    return replace(result, notes=[*result.notes, *lost])


@study("patch-parts")
def patch_parts(
    runs: RunsArg = None,
    *,
    tasks: Annotated[Names, Opt("Tasks, comma-separated.")] = "distance",
    cities: Annotated[Names, Opt("Questions about training cities, about new ones, or old,new.")] = "old",
    subspace: Annotated[
        Names, Opt("Kinds of subspaces; the manifold always.")
    ] = "manifold,pca,covariance-matched,random",
    states_from: Annotated[Names, Opt("Take the sources' states from these runs as well, aligned.")] = None,
    pairs: Pairs = 64,
    tolerance: Tolerance = 0.25,
    seed: Seed = 42,
    step: Step = None,
) -> Result:
    """Which part of the first city's state do answers read? Manifold, its complement, and their controls.

    The state stands at the token, or tokens side by side, at which the model reads a city by interchange.
    Run by run and task by task; runs trained alike are pooled, with models as the units.
    """
    from cwr_mech.analysis.sources import runs_of, tasks_named

    found, others = runs_of(runs), runs_of(states_from) if states_from else []
    asked = tasks_named(tasks, found[0])
    from cwr_mech.analysis.patching.parts import Question, parts_result, parts_study, training_of
    from cwr_mech.analysis.patching.subspaces import check_subspaces

    groups, kinds = names(cities) or [], check_subspaces(names(subspace) or [])
    questions = [Question(task, pairs, seed, group, 0, tolerance) for task in asked for group in groups]
    for run, which in [*((run, step) for run in found), *((run, None) for run in others)]:
        uses(run.checkpoint(which).as_posix(), run.sha256(which))
    for run, other in product(found, others):
        if other.world().sha256 != run.world().sha256:
            raise ConfigError(f"{other.name} knows other cities than {run.name}", "align runs of one world")
    beside = {other.folder: (other.name, other.model()) for other in others}
    rows, told = [], []
    for run, question in each(list(product(found, questions)), "parts", "questions"):
        sources = [one for folder, one in beside.items() if folder != run.folder]
        about = {"run": run.name, "training_tasks": training_of(run)}
        mine, row = parts_study(run.model(step), run.world(), about, question, kinds, sources=sources)
        rows += mine
        told.append(row)
    return parts_result(rows, told, [run.name for run in found], seed)
