"""The model against transformers' Qwen2 with the same weights: paper's size, float32, one thread.

The two take turns and the fastest turn of each counts, in processor seconds, so that other work on the
machine hardly enters.

    python tests/benchmarks/bench_model.py [--turns 8]
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import torch

from cwr_mech.config import ModelConfig
from cwr_mech.model.decoding import greedy_decode
from cwr_mech.model.qwen2 import HookedQwen2

BATCH, POS, PROMPT, NEW = 64, 40, 26, 6


def main(argv: Sequence[str] = ()) -> list[dict[str, object]]:
    """One row a kind of work: seconds of ours, and how many times faster than transformers."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--turns", type=int, default=8)
    turns = options.parse_args(list(argv)).turns
    torch.set_num_threads(1)
    ours = HookedQwen2(ModelConfig(), seed=0).eval()
    theirs = ours.to_hf()
    rows = torch.randint(4, 98, (BATCH, POS), generator=torch.Generator().manual_seed(0))
    prompts = torch.randint(4, 98, (4 * BATCH, PROMPT), generator=torch.Generator().manual_seed(1))
    seen = torch.ones_like(prompts)

    cases: list[tuple[str, int, Callable[[], object], Callable[[], object]]] = [
        (
            f"forward and backward, {BATCH} x {POS}",
            rows.numel(),
            lambda: ours(rows, return_type="loss").backward(),
            lambda: theirs(rows, labels=rows).loss.backward(),
        ),
        (
            f"forward, {BATCH} x {POS}",
            rows.numel(),
            torch.no_grad()(lambda: ours(rows)),
            torch.no_grad()(lambda: theirs(rows)),
        ),
        (
            f"forward with one cached hook, {BATCH} x {POS}",
            rows.numel(),
            torch.no_grad()(lambda: ours.run_with_cache(rows, names_filter="blocks.4.hook_resid_post")),
            torch.no_grad()(lambda: theirs(rows, output_hidden_states=True)),
        ),
        (
            f"greedy decoding, {len(prompts)} x {PROMPT} + {NEW}",
            len(prompts) * (PROMPT + NEW),
            lambda: greedy_decode(ours, prompts, NEW),
            lambda: theirs.generate(prompts, attention_mask=seen, max_new_tokens=NEW, do_sample=False),
        ),
    ]
    table: list[dict[str, object]] = []
    for name, tokens, one, other in cases:
        seconds, reference = fastest(one, other, turns)
        note = f"{tokens / seconds:,.0f} tokens a second, transformers {tokens / reference:,.0f}"
        table.append({"case": name, "seconds": seconds, "ratio": reference / seconds, "note": note})
    return table


def fastest(one: Callable[[], object], other: Callable[[], object], turns: int) -> list[float]:
    """Processor seconds of the fastest turn of each, after one turn that does not count."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(turns + 1):
        for work, times in zip((one, other), taken, strict=True):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
    return [min(times[1:]) for times in taken]


if __name__ == "__main__":
    for row in main(sys.argv[1:]):
        sys.stdout.write(f"{row['case']}: {row['seconds']:.3f} s, {row['ratio']:.2f} times, {row['note']}\n")
