"""The short form of tests/survival.py: some kills of a training, a fine-tuning and a cache."""

import random
from pathlib import Path

from survival import STAGES, Lab, Tally


def test_killed_commands_end_with_the_same_bytes(tmp_path: Path) -> None:
    tally, lab = Tally(), Lab(tmp_path, random.Random(0))
    for stage in STAGES:
        if stage.name in ("train", "finetune", "cache-acts"):
            lab.trials(stage, 3, tally)
    assert tally.faults == []
    assert tally.kills >= 9
    assert tally.amid >= 5
