"""Swapped entities as a Result."""

from collections.abc import Sequence

import numpy as np

from cwr_mech.activations.reader import ActivationStore
from cwr_mech.analysis.patching.text_swaps import (
    COMPONENTS,
    LEAST_PAIRS,
    cells_of,
    draw_swaps,
    swap_rows,
    swap_scores,
)
from cwr_mech.analysis.study import stage
from cwr_mech.errors import AnalysisError
from cwr_mech.model.bridge import TextModel
from cwr_mech.results import Result


def swaps_result(
    model: TextModel,
    store: ActivationStore,
    prompt: str,
    *,
    run: str,
    components: Sequence[str] = COMPONENTS,
    pairs: int = 64,
    seed: int = 42,
) -> Result:
    """Kind "patch_texts": table `cells` (`swap_rows`), over the texts of a prompt of an activation file.

    Raises UnknownName, or AnalysisError for too few pairs or names of different lengths.
    """
    if pairs < LEAST_PAIRS:
        raise AnalysisError(f"{pairs} pairs are too few", f"take {LEAST_PAIRS} at least")
    rows = store.token_rows(prompt)
    rng = np.random.default_rng([seed, 0])
    swaps = draw_swaps(rows, pairs, rng)
    cells = cells_of(model.cfg.n_layers, components)
    with stage(f"swaps in {prompt}", swaps.n, "pairs") as advance:
        scores = swap_scores(model, rows, swaps, cells, advance)
    a, b = swaps.groups[0][0, :2]
    return Result(
        kind="patch_texts",
        params={"runs": [run], "task": prompt, "components": list(components), "pairs": swaps.n, "seed": seed}
        | {"n_layers": model.cfg.n_layers},
        values={
            "n": swaps.n,
            "kl": float(scores["kl_base"].mean()),
            "changed": float(scores["moved_base"].mean()),
        },
        tables={"cells": swap_rows(scores, cells, np.random.default_rng([seed, 1]))},
        notes=[
            f"{swaps.n} pairs of texts that differ in the entity alone, such as {rows.texts[a]!r} and "
            f"{rows.texts[b]!r}. Between their runs the next token's distribution differs by "
            f"{scores['kl_base'].mean():.3g} nats, and its most probable token in "
            f"{scores['moved_base'].mean():.0%} of them.",
            "Recovered: 1 - KL(source's run || patched) / KL(source's run || base), 0 as the base, 1 as the "
            "source; null: the state of a third entity. 95 %, bootstrap over pairs.",
        ],
    )
