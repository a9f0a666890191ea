"""The full patching grid of a distance question against TransformerLens' `generic_activation_patch`.

Same model (the paper's size, random weights), same 64 pairs, same cells (6 layers; residual stream before,
between and after, attention and MLP outputs at every position; z, q, k, v, pattern by head and position;
neurons by position), same score (logit difference at the first differing digit), one thread, same process.
TransformerLens runs one full forward of all pairs a cell. Every value is compared, and the memory that the
sweep took is held against its budget and what it keeps of the runs. Times are the processor's, so that other
work does not matter.

    python tests/benchmarks/bench_patching.py [--share 0.1] [--pairs 64]

A share is a random part of the cells. Its ratio is smaller than the grid's (9.6 for a tenth, at least 13.8
for all): cells at the same place are computed together, and few of a tenth are.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Sequence

os.environ["TQDM_DISABLE"] = "1"

import numpy as np
import pandas as pd
import torch
from transformer_lens import patching

from cwr_mech.activations.site import HOOKS
from cwr_mech.analysis.patching.cells import COMPONENTS, Cell, grid
from cwr_mech.analysis.patching.layout import INTERCHANGE, PAIR_CHUNK, layouts
from cwr_mech.analysis.patching.pairs import Pairs, find_pairs
from cwr_mech.analysis.patching.sweep import BUDGET, sweep
from cwr_mech.config import ModelConfig
from cwr_mech.model.layers import HookedConfig
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.registry import TASKS
from cwr_mech.world.cities import World, load_world

SHORT = {name: HOOKS[name].split("hook_")[1] for name in COMPONENTS}


def truth(world: World, prompts: list[str]) -> list[str]:
    """Right answers: speed does not depend on what a model answers."""
    ids = np.array([[int(part[:4]) for part in prompt.split("c_")[1:]] for prompt in prompts])
    return TASKS["distance"].answer(world.xy_of(ids))


def theirs(model: HookedQwen2, pairs: Pairs, cells: Sequence[Cell]) -> np.ndarray:
    """Scores [cell pair] of denoising by TransformerLens, one `generic_activation_patch` a component."""
    answers_of, tokens_of = {}, {}
    length = len(model.to_tokens(TASKS["distance"].prompt(pairs.clean[:1, :2]))[0])
    for layout in layouts(pairs, ("logit_diff",), roles=("clean", "corrupt")):
        n = len(layout.rows)
        for i, row in enumerate(layout.rows):
            tokens_of[row] = layout.tokens[[i, i + n], :length]
            first = int(layout.answers.first[i])
            answers_of[row] = [side[i, : first + 1].tolist() for side in layout.answers.tokens]
    rows = range(len(pairs))
    prefix = max(len(answers_of[row][0]) for row in rows) - 1
    forced = torch.tensor([(answers_of[row][0][:-1] + [0] * prefix)[:prefix] for row in rows]).reshape(
        -1, prefix
    )
    clean, corrupt = (
        torch.cat([torch.stack([tokens_of[row][side] for row in rows]), forced.long()], 1) for side in (0, 1)
    )
    place = torch.tensor([length - 2 + len(answers_of[row][0]) for row in rows])
    ours, other = (torch.tensor([answers_of[row][side][-1] for row in rows]) for side in (0, 1))

    def metric(logits: torch.Tensor) -> torch.Tensor:
        here = logits[torch.arange(len(place)), place]
        return here.gather(1, ours[:, None])[:, 0] - here.gather(1, other[:, None])[:, 0]

    def setter(component: str):
        def put(value: torch.Tensor, index: Sequence[int], cache: torch.Tensor) -> torch.Tensor:
            _, pos, *head = map(int, index)
            if component == "pattern":
                value[:, head[0], pos] = cache[:, head[0], pos]
            elif head:
                value[:, pos, head[0]] = cache[:, pos, head[0]]
            else:
                value[:, pos] = cache[:, pos]
            return value

        return put

    values = np.full((len(cells), len(pairs)), np.nan)
    wanted = defaultdict(list)
    for number, cell in enumerate(cells):
        wanted[cell.component].append(number)
    with torch.no_grad():
        _, cache = model.run_with_cache(clean)
        for component, numbers in wanted.items():
            table = [
                {"layer": c.layer, "pos": int(c.span[3:])} | ({} if c.head is None else {"head": c.head})
                for c in (cells[number] for number in numbers)
            ]
            result = patching.generic_activation_patch(
                model, corrupt, cache, metric, setter(component), SHORT[component],
                index_df=pd.DataFrame(table), reduce="none",
            )  # fmt: skip
            values[numbers] = result.values.double().numpy()
    return values


def main(argv: Sequence[str] = ()) -> list[dict[str, object]]:
    """One row: our seconds for the grid, the ratio to TransformerLens, and the largest difference."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--share", type=float, default=1.0)
    options.add_argument("--pairs", type=int, default=64)
    given = options.parse_args(list(argv))
    torch.set_num_threads(1)
    world = load_world(n_cities=512)
    pairs = find_pairs(lambda prompts: truth(world, prompts), world, "distance", given.pairs)
    model = HookedQwen2(ModelConfig(), seed=0).eval()
    length = len(model.to_tokens(TASKS["distance"].prompt(pairs.clean[:1, :2]))[0])
    cells = grid(model.cfg, COMPONENTS, [f"pos{p}" for p in range(length)])
    if given.share < 1:
        rng = np.random.default_rng(0)
        cells = [cells[i] for i in rng.permutation(len(cells))[: int(given.share * len(cells))]]
    stated = (_record_bytes(model.cfg, length + 4, min(len(pairs), PAIR_CHUNK)) + BUDGET) / 2**20
    before, start = _memory(), time.process_time()
    found = sweep(model, pairs, cells, conditions=INTERCHANGE[:1])
    ours, memory = time.process_time() - start, _memory() - before
    start = time.process_time()
    expected = theirs(model, pairs, cells)
    other = time.process_time() - start
    difference = float(np.abs(found.patched[0, :, 0] - expected).max())
    if not difference < 1e-5 * max(1.0, float(np.abs(expected).max())):
        raise SystemExit(f"the two differ by {difference:.2g}")
    if memory > stated:
        raise SystemExit(f"the sweep took {memory:.0f} MB, stated were {stated:.0f} MB")
    note = (
        f"TransformerLens {other:.0f} s; largest difference {difference:.1g} of scores up to "
        f"{np.abs(expected).max():.0f}; stated memory {stated:.0f} MB"
    )
    case = f"{len(cells)} cells, {len(pairs)} pairs"
    return [{"case": case, "seconds": ours, "memory_mb": memory, "ratio": other / ours, "note": note}]


def _record_bytes(cfg: HookedConfig, width: int, n_pairs: int) -> int:
    """Bytes of `Record` for the clean and the corrupt runs of some pairs, of `width` tokens at most."""
    floats = cfg.n_layers * (2 * cfg.d_model + 2 * cfg.d_head * (cfg.n_heads + cfg.n_kv)) + cfg.d_model
    return 4 * floats * width * 2 * n_pairs


def _memory() -> float:
    """Peak memory of this process so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
