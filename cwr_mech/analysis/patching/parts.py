"""Through which part of a city's state do answers run? Interchange inside and outside of the manifold.

Model by model and task by task the first city's state is replaced in part, from a source city or from what
another model holds about the source, aligned; and the answer decoded. Training cities are swapped for other
training cities, new cities for training cities and the other way round.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
import torch

from cwr_mech.analysis.patching.cells import Cell, swapped_span
from cwr_mech.analysis.patching.das import das
from cwr_mech.analysis.patching.interchange import Interchange, interchange, interchange_rows
from cwr_mech.analysis.patching.layout import INTERCHANGE
from cwr_mech.analysis.patching.pairs import READING, NoPairs, Pairs, find_pairs
from cwr_mech.analysis.patching.sites import known_sites
from cwr_mech.analysis.patching.subspaces import (
    Fitted,
    aligned_states,
    describe,
    fit_subspaces,
    graft,
    states_at,
)
from cwr_mech.analysis.patching.summary import GROUPED, verdict
from cwr_mech.analysis.patching.table import pool_followed
from cwr_mech.errors import AnalysisError
from cwr_mech.model.decoding import decode_text
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.results import Result, Row, groups
from cwr_mech.tasks.registry import TASKS, get_task
from cwr_mech.training.runs import Run
from cwr_mech.world.cities import World

FOLDS = 5


@dataclass(frozen=True)
class Question:
    """What pairs to look for: see `find_pairs`."""

    task: str
    n: int = 64
    seed: int = 42
    group: str = "old"
    slot: int | None = None
    tolerance: float = 0.25


def ask(model: HookedQwen2, world: World, question: Question) -> Pairs:
    """Pairs the model answers, with the position at which it reads a city (see `reading`)."""
    answerer = partial(decode_text, model, max_new_tokens=get_task(question.task).max_answer_tokens)
    pairs = find_pairs(answerer, world, **vars(question))
    return replace(pairs, reading=reading(model, world, question.task))


def reading(model: HookedQwen2, world: World, task: str) -> str:
    """The position at which a model reads the first city of a task's questions, by interchange of other
    questions than are asked here; the last digit where it answers too few about training cities to tell."""
    try:
        return known_sites(model, world, task).primary.position
    except NoPairs:
        return "last_digit"


def subspace_part(
    model: HookedQwen2, world: World, question: Question, kinds: Sequence[str]
) -> tuple[list[Row], int]:
    """Table `subspaces`: what the answer follows when only a part of the first city's state is replaced."""
    pairs = ask(model, world, replace(question, slot=0))
    fitted = fit_subspaces(model, world, question.task, kinds, position=pairs.reading, seed=question.seed)
    return followed(model, pairs, fitted, question.seed), len(pairs)


def followed(model: HookedQwen2, pairs: Pairs, fitted: Fitted, seed: int) -> list[Row]:
    """Rows of decoded answers for every fitted subspace. For new cities in both directions: "noise" puts an
    training city into the new one's question, "denoise" the new city into the old one's."""
    conditions = INTERCHANGE if pairs.group == "new" else INTERCHANGE[1:]
    found = interchange(model, pairs, fitted.cells, conditions=conditions, bases=fitted.bases)
    rng = np.random.default_rng(np.random.SeedSequence((seed, 10)))
    return describe(fitted, interchange_rows(found, pairs, rng))


DAS_PAIRS = 512
"""Pairs to learn a subspace on and to test it on."""


def das_part(model: HookedQwen2, world: World, question: Question, layer: int, rank: int) -> list[Row]:
    """Table `das`: a learned subspace, its controls and the manifold after one layer, at the last token at
    which the model reads a city: the search is made for one token."""
    pairs = ask(model, world, replace(question, n=DAS_PAIRS, slot=0))
    last = pairs.reading.split("+")[-1]
    span = swapped_span(last)
    fitted = fit_subspaces(
        model, world, question.task, ("manifold",), position=last, span=span, seed=question.seed
    )
    others = {"manifold": fitted.bases["manifold", layer, span]}
    return das(model, pairs, layer, span, rank=rank, others=others, seed=question.seed)


def from_another(
    model: HookedQwen2, world: World, pairs: Pairs, fitted: Fitted, other: HookedQwen2, name: str, seed: int
) -> list[Row]:
    """Rows as of `followed`, where the source's state is what model `other` (called `name`) holds about it.

    Its states after the same layer (or its last) are mapped by ridge regression on training cities that are
    not the one mapped; the control is fitted on cities paired at random. For new cities the question is about
    the training city and the source is the new one, which no alignment has seen ("denoise").
    """
    direction = "denoise" if pairs.group == "new" else "noise"
    if pairs.group == "new":
        pairs = flipped(pairs)
    here = np.arange(len(pairs))
    asked, source = (world.rows(ids[here, pairs.slot]) for ids in (pairs.clean, pairs.corrupt))
    rng = np.random.default_rng(np.random.SeedSequence((seed, 12)))
    folds = np.where(world.is_new, -1, rng.integers(FOLDS, size=world.n))
    own, theirs = (states_at(each, world, pairs.task, world.ids, pairs.reading) for each in (model, other))
    whole = torch.eye(own.shape[-1])
    rows: list[Row] = []
    for layer, states in enumerate(own):
        beside = theirs[min(layer, len(theirs) - 1)]
        for label, shuffle in ((name, None), (f"{name}, cities shuffled", rng)):
            change = aligned_states(states, beside, folds, shuffle=shuffle)[source] - states[asked]
            for kind in (None, "manifold", "not-manifold"):
                basis = (whole if kind is None else fitted.bases[kind, layer, READING]).double().numpy()
                words = graft(model, pairs, layer, READING, states[asked] + change @ basis @ basis.T)
                cell = Cell("resid_post", layer, None, READING, subspace=kind)
                shape = (1, 1, len(pairs))
                applies, unknown = np.ones(shape, bool), np.full(shape, np.nan)
                found = Interchange((cell,), INTERCHANGE[1:], applies, words[None, None], unknown)
                (row,) = interchange_rows(found, pairs, rng)
                rows.append({"states_from": label} | row | {"direction": direction})
    return describe(fitted, rows)


def flipped(pairs: Pairs) -> Pairs:
    """The same pairs with clean and corrupt exchanged."""
    ways = product((("clean", "corrupt"), ("corrupt", "clean")), ("", "_answer", "_truth"))
    return replace(pairs, **{f"{to}{end}": getattr(pairs, f"{of}{end}") for (to, of), end in ways})


def parts_study(
    model: HookedQwen2,
    world: World,
    about: Mapping[str, str],
    question: Question,
    kinds: Sequence[str],
    *,
    sources: Sequence[tuple[str, HookedQwen2]] = (),
) -> tuple[list[Row], Row]:
    """Tables `parts` (rows of `followed` and, for each of `sources`, `from_another`) and `asked` (one row) of
    one model, task and group; `about` names its `run` and its `training_tasks`. A model that does not answer
    gives no parts, and the reason."""
    about = {**about, "task": question.task, "group": question.group}
    try:
        pairs = ask(model, world, replace(question, slot=0))
    except NoPairs as error:
        return [], {**about, "reading": None, "pairs": 0, "tried": None, "left_out": error.message}
    kinds = list(dict.fromkeys(["manifold", *kinds]))
    fitted = fit_subspaces(model, world, question.task, kinds, position=pairs.reading, seed=question.seed)
    rows = [{"states_from": "own"} | row for row in followed(model, pairs, fitted, question.seed)]
    for source, other in sources:
        rows += from_another(model, world, pairs, fitted, other, source, question.seed)
    lost = ", ".join(f"{n} {reason}" for reason, n in pairs.attrition.items() if reason != "kept")
    tried = sum(pairs.attrition.values())
    asked = {"reading": pairs.reading, "pairs": len(pairs), "tried": tried, "left_out": lost}
    return [about | row for row in rows], about | asked


def training_of(run: Run) -> str:
    """What a run was trained on, in words: runs trained alike are the units of one comparison."""
    tasks = run.config.data.tasks
    words = "all tasks" if len(tasks) == len(TASKS) else ", ".join(tasks)
    return f"fine-tuned on {words}" if run.parent else f"trained on {words}"


def parts_result(rows: Sequence[Row], asked: Sequence[Row], runs: Sequence[str], seed: int) -> Result:
    """Kind "patch_parts" of many `parts_study`. Raises AnalysisError when no model answered anything."""
    if not rows:
        raise AnalysisError(
            f"no model answers any of these questions well enough; the first says: {asked[0]['left_out']}",
            "ask for tasks the runs were trained on, or raise --tolerance",
        )
    pooled = pooled_parts(rows)
    notes = []
    taught = groups(rows, *GROUPED)
    for key, mine in groups(pooled, *GROUPED).items():
        trained, task, group, direction, states_from = key
        question = "a new city, source old" if direction == "noise" else "a training city, source new"
        cities = "training cities" if group == "old" else question
        taken = "" if states_from == "own" else f", states of {states_from}"
        runs_here = ", ".join(dict.fromkeys(row["run"] for row in taught[key]))
        notes.append(f"{trained} ({runs_here}), {task}, {cities}{taken}: {verdict(mine)}.")
    return Result(
        kind="patch_parts",
        params={"runs": list(runs), "seed": seed},
        tables={"parts": list(rows), "pooled": pooled, "asked": list(asked)},
        notes=notes,
    )


def pooled_parts(rows: Sequence[Row]) -> list[Row]:
    """Rows of models taught the same as one: means over models and Student's t, n counting models; a model
    that stands alone keeps its rows and intervals over cities. `models` says how many there are."""
    pooled: list[Row] = []
    for mine in groups(rows, *GROUPED).values():
        tables = list(groups(mine, "run").values())
        together = tables[0] if len(tables) == 1 else pool_followed(tables)
        for row in together:
            pooled.append({name: row[name] for name in row if name != "run"} | {"models": len(tables)})
    return pooled
