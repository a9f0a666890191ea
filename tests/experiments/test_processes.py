"""Processes that are told to end."""

import signal
import subprocess
import sys
from pathlib import Path

from cwr_mech.experiments.processes import start, stop


def script(text: str) -> list[str]:
    return [sys.executable, "-S", "-c", text]


def test_stop_ends_what_runs_and_leaves_what_ended() -> None:
    running = subprocess.Popen(script("import time; time.sleep(60)"))
    ended = subprocess.Popen(script("pass"))
    ended.wait()
    stop([running, ended])
    assert running.returncode == -signal.SIGTERM
    assert ended.returncode == 0


def test_what_a_command_says_is_appended_to_its_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "a.log"
    text = "import os, sys; print(os.environ['WHO'], sys.stdin.read()); print('and', file=sys.stderr)"
    for who in ("one", "two"):
        assert start(script(text), log, {"WHO": who}).wait() == 0
    assert sorted(log.read_text().split()) == ["and", "and", "one", "two"]
