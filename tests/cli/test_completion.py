"""Shell completion: commands and, without importing other commands, the options of the one on the line."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

CALL = [sys.executable, "-m", "cwr_mech_cli.main"]


def called(environment: Mapping[str, str], *args: str) -> str:
    done = subprocess.run([*CALL, *args], capture_output=True, text=True, env=os.environ | dict(environment))
    assert done.returncode == 0, done.stderr
    return done.stdout


CASES = [
    ("cwr-mech pro", {"probe"}),
    ("cwr-mech probe --fo", {"--folds"}),
    ("cwr-mech train --pre", {"--preset", "--precision"}),
    ("cwr-mech walk", set()),
]


@pytest.mark.parametrize(("line", "offered"), CASES)
def test_what_a_shell_is_offered(line: str, offered: set[str]) -> None:
    last = str(len(line.split()) - 1)
    bash = {"_CWR_MECH_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": last}
    assert set(called(bash).split()) == offered
    zsh = called({"_CWR_MECH_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line})
    assert all(word in zsh for word in offered)
    assert "walk" not in zsh


def test_completion_is_installed_for_the_shell_asked_for(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    assert "installed" in called(home, "--install-completion", "bash")
    script = next((tmp_path / ".bash_completions").iterdir())
    assert "_CWR_MECH_COMPLETE=complete_bash" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()
