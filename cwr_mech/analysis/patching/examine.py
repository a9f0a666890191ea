"""One model and one task, in order: the sweep, decoded answers, known steps, attribution, paths, subspaces, a
learned subspace. Each part adds its table to one Result.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cwr_mech.analysis.best import CAUSAL, best
from cwr_mech.analysis.patching.cells import COMPONENTS, Cell, check_places, grid
from cwr_mech.analysis.patching.estimates import attribution_part, paths_part
from cwr_mech.analysis.patching.interchange import interchange, interchange_rows, swapped_answers
from cwr_mech.analysis.patching.known_steps import map_part, steps_part
from cwr_mech.analysis.patching.layout import CONDITIONS, INTERCHANGE
from cwr_mech.analysis.patching.pairs import READING, NoPairs, Pairs
from cwr_mech.analysis.patching.parts import Question, ask, das_part, subspace_part
from cwr_mech.analysis.patching.store import Sweeps, sweep_key
from cwr_mech.analysis.patching.subspaces import SUBSPACES
from cwr_mech.analysis.patching.summary import reading_layer, subspace_notes
from cwr_mech.analysis.patching.survey import patch_result
from cwr_mech.analysis.patching.sweep import Sweep, rows_computed, sweep
from cwr_mech.analysis.study import stage, uses
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.results import Result, Row
from cwr_mech.training.runs import Run
from cwr_mech.world.cities import World

DECODED = ("swapped_digits", READING, "equals")
"""Spans at which the residual stream is replaced to see which city the decoded answer follows."""


@dataclass(frozen=True)
class Extras:
    """Parts beyond decoded answers: kinds of subspaces, and the rank of a learned one."""

    subspaces: tuple[str, ...] = ()
    das: int | None = None


@dataclass(frozen=True)
class Sweeping:
    """What a sweep patches: components (or "all"), spans as `check_places` takes them, and scores; and where
    what is done is kept, if it is to be gone on with.
    """

    components: tuple[str, ...]
    spans: tuple[str, ...]
    metrics: tuple[str, ...]
    kept: Sweeps | None = None


def patched(
    run: Run, step: int | None, question: Question, sweeping: Sweeping, extras: Extras | None
) -> Result:
    """Find pairs, patch every cell of every condition, and `examine` what follows: a Result of kind "patch".

    Raises UnknownName, or AnalysisError when the model answers too few questions.
    """
    model, world, at = run.model(step), run.world(), run.last_step if step is None else step
    uses(run.checkpoint(step).as_posix(), run.sha256(step))
    pairs = ask(model, world, question)
    chosen = COMPONENTS if sweeping.components == ("all",) else sweeping.components
    cells = grid(model.cfg, chosen, check_places(sweeping.spans, question.task, world.config.id_digits))
    metrics = sweeping.metrics
    store = None
    if sweeping.kept:
        conditions = [str(condition) for condition in CONDITIONS]
        name = f"{run.name.replace(':', '-')}-{question.task}-{question.group}"
        store = sweeping.kept.open(name, sweep_key(run.sha256(step), pairs, cells, metrics, conditions))
    rows = rows_computed(model.cfg, pairs, cells, metrics)
    with stage(f"patch {question.task}", rows, "patches") as advance:
        found = sweep(
            model, pairs, cells, metrics=metrics, conditions=CONDITIONS, store=store, advance=advance
        )
    result = examine(model, world, question, pairs, found, run.name, extras)
    return replace(result, params=result.params | {"step": at})


def examine(
    model: HookedQwen2,
    world: World,
    question: Question,
    pairs: Pairs,
    swept: Sweep,
    run: str,
    extras: Extras | None,
) -> Result:
    """A sweep and what follows it, as one Result of kind "patch"; without `extras` decoded answers alone."""
    rng = np.random.default_rng(np.random.SeedSequence((question.seed, 9)))
    tables: dict[str, list[Row]] = {}
    notes: list[str] = []
    tables["interchange"], arrays, cell = decoded_part(model, pairs, rng)
    if extras is not None:
        tables["steps"], changes = steps_part(model, world, pairs, cell, rng)
        tables["attribution"], missed = attribution_part(model, pairs, swept)
        tables["paths"], agreement, unseen = paths_part(model, pairs, rng)
        tables["attribution"] += agreement
        notes += [*steps_notes(tables["steps"], cell), *missed, *unseen]
        arrays |= changes | map_part(model, world, pairs, cell)
        if extras.subspaces or extras.das:
            kinds = extras.subspaces or SUBSPACES
            tables["subspaces"], n = subspace_part(model, world, question, kinds)
            notes += subspace_notes(tables["subspaces"], n)
        if extras.das:
            layer = reading_layer(tables["subspaces"])
            try:
                tables["das"] = das_part(model, world, question, layer, extras.das)
            except NoPairs as error:  # all else is there by now
                notes.append(f"No subspace was learned: {error.message}.")
            else:
                told = ", ".join(f"{row['subspace']} {row['accuracy']:.2f}" for row in tables["das"])
                notes.append(
                    f"First tokens right for the source in {tables['das'][0]['n']} held-out pairs, subspace "
                    f"of rank {extras.das} of layer {layer} replaced: {told}."
                )
    result = patch_result(swept, pairs, seed=question.seed, runs=[run])
    return replace(
        result,
        params=result.params | {"group": question.group, "tolerance": question.tolerance},
        tables=result.tables | tables,
        arrays=result.arrays | arrays,
        notes=[*result.notes, *notes],
    )


def decoded_part(
    model: HookedQwen2, pairs: Pairs, rng: np.random.Generator
) -> tuple[list[Row], dict[str, np.ndarray], Cell]:
    """Table `interchange`, per pair the answers where they follow the source best, and which cell that is."""
    cells = grid(model.cfg, ("resid_post",), DECODED)
    found = interchange(model, pairs, cells, conditions=INTERCHANGE)
    rows = interchange_rows(found, pairs, rng)
    # Whole digits are left out: after the embedding they are the other city.
    noised = [row | {"cell": c} for c, row in enumerate(rows[len(cells) :]) if row["span"] != DECODED[0]]
    followed = best(noised, CAUSAL)["cell"]
    answers = swapped_answers(found, pairs, followed)
    arrays = {f"swapped_{name}": values for name, values in answers.items()}
    arrays["swapped_place"] = np.array([f"layer {cells[followed].layer}", cells[followed].span])
    return rows, arrays, cells[followed]


def steps_notes(rows: Sequence[Row], cell: Cell) -> list[str]:
    """How far answers go when the source is moved by known steps; nothing for labels."""
    whole = {(row["layer"], row["span"]): row for row in rows if row["step"] is None}
    patched, own = whole[cell.layer, cell.span], whole[None, None]
    if patched["slope"] != patched["slope"]:
        return []
    told = [f"{row['slope']:.2f} [{row['lo']:.2f}, {row['hi']:.2f}]" for row in (patched, own)]
    return [
        f"Sources moved by known steps on the map, {patched['n']} swaps at {cell.span.replace('_', ' ')} "
        f"after layer {cell.layer}: slope of the answer's change against the true one {told[0]}; asked "
        f"outright {told[1]}."
    ]
