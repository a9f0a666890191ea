"""A stretch of `--preset paper` here and under transformers' Trainer: same first weights, batches and rates.

The Trainer gets the rows of each of our batches in our order, pads them as it pads, and uses its own model,
loss, clipping and AdamW. Its warm-up begins at a rate of 0 where ours begins at a fiftieth of the top, so the
rates, too, are ours. What is left to differ is the order of sums in float32, which training amplifies.

    python tests/benchmarks/compare_training.py [--steps 300] [--report paper]

writes reports/paper/results/stretch.json; `cwr-mech report paper` shows it.
"""

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_training import pad
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import IterableDataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

from cwr_mech.config import RunConfig
from cwr_mech.data.batches import Batches
from cwr_mech.experiments.presets import preset
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.results import Result
from cwr_mech.training.engine import Engine
from cwr_mech.training.optimizer import Optimizer, rate_at
from cwr_mech.training.parameters import FlatParameters
from cwr_mech.world.cities import load_world

SEED = 42


def ours(config: RunConfig, model: HookedQwen2, batches: Batches, steps: int) -> tuple[list[float], float]:
    """Loss of each step in nats a predicted token, and processor seconds."""
    flat = FlatParameters(config.model)
    flat.load(model)
    engine, optimizer = Engine(flat), Optimizer(flat, config.train)
    losses = []
    start = time.process_time()
    for step in range(steps):
        rows = batches.at(step)
        total = float((rows.lengths - 1).sum())
        row_losses = engine.batch(rows.tokens, rows.lengths, np.ones_like(rows.lengths), total)
        optimizer.step(step, optimizer.norm())
        losses.append(float(row_losses.sum()) / total)
        say("here", step, losses[-1])
    return losses, time.process_time() - start


class InOrder(IterableDataset[dict[str, list[int]]]):
    """The rows of our batches, one after the other."""

    def __init__(self, batches: Batches, steps: int) -> None:
        self.batches, self.steps = batches, steps

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        for step in range(self.steps):
            rows = self.batches.at(step)
            for tokens, length in zip(rows.tokens, rows.lengths, strict=True):
                yield {"input_ids": tokens[:length].tolist()}


class AtOurRates(Trainer):
    """The Trainer with a given rate for each step, as a share of the top rate."""

    share: Callable[[int], float]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Called by the Trainer before the first step."""
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, self.share)
        return self.lr_scheduler


class Losses(TrainerCallback):
    """Keeps what the Trainer logs."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        """Called after every step, and once at the end with a summary."""
        if "loss" in logs:
            self.losses.append(logs["loss"])
            say("transformers", len(self.losses) - 1, logs["loss"])


def theirs(config: RunConfig, model: HookedQwen2, batches: Batches, steps: int) -> tuple[list[float], float]:
    """The same under transformers' Trainer."""
    kept, train = Losses(), config.train
    with tempfile.TemporaryDirectory() as place:
        arguments = TrainingArguments(
            place,
            per_device_train_batch_size=train.batch_size,
            max_steps=steps,
            learning_rate=train.lr,
            weight_decay=train.weight_decay,
            max_grad_norm=train.clip,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        )
        trainer = AtOurRates(
            model.to_hf().train(),
            arguments,
            train_dataset=InOrder(batches, steps),
            data_collator=pad,
            callbacks=[kept],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.share = lambda step: rate_at(train, step) / train.lr
        start = time.process_time()
        trainer.train()
    return kept.losses, time.process_time() - start


def say(who: str, step: int, loss: float) -> None:
    """A line now and then."""
    if (step + 1) % 25 == 0:
        print(f"{who}: step {step + 1}, loss {loss:.5f}", flush=True)


def main(argv: Sequence[str]) -> Path:
    """Train both, save the result, return its path."""
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("--steps", type=int, default=300)
    options.add_argument("--report", default="paper")
    chosen = options.parse_args(list(argv))
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    config = preset("paper")
    world = load_world(config.world)
    batches = Batches(config.data, world, config.train.batch_size, config.train.seed)
    model = HookedQwen2(config.model, seed=SEED)
    mine, my_seconds = ours(config, model, batches, chosen.steps)
    peer, peer_seconds = theirs(config, model, batches, chosen.steps)
    apart = np.abs(np.subtract(mine, peer))
    result = Result(
        kind="stretch",
        command=shlex.join(["python", "tests/benchmarks/compare_training.py", *argv]),
        inputs={"the world": world.sha256},
        params={"runs": ["paper"], "batch_size": config.train.batch_size, "seed": SEED},
        values={
            "steps": chosen.steps,
            "rows": chosen.steps * config.train.batch_size,
            "loss": mine[-1],
            "loss_peer": peer[-1],
            "largest_difference": float(apart.max()),
            "last_difference": float(apart[-1]),
            "seconds_a_step": my_seconds / chosen.steps,
            "seconds_a_step_peer": peer_seconds / chosen.steps,
        },
        arrays={"loss": np.array(mine), "loss_peer": np.array(peer)},
        notes=["Seconds are processor seconds of one thread; ours include making the rows, theirs too."],
    )
    return result.save(Path("reports") / chosen.report / "results", "stretch")


if __name__ == "__main__":
    print(main(sys.argv[1:]))
