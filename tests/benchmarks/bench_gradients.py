"""Per-example gradients of every weight of the paper's model: one vectorised pass against a loop.

Ours is `per_example_gradients`: `torch.func.vmap` of `torch.func.grad`. The loop runs plain autograd, one
question at a time, with the same model, the same distance questions and one thread. Both are timed in turn in
this process, by processor time. Every gradient is compared. Memory is the peak beyond what both need; most of
it are the gradients of all questions, which the loop, as it is timed here, throws away.

    python tests/benchmarks/bench_gradients.py [--rows 32] [--turns 3]
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch

from cwr_mech.analysis.routing.gradients import per_example_gradients
from cwr_mech.config import ModelConfig
from cwr_mech.data.rows import Rows, generate
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.world.cities import load_world


def by_loop(model: HookedQwen2, rows: Rows, row: int) -> dict[str, torch.Tensor]:
    """Gradient of one question's mean loss by plain autograd."""
    tokens = torch.from_numpy(rows.tokens[row : row + 1, : rows.lengths[row]].astype(np.int64))
    model.zero_grad()
    model(tokens, return_type="loss").backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def main(argv: Sequence[str] = ()) -> list[dict[str, object]]:
    """One row: our processor seconds, the ratio of the loop's to them, and the largest difference."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rows", type=int, default=32)
    options.add_argument("--turns", type=int, default=3)
    given = options.parse_args(list(argv))
    torch.set_num_threads(1)
    model = HookedQwen2(ModelConfig(), seed=0)
    rows = generate(load_world(n_cities=512), "distance", given.rows)
    by_loop(model, rows, 0)
    before = _memory()
    ours, loop = [], []
    for _ in range(given.turns):
        start = time.process_time()
        found = per_example_gradients(model, rows)
        ours.append(time.process_time() - start)
        start = time.process_time()
        for row in range(len(rows)):
            by_loop(model, rows, row)
        loop.append(time.process_time() - start)
    memory = _memory() - before
    largest, scale = 0.0, 0.0
    for row in range(len(rows)):
        for name, gradient in by_loop(model, rows, row).items():
            largest = max(largest, float((found[name][row] - gradient).abs().max()))
            scale = max(scale, float(gradient.abs().max()))
    if not largest < 1e-5 * scale:
        raise SystemExit(f"the two differ by {largest:.2g}")
    parameters = sum(value.numel() for value in model.parameters())
    note = (
        f"loop {min(loop):.2f} s; largest difference {largest:.1g} of gradients up to {scale:.2g}; "
        f"{parameters:,} weights, their gradients alone {len(rows) * parameters * 4 / 2**20:.0f} MB"
    )
    case = f"{len(rows)} distance questions"
    seconds = min(ours)
    return [
        {"case": case, "seconds": seconds, "memory_mb": memory, "ratio": min(loop) / seconds, "note": note}
    ]


def _memory() -> float:
    """Peak memory of this process so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
