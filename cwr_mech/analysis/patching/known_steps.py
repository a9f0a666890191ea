"""Sources moved by known steps on the map: does the patched answer change as much as geometry says?

Each question's swapped city is replaced, inside the model, by real cities at set distances from it, and the
answer decoded. The slope of the answer's change against the true change is 1 when the answer goes all the
way, and 0 when it does not move; the slope of the same questions asked outright is what the model can do at
best. With all cities in the place of one city of one question, the answers can be drawn on the map.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float64, Int64, Shaped
from scipy.spatial.distance import pdist

from cwr_mech.analysis.patching.cells import Cell, grid
from cwr_mech.analysis.patching.interchange import NEAR, answer_values, interchange, moved, through_origin
from cwr_mech.analysis.patching.layout import INTERCHANGE
from cwr_mech.analysis.patching.pairs import READING, Pairs, correct, true_answers
from cwr_mech.analysis.patching.table import resample
from cwr_mech.model.decoding import decode_text
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.results import Row
from cwr_mech.tasks.registry import get_task
from cwr_mech.world.cities import World

QUESTIONS = 32
SHARES = (0.02, 0.1, 0.25, 0.5, 0.8)
"""Steps are these quantiles of the distances between training cities."""


def with_sources(
    world: World, pairs: Pairs, rows: Shaped[np.ndarray, " picked"], sources: Int64[np.ndarray, " picked"]
) -> Pairs:
    """The questions `rows` of `pairs`, once for each source city, with that city in the swapped place."""
    chosen = pairs.take(rows)
    corrupt = chosen.clean.copy()
    corrupt[np.arange(len(chosen)), chosen.slot] = sources
    truth = true_answers(get_task(pairs.task), world, corrupt)
    return replace(chosen, corrupt=corrupt, corrupt_truth=truth)


def answers_outright(model: HookedQwen2, pairs: Pairs) -> Shaped[np.ndarray, " pair"]:
    """What the model answers to the corrupt questions when nothing is patched."""
    task = get_task(pairs.task)
    prompts = task.prompt(pairs.corrupt, pairs.id_digits)
    return np.array(decode_text(model, prompts, max_new_tokens=task.max_answer_tokens), dtype="<U16")


def step_sources(
    world: World, pairs: Pairs
) -> tuple[Int64[np.ndarray, " picked"], Int64[np.ndarray, " picked"], Float64[np.ndarray, " step"]]:
    """Rows of `pairs`, a source for each, and the steps (tenths of a degree), question by question: the old
    city whose distance from the swapped city is nearest to the step."""
    old = world.old()
    steps = np.quantile(pdist(world.xy[old]), SHARES)
    rows = np.repeat(np.arange(min(len(pairs), QUESTIONS)), len(steps))
    sources = np.empty(len(rows), dtype=np.int64)
    for i, row in enumerate(rows):
        pool = old[~np.isin(world.ids[old], pairs.clean[row])]
        swapped = world.xy_of(pairs.cluster[row : row + 1])[0]
        away = np.hypot(*(world.xy[pool] - swapped).T)
        sources[i] = world.ids[pool[np.argmin(np.abs(away - steps[i % len(steps)]))]]
    return rows, sources, steps


def steps_part(
    model: HookedQwen2, world: World, pairs: Pairs, best: Cell, rng: np.random.Generator
) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Table `steps`, and the changes at the cell `best` as arrays steps_{true,given,own,size} [pair].

    One row for each layer where the model reads a city and at '=', and for each step; step None is all steps
    together, layer None is asking outright. Slopes are through the origin, intervals resample swapped
    cities; NaN for labels.
    """
    rows, sources, steps = step_sources(world, pairs)
    asked = with_sources(world, pairs, rows, sources)
    outright = answers_outright(model, asked)
    asked = replace(asked, corrupt_answer=outright)
    cells = [*dict.fromkeys([*grid(model.cfg, ("resid_post",), (READING, "equals")), best])]
    found = interchange(model, asked, cells, conditions=INTERCHANGE[1:])
    size = steps[np.arange(len(asked)) % len(steps)]
    table = []
    for cell, words in [(None, outright), *zip(cells, found.answer[0], strict=True)]:
        place = {"layer": cell and cell.layer, "span": cell and cell.span}
        for step in (None, *steps.tolist()):
            mine = np.ones(len(asked), dtype=bool) if step is None else size == step
            table.append({**place, "step": step, **_followed(asked.take(mine), words[mine], rng)})
    given = found.answer[0, cells.index(best)]
    task = get_task(pairs.task)
    before = answer_values(task, asked.clean_answer)
    arrays = {
        "steps_true": (asked.corrupt_truth - asked.clean_truth).astype(np.float64),
        "steps_given": answer_values(task, given) - before,
        "steps_own": answer_values(task, outright) - before,
        "steps_size": size,
    }
    return table, arrays


def _followed(pairs: Pairs, words: Shaped[np.ndarray, " pair"], rng: np.random.Generator) -> Row:
    """How far answers went: n, IIA, share right for the source, slope of the change with its interval."""
    task = get_task(pairs.task)
    true = (pairs.corrupt_truth - pairs.clean_truth).astype(np.float64)
    clean, own = answer_values(task, pairs.clean_answer), answer_values(task, pairs.corrupt_answer)
    given = answer_values(task, words)
    slopes = (float("nan"),) * 3
    if not task.labels:
        slopes = through_origin(true, given - clean, resample(pairs.cluster, rng).boot)
    return {
        "n": len(pairs),
        "true_change": float(np.abs(true).mean()),
        "iia": float(moved(given, own, clean, NEAR * pairs.constant_error).mean()),
        "truth": float(correct(task, words, pairs.corrupt_truth, pairs.tolerance).mean()),
        **dict(zip(("slope", "lo", "hi"), slopes, strict=True)),
    }


def map_part(model: HookedQwen2, world: World, pairs: Pairs, cell: Cell) -> dict[str, np.ndarray]:
    """One question with every training city put in the place of its swapped city, at `cell`.

    Arrays map_{xy,true,given,own}: a city's place, the true answer with it, the answer given after the swap,
    and the answer when asked outright; map_others and map_swapped: places of the question's own cities.
    """
    task = get_task(pairs.task)
    row = int(np.argmin((pairs.clean >= 0).sum(1)))
    asked = pairs.clean[row][pairs.clean[row] >= 0]
    sources = world.ids[world.old()]
    sources = sources[~np.isin(sources, asked)]
    every = with_sources(world, pairs, np.full(len(sources), row), sources)
    given = interchange(model, every, [cell], conditions=INTERCHANGE[1:]).answer[0, 0]
    places = world.xy_of(asked).astype(np.float64)
    return {
        "map_xy": world.xy_of(sources).astype(np.float64),
        "map_true": every.corrupt_truth.astype(np.float64),
        "map_given": answer_values(task, given),
        "map_own": answer_values(task, answers_outright(model, every)),
        "map_others": np.delete(places, pairs.slot[row], axis=0),
        "map_swapped": places[[pairs.slot[row]]],
    }
