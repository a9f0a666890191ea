"""The model against transformers' Qwen2 with the same weights: paper's size, float32, one thread.

Decoding answers test questions of the world: a thousand of one task (all of one length, so that transformers
pads nothing) by the paper's size and by zoo:small, and questions of all tasks in a random order, which
transformers gets in batches of 256, padded on the left. The two take turns and the fastest turn of each
counts, in processor seconds, so that other work on the machine hardly enters.

    python tests/benchmarks/bench_model.py [--turns 8]
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from cwr_mech.config import ModelConfig
from cwr_mech.data.rows import generate
from cwr_mech.model.decoding import decode_prompts
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.registry import TASKS
from cwr_mech.tasks.tokenizer import EOS, PAD
from cwr_mech.world.cities import load_world

BATCH, POS = 64, 40
ASKED, MIXED, TOGETHER = 1000, 200, 256
ZOO = Path(__file__).parents[2] / "zoo" / "small" / "checkpoints" / "step-0008000"


Case = tuple[str, int, Callable[[], object], Callable[[], object]]


def main(argv: Sequence[str] = ()) -> list[dict[str, object]]:
    """One row a kind of work: seconds of ours, and how many times faster than transformers."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--turns", type=int, default=8)
    turns = options.parse_args(list(argv)).turns
    torch.set_num_threads(1)
    ours = HookedQwen2(ModelConfig(), seed=0).eval()
    theirs = ours.to_hf()
    rows = torch.randint(4, 98, (BATCH, POS), generator=torch.Generator().manual_seed(0))
    cases: list[Case] = [
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
            f"full cache, {BATCH} x {POS}; ratio: to ours without",
            rows.numel(),
            torch.no_grad()(lambda: ours.run_with_cache(rows)),
            torch.no_grad()(lambda: ours(rows)),
        ),
        *decoding("paper's model", ours),
        *decoding("zoo:small", HookedQwen2.from_pretrained(ZOO)),
    ]
    table: list[dict[str, object]] = []
    for name, tokens, one, other in cases:
        seconds, reference = fastest(one, other, turns)
        note = f"{tokens / seconds:,.0f} tokens a second, the other {tokens / reference:,.0f}"
        table.append({"case": name, "seconds": seconds, "ratio": reference / seconds, "note": note})
    return table


def decoding(name: str, model: HookedQwen2) -> Iterator[Case]:
    """Questions of one task, and of all tasks in a random order."""
    theirs, rng = model.to_hf(), np.random.default_rng(0)
    for what, tasks, n in (
        ("distance", ["distance"], ASKED),
        ("mixed", list(TASKS), MIXED),
    ):
        asked: list[list[int]] = []
        for task in tasks:
            rows = generate(load_world(), task, n, split="test")
            asked += [row[:end].tolist() for row, end in zip(rows.tokens, rows.answer_start, strict=True)]
        asked = [asked[place] for place in rng.permutation(len(asked))]
        new = max(TASKS[task].max_answer_tokens for task in tasks)
        tokens = sum(map(len, asked)) + new * len(asked)

        def ask_theirs(asked: list[list[int]] = asked, new: int = new) -> None:
            for start in range(0, len(asked), TOGETHER):
                some = asked[start : start + TOGETHER]
                width = max(map(len, some))
                prompts = torch.tensor([[PAD] * (width - len(row)) + row for row in some])
                seen = (prompts != PAD).long()
                theirs.generate(
                    prompts,
                    attention_mask=seen,
                    max_new_tokens=new,
                    do_sample=False,
                    pad_token_id=PAD,
                    eos_token_id=EOS,
                )

        def ask_ours(asked: list[list[int]] = asked, new: int = new) -> None:
            decode_prompts(model, asked, new)

        yield f"greedy decoding, {len(asked):,} {what} questions, {name}", tokens, ask_ours, ask_theirs


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
