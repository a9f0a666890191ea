"""Settings every test runs under: no network, no trackers, one thread (two workers share two cores) unless
OMP_NUM_THREADS says otherwise.

Compiled modules are kept even where the environment says otherwise: rewriting asserts and checking types
takes longer than many tests, and would be done by every worker and every command that a test starts.
"""

import os
import sys
from pathlib import Path

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "WANDB_MODE": "disabled",
    "TOKENIZERS_PARALLELISM": "false",
}
os.environ.setdefault("OMP_NUM_THREADS", "1")

import checked_calls
import pytest
import torch
from command_line import Cli
from hypothesis import settings

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
checked_calls.install()
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A busy machine is slow, not wrong: no time limit a property.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(autouse=True)
def _checks_begin_anew() -> None:
    checked_calls.begin_test()


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Call the program as its script does, in an empty folder; returns exit code, output and errors."""
    from cwr_mech_cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cwr_mech_cli.main.answer_signals", lambda _: None)  # the test run has its own answer

    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cwr-mech", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call
