"""The short form of tests/survival.py: some kills of a training, a fine-tuning and a cache."""

import random
from pathlib import Path

from survival import STAGES, Lab, Tally, shown


def test_killed_commands_end_with_the_same_bytes(tmp_path: Path) -> None:
    lab = Lab(tmp_path, random.Random(0))
    tallies = {stage.name: Tally() for stage in STAGES if stage.name in ("train", "finetune", "cache-acts")}
    for stage in STAGES:
        if stage.name in tallies:
            lab.trials(stage, 3, tallies[stage.name])
    assert [tally.faults for tally in tallies.values()] == [[], [], []]
    assert [tally.kills for tally in tallies.values()] == [3, 3, 3]
    assert sum(tally.amid for tally in tallies.values()) >= 5
    *_, last = shown(tallies)
    assert last.split()[:2] == ["all", "9"]
