"""Everything `cwr-mech patch` asks of one model and one task after a sweep, in order: decoded answers, known
steps, attribution, paths, subspaces, a learned subspace. Each part adds its table to one Result.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cwr_mech.analysis.patching.cells import Cell, grid
from cwr_mech.analysis.patching.estimates import attribution_part, paths_part
from cwr_mech.analysis.patching.interchange import interchange, interchange_rows, swapped_answers
from cwr_mech.analysis.patching.known_steps import best_cell, map_part, steps_part
from cwr_mech.analysis.patching.layout import INTERCHANGE
from cwr_mech.analysis.patching.pairs import Pairs
from cwr_mech.analysis.patching.parts import Question, das_part, subspace_part
from cwr_mech.analysis.patching.subspaces import SUBSPACES
from cwr_mech.analysis.patching.summary import best_layer, subspace_notes
from cwr_mech.analysis.patching.survey import patch_result
from cwr_mech.analysis.patching.sweep import Sweep
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.results import Result
from cwr_mech.world.cities import World

Row = dict[str, Any]
DECODED = ("swapped_digits", "swapped_last", "equals")
"""Spans at which the residual stream is replaced to see which city the decoded answer follows."""


@dataclass(frozen=True)
class Extras:
    """Parts asked for: kinds of subspaces, the rank of manifold and pca, the rank of a learned one."""

    subspaces: tuple[str, ...] = ()
    rank: int | None = None
    das: int | None = None


@dataclass(frozen=True)
class About:
    """Where a result comes from: run, step, what was read, and the command."""

    run: str
    step: int
    inputs: Mapping[str, str]
    command: str


def examine(
    model: HookedQwen2,
    world: World,
    question: Question,
    pairs: Pairs,
    swept: Sweep,
    about: About,
    extras: Extras,
) -> Result:
    """Everything that follows a sweep, as one Result of kind "patch"."""
    rng = np.random.default_rng(np.random.SeedSequence((question.seed, 9)))
    tables: dict[str, list[Row]] = {}
    tables["interchange"], arrays, best = decoded_part(model, pairs, rng)
    tables["steps"], changes = steps_part(model, world, pairs, best, rng)
    tables["attribution"], notes = attribution_part(model, pairs, swept)
    tables["paths"], agreement, missed = paths_part(model, pairs, rng)
    tables["attribution"] += agreement
    notes = [*steps_notes(tables["steps"], best), *notes, *missed]
    if extras.subspaces or extras.das:
        kinds = extras.subspaces or SUBSPACES
        tables["subspaces"], n = subspace_part(model, world, question, kinds, rank=extras.rank)
        notes += subspace_notes(tables["subspaces"], n)
    if extras.das:
        layer = best_layer(tables["subspaces"])
        tables["das"] = das_part(model, world, question, layer, extras.das)
        told = ", ".join(f"{row['subspace']} {row['accuracy']:.2f}" for row in tables["das"])
        notes.append(
            f"First tokens right for the source in {tables['das'][0]['n']} held-out pairs, subspace of rank "
            f"{extras.das} of layer {layer} replaced: {told}."
        )
    return patch_result(
        swept,
        pairs,
        seed=question.seed,
        runs=[about.run],
        command=about.command,
        inputs=about.inputs,
        params={"group": question.group, "tolerance": question.tolerance, "step": about.step},
        tables=tables,
        arrays={**arrays, **changes, **map_part(model, world, pairs, best)},
        notes=notes,
    )


def decoded_part(
    model: HookedQwen2, pairs: Pairs, rng: np.random.Generator
) -> tuple[list[Row], dict[str, np.ndarray], Cell]:
    """Table `interchange`, per pair the answers where they follow the source best, and which cell that is."""
    cells = grid(model.cfg, ("resid_post",), DECODED)
    found = interchange(model, pairs, cells, conditions=INTERCHANGE)
    rows = interchange_rows(found, pairs, rng)
    best = best_cell(cells, [row["iia"] for row in rows[len(cells) :]])
    answers = swapped_answers(found, pairs, best)
    arrays = {f"swapped_{name}": np.asarray(values, dtype=np.float64) for name, values in answers.items()}
    arrays["swapped_place"] = np.array([f"layer {cells[best].layer}", cells[best].span])
    return rows, arrays, cells[best]


def steps_notes(rows: Sequence[Row], best: Cell) -> list[str]:
    """How far answers go when the source is moved by known steps; nothing for labels."""
    whole = {(row["layer"], row["span"]): row for row in rows if row["step"] is None}
    patched, own = whole[best.layer, best.span], whole[None, None]
    if patched["slope"] != patched["slope"]:
        return []
    return [
        f"Sources moved by known steps on the map, {patched['n']} swaps at {best.span.replace('_', ' ')} "
        f"after layer {best.layer}: slope of the answer's change against the true one {patched['slope']:.2f} "
        f"[{patched['lo']:.2f}, {patched['hi']:.2f}]; asked outright {own['slope']:.2f} "
        f"[{own['lo']:.2f}, {own['hi']:.2f}]."
    ]
