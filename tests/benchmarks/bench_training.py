"""Training: rows a second against transformers' Trainer, and the share of the processor's peak.

The peer is Qwen2ForCausalLM under Trainer with dynamic padding to the longest row of a shuffled batch: same
weights, same kind of rows, same loss on every token, AdamW with the same settings, one thread. Its rows are
made beforehand, ours within the time that is measured. Rows "bfloat16" have our products in bfloat16 against
the same peer in float32; they say nothing on a processor without instructions for it. Seconds are processor
seconds of one thread, so that other work on the machine hardly enters; the two take turns and the fastest
turn of each counts.

The share of peak counts the operations of the plain model, 6 a parameter and token. What the engine computes
once for many rows or leaves out counts as done: the share says how fast work gets done, and could pass 100 %.
The share of data is the processor time of making rows, averaged over whole blocks of them, against a step's.
The last row is a training in a process of its own: its peak memory, and how long its loop waits for rows.

    python tests/benchmarks/bench_training.py [--turns 3]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

from cwr_mech.config import DataConfig, ModelConfig, TrainConfig, WorldConfig
from cwr_mech.data.batches import Batches
from cwr_mech.experiments.presets import preset
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.registry import PAPER_TASKS
from cwr_mech.training.engine import Engine
from cwr_mech.training.optimizer import Optimizer
from cwr_mech.training.parameters import FlatParameters
from cwr_mech.world.cities import World, load_world

STEPS = 3
"""Steps of a turn; the fastest step counts."""
DATA_STEPS = 400
"""Steps whose rows are made to see what they cost: more than two blocks of every task."""
MEMORY_STEPS = 12

# case, tasks, model, batch size
CASES: tuple[tuple[str, tuple[str, ...], ModelConfig, int], ...] = (
    ("paper's model, 7 tasks", PAPER_TASKS, ModelConfig(), 128),
    ("paper's model, distance", ("distance",), ModelConfig(), 128),
    ("zoo's model, 7 tasks", PAPER_TASKS, preset("small").model, preset("small").train.batch_size),
)


class Ours:
    """Our training steps: rows, gradient, update."""

    def __init__(
        self, tasks: tuple[str, ...], model: HookedQwen2, batch: int, world: World, bfloat16: bool = False
    ) -> None:
        self.batches = Batches(DataConfig(tasks=tasks), world, batch)
        self.flat = FlatParameters(model.config)
        self.flat.load(model)
        self.engine = Engine(self.flat, bfloat16=bfloat16)
        self.optimizer = Optimizer(self.flat, TrainConfig())
        self.step = 0
        self.tokens = 0.0

    def turn(self) -> float:
        """Processor seconds of the fastest of some steps."""
        best = float("inf")
        for _ in range(STEPS):
            start = time.process_time()
            rows = self.batches.at(self.step)
            first = np.ones_like(rows.lengths)
            total = float((rows.lengths - 1).sum())
            self.engine.batch(rows.tokens, rows.lengths, first, total)
            self.optimizer.step(self.step, self.optimizer.norm())
            self.step += 1
            best = min(best, time.process_time() - start)
            self.tokens += float(rows.lengths.sum())
        return best

    def data_seconds(self) -> float:
        """Processor seconds that the rows of a step take on average."""
        start = time.process_time()
        for step in range(DATA_STEPS):
            self.batches.at(step)
        return (time.process_time() - start) / DATA_STEPS


class Clock(TrainerCallback):
    """Processor seconds of every step of the Trainer."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """The rows are there and collated from now on; what came before is given to the peer for free."""
        self.start = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """The update is done."""
        self.steps.append(time.process_time() - self.start)


class Theirs:
    """The same model under transformers' Trainer."""

    def __init__(
        self, tasks: tuple[str, ...], model: HookedQwen2, batch: int, world: World, place: str
    ) -> None:
        rows = Batches(DataConfig(tasks=tasks), world, 4 * batch).at(0)
        order = np.random.default_rng(0).permutation(len(rows))
        self.rows = [{"input_ids": rows.tokens[i, : rows.lengths[i]].tolist()} for i in order]
        self.model, self.clock = model.to_hf().train(), Clock()
        arguments = TrainingArguments(
            place,
            per_device_train_batch_size=batch,
            max_steps=STEPS,
            learning_rate=3e-4,
            weight_decay=0.01,
            warmup_steps=1,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        self.trainer = Trainer(
            self.model,
            arguments,
            train_dataset=self.rows,
            data_collator=pad,
            callbacks=[self.clock],
        )
        self.trainer.remove_callback(PrinterCallback)

    def turn(self) -> float:
        """Processor seconds of the fastest of some steps."""
        self.clock.steps.clear()
        self.trainer.train()
        return min(self.clock.steps)


def pad(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """A batch padded on the right to its longest row; padding counts for nothing."""
    width = max(len(row["input_ids"]) for row in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.int64)
    for index, row in enumerate(rows):
        tokens[index, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
    seen = (tokens != 0).long()
    return {"input_ids": tokens, "attention_mask": seen, "labels": tokens.masked_fill(seen == 0, -100)}


def peak_flops() -> float:
    """Operations a second of a 4096-cube matrix product, the faster of two."""
    a, best = torch.randn(4096, 4096), float("inf")
    for _ in range(2):
        start = time.process_time()
        torch.mm(a, a)
        best = min(best, time.process_time() - start)
    return 2 * 4096**3 / best


def memory() -> dict[str, object]:
    """Train the paper's preset for a few steps in a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        settings = (
            "--preset",
            "paper",
            "--set",
            f"steps={MEMORY_STEPS}",
            "--out",
            str(run),
            "--device",
            "cpu",
        )
        command = [sys.executable, "-m", "cwr_mech_cli.main", "train", *settings]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        lines = (run / "metrics.jsonl").read_text().splitlines()
    shares = [line["data_share"] for line in map(json.loads, lines) if "data_share" in line]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    note = f"seven million rows held; waited for rows {np.mean(shares[1:]):.1%} of the time"
    return {"case": "cwr-mech train --preset paper", "memory_mb": peak, "note": note}


def main(argv: Sequence[str] = ()) -> list[dict[str, object]]:
    """One row a case: seconds a step of ours, how many times faster than the peer, and the share of peak."""
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("--turns", type=int, default=3)
    turns = options.parse_args(list(argv)).turns
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    peak, world = peak_flops(), load_world(WorldConfig(n_cities=256))
    results: list[dict[str, object]] = []
    for case, tasks, config, batch in CASES:
        model = HookedQwen2(config, seed=0)
        n_parameters = sum(p.numel() for p in model.parameters())
        with tempfile.TemporaryDirectory() as place:
            theirs = Theirs(tasks, model, batch, world, place)
            both = {low: Ours(tasks, model, batch, world, low) for low in (False, True)}
            taken = [(theirs.turn(), *(ours.turn() for ours in both.values())) for _ in range(turns)]
        peer, *fastest = (min(column) for column in zip(*taken, strict=True))
        for (low, ours), mine in zip(both.items(), fastest, strict=True):
            share = 6 * n_parameters * ours.tokens / ours.step / mine / peak
            note = f"{batch / mine:,.0f} rows/s, Trainer {batch / peer:,.0f}"
            if not low:
                data = ours.data_seconds() / mine
                note += f"; {share:.0%} of peak ({peak / 1e9:,.0f} GFLOP/s); data {data:.1%}"
            name = f"{case}, bfloat16" if low else case
            results.append({"case": name, "seconds": mine, "ratio": peer / mine, "note": note})
    return [*results, memory()]


if __name__ == "__main__":
    for row in main(sys.argv[1:]):
        print(row)
