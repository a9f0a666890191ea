"""The short form of tests/survival.py: some kills of a training, a fine-tuning and a cache."""

import subprocess
import sys
from pathlib import Path


def test_killed_commands_end_with_the_same_bytes() -> None:
    """In a process of its own: there is one fork server a process, and another test's has not imported
    everything, so that each kill would take ten seconds."""
    program = Path(__file__).parents[1] / "survival.py"
    line = [sys.executable, program, "--kills", "9", "--stages", "train,finetune,cache-acts"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [row.split() for row in done.stdout.splitlines()]
    kills, amid, faults = ({row[0]: int(row[k]) for row in rows[-4:]} for k in (1, 2, 6))
    assert kills == {"train": 3, "finetune": 3, "cache-acts": 3, "all": 9}
    assert set(faults.values()) == {0}
    assert amid["all"] >= 5
