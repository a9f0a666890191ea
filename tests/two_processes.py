"""Run by `accelerate launch` with two processes (training/test_distributed.py): train, interrupt, go on, die.

two_processes.py FOLDER
"""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from cwr_mech.config import DataConfig, ModelConfig, RunConfig, TrainConfig, WorldConfig
from cwr_mech.data.rows import Rows
from cwr_mech.errors import ProcessLost
from cwr_mech.training.distributed import Processes, launched
from cwr_mech.training.engine import GradientHook
from cwr_mech.training.loop import train

CONFIG = RunConfig(
    name="t",
    world=WorldConfig(n_cities=24, new="atlantis", n_new=4),
    data=DataConfig(tasks=("distance", "compass")),
    model=ModelConfig(n_layers=1, d_model=16, n_heads=2, d_mlp=16),
    train=TrainConfig(
        steps=12, batch_size=9, lr=1e-2, warmup=3, save_every=4, eval_every=6, eval_rows=2, checkpoints=2
    ),
)
STOPPED, DEAD = 7, 6
OWN = 12
"""From this position on tokens are a row's own, not the beginning that all rows of a task share."""


class ByRow:
    """Changes gradients by the number that each row has in the batch; ends in some way at one step."""

    def __init__(self, step: int = -1, what: type[BaseException] | None = None) -> None:
        """step: where it raises `what`, or kills its process when that is None; -1: nowhere."""
        self.left, self.what = step, what

    def __call__(self, rows: Rows) -> GradientHook:
        if self.left == 0:
            if self.what is None:
                os._exit(3)
            raise self.what
        self.left -= 1
        return scaled


def scaled(_layer: int, gradient: Tensor, _x: Tensor, which: Tensor) -> Tensor:
    gradient[:, OWN:] *= 1 + which[:, None, None] / 5
    return gradient


def main(folder: Path) -> None:
    processes = launched(os.environ, "cpu")
    assert isinstance(processes, Processes)
    assert processes.count == 2
    train(CONFIG, folder / "whole", hook=ByRow(), processes=processes)
    try:
        train(CONFIG, folder / "cut", hook=ByRow(STOPPED, KeyboardInterrupt), processes=processes)
    except KeyboardInterrupt:
        processes.wait()
    train(CONFIG, folder / "cut", resume=True, hook=ByRow(), processes=processes)
    dies = ByRow() if processes.is_main else ByRow(DEAD)
    with suppress(ProcessLost, KeyboardInterrupt):  # the peer is gone, or the launcher says SIGTERM
        train(CONFIG, folder / "dead", hook=dies, processes=processes)


def interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)  # as the command line does
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
