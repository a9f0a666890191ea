"""What a card does with this package, in under eight minutes: run it where there is a GPU, read its JSON.

    python tools/gpu_check.py --out gpu.json            on a card
    python tools/gpu_check.py --out /tmp/c.json --small the same parts on a processor, in small

Parts: equality (losses of the first steps against the hand-written gradient on the processor, float32),
together (rows a second of 1 to 64 models trained as one batched model), speed (rows a second eager, compiled
and with CUDA graphs, in float32 and bfloat16, against transformers' Trainer in eager mode on the same
device), large (`--preset large` for fifty steps, with the peak of memory), and paper
(as many steps of `--preset paper` as fit, in a folder that `cwr-mech train --resume` goes on from).
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from cwr_mech.config import RunConfig
from cwr_mech.data.batches import Batches
from cwr_mech.experiments.presets import preset
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.training.batched import BatchedModels, StepInput, Stepper, rates_of
from cwr_mech.training.compute import Compute, choose
from cwr_mech.training.loop import train
from cwr_mech.training.optimizer import Optimizer
from cwr_mech.training.parameters import FlatParameters
from cwr_mech.world.cities import load_world

Row = dict[str, Any]
SMALL = ("n_layers=2", "d_model=32", "n_heads=2", "d_mlp=64", "batch_size=16", "n_cities=64")


class Steps:
    """Training steps of a config on a device, without files."""

    def __init__(self, config: RunConfig, compute: Compute) -> None:
        self.compute = compute
        self.batches = Batches(config.data, load_world(config.world), config.train.batch_size)
        self.flat = FlatParameters(config.model, compute.device)
        self.flat.load(HookedQwen2(config.model, seed=0).to(compute.device))
        self.engine, self.optimizer = compute.engine(self.flat), Optimizer(self.flat, config.train)
        self.done = 0

    def run(self, steps: int) -> tuple[list[float], float]:
        """Mean losses a row, and rows a second."""
        made = [self.batches.at(self.done + index) for index in range(steps)]
        losses, start = [], time.perf_counter()
        for rows in made:
            first = np.ones_like(rows.lengths)
            total = float((rows.lengths - 1).sum())
            loss = self.engine.batch(rows.tokens, rows.lengths, first, total)
            self.optimizer.step(self.done, self.optimizer.norm())  # the norm waits for the device
            self.done += 1
            losses.append(float(loss.mean()))
        return losses, sum(len(rows) for rows in made) / (time.perf_counter() - start)


def equality(config: RunConfig, device: str, steps: int) -> list[Row]:
    """Losses of the first steps here and on the processor."""
    here, _ = Steps(config, Compute(device, by_hand=False)).run(steps)
    there, _ = Steps(config, Compute()).run(steps)
    worst = max(abs(a / b - 1) for a, b in zip(here, there, strict=True))
    return [{"part": "equality", "steps": steps, "largest_relative_difference": worst, "losses": here}]


def together(config: RunConfig, device: str, steps: int, sizes: tuple[int, ...]) -> Iterator[Row]:
    """Rows a second of several models as one batched model, float32, and the first steps' difference from a
    model by itself."""
    alone, _ = Steps(config, Compute(device, by_hand=False)).run(steps)
    batches = Batches(config.data, load_world(config.world), config.train.batch_size)
    made = [batches.at(step) for step in range(steps)]
    width = max(int(rows.lengths.max()) for rows in made)
    tokens = np.stack([np.pad(rows.tokens, [(0, 0), (0, width)])[:, :width] for rows in made])
    place = np.arange(width)
    counts = np.stack([(place >= 1) & (place < rows.lengths[:, None]) for rows in made])
    flat = FlatParameters(config.model)
    flat.load(HookedQwen2(config.model, seed=0))
    for size in sizes:
        values = flat.values.repeat(size, 1).to(device)
        models = BatchedModels(
            config.model, [config.train] * size, values, values.clone().zero_(), values.clone().zero_()
        )
        arrays = (tokens, counts, rates_of(config.train, 0, steps).astype(np.float32))
        given = StepInput(
            *(torch.from_numpy(part)[:, None].repeat_interleave(size, 1).to(device) for part in arrays)
        )
        stepper = Stepper(models)
        losses = stepper.run(given)[0].mean((1, 2)).tolist()
        start = time.perf_counter()
        stepper.run(given)[0].cpu()
        rate = size * steps * config.train.batch_size / (time.perf_counter() - start)
        worst = max(abs(a / b - 1) for a, b in zip(losses, alone, strict=True))
        yield {"part": "together", "models": size, "rows_per_second": rate, "difference": worst}


def speed(config: RunConfig, device: str, steps: int, compiled: tuple[str, ...]) -> Iterator[Row]:
    """Rows a second of the Trainer and of every way, the first steps (compilation) left out."""
    for precision in ("float32", "bfloat16"):
        rate = peer(config, device, steps, precision)
        yield {"part": "trainer", "precision": precision, "rows_per_second": rate}
        for way in compiled:
            run = Steps(config, Compute(device, precision, way, by_hand=False))
            start = time.perf_counter()
            run.run(max(3, steps // 4))
            row = {"part": "speed", "precision": precision, "compiled": way}
            row |= {"first_seconds": time.perf_counter() - start, "rows_per_second": run.run(steps)[1]}
            yield row


def peer(config: RunConfig, device: str, steps: int, precision: str) -> float:
    """Rows a second of transformers' Trainer, from the first step's end to the last's."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    size, ends = config.train.batch_size, []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if device != "cpu":
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    made = Batches(config.data, load_world(config.world), 4 * size).at(0)
    tokens = torch.from_numpy(made.tokens.astype(np.int64))
    data = [{"input_ids": row, "labels": row.masked_fill(row == 0, -100)} for row in tokens]
    with TemporaryDirectory() as place:
        arguments = TrainingArguments(
            place,
            per_device_train_batch_size=size,
            max_steps=steps + 1,
            bf16=precision == "bfloat16",
            use_cpu=device == "cpu",
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        model = HookedQwen2(config.model, seed=0).to_hf().train()
        Trainer(model, arguments, train_dataset=data, callbacks=[Clock()]).train()
    return size * steps / (ends[-1] - ends[0])


def large(config: RunConfig, compute: Compute, steps: int) -> list[Row]:
    """Steps of a large model, with the peak of the device's memory."""
    cuda = compute.device != "cpu"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    losses, rate = Steps(config, compute).run(steps)
    memory = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    return [
        {"part": "large", "steps": steps, "losses": losses, "rows_per_second": rate, "memory_gib": memory}
    ]


def paper(config: RunConfig, folder: Path, compute: Compute, seconds: float) -> list[Row]:
    """As many steps as fit, stopped as Ctrl-C stops a training: its folder can be resumed."""
    stop, last = time.perf_counter() + seconds, dict[str, Any]()

    def listen(record: Mapping[str, Any]) -> None:
        last.update(record)
        if time.perf_counter() > stop:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        train(config, folder, compute=compute, listener=listen)
    return [{"part": "paper", **{name: last.get(name) for name in ("step", "loss", "rows_per_second")}}]


def main(argv: list[str]) -> int:
    """Run the parts one after another; what is done is written after each."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    options.add_argument("--run", type=Path, default=Path("runs/gpu-paper"), help="folder of the paper's run")
    options.add_argument("--small", action="store_true", help="small sizes, on a processor too")
    options.add_argument("--seconds", type=float, default=120.0, help="for the paper's run")
    options.add_argument(
        "--parts", default="equality,together,speed,large,paper", help="which, and in which order"
    )
    given = options.parse_args(argv)
    if not (given.small or torch.cuda.is_available()):
        sys.stderr.write("error: there is no GPU here (hint: --small tries the parts on a processor)\n")
        return 2
    compute = choose()
    eager = replace(compute, compiled="off")
    configs = {name: preset(name) for name in ("ripe", "paper", "large")}
    if given.small:
        configs = {name: config.with_settings([*SMALL, "warmup=0"]) for name, config in configs.items()}
        configs["paper"] = configs["paper"].with_settings(["rows_per_task=2000", "steps=1000000"])
    endless = configs["paper"].with_settings(["rows_per_task=none"])
    few = 4 if given.small else 50
    ways = ("off", "default", "reduce-overhead") if compute.device != "cpu" else ("off",)
    sizes = (1, 2) if given.small else (1, 8, 32, 64)
    parts: dict[str, Callable[[], Iterable[Row]]] = {
        "equality": lambda: equality(configs["ripe"], compute.device, few),
        "together": lambda: together(configs["ripe"], compute.device, few, sizes),
        "speed": lambda: speed(endless, compute.device, few, ways),
        "large": lambda: large(configs["large"].with_settings(["rows_per_task=none"]), eager, few),
        "paper": lambda: paper(configs["paper"], given.run, compute, given.seconds),
    }
    cuda = compute.device != "cpu"
    found: Row = {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "rows": [],
    }
    for name in given.parts.split(","):
        for row in parts[name]():
            found["rows"].append(row)
            given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
