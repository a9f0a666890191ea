"""Commands called in the tests' own process, or many in one fresh process, and what they said."""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import typer
from click.testing import Result as Outcome
from typer.testing import CliRunner

Cli = Callable[..., tuple[int, str, str]]
"""What the fixture `cli` gives: words of a command line -> exit code, output, errors."""


def caller(commands: dict[str, Callable[..., None]], columns: int = 120) -> Callable[..., Outcome]:
    """A function that runs one of `commands` (its name first) as the program does, without the program."""
    from cwr_mech_cli.main import guarded

    app = typer.Typer()
    for name, function in commands.items():
        app.command(name)(guarded(function))

    def call(*arguments: object) -> Outcome:
        return CliRunner().invoke(
            app, [str(argument) for argument in arguments], env={"COLUMNS": str(columns)}
        )

    return call


def said(outcome: Outcome) -> str:
    """What a command that succeeded printed, on one line."""
    assert outcome.exit_code == 0, outcome.output
    return " ".join(outcome.stdout.split())


def failed(outcome: Outcome) -> str:
    """What a command that refused its input printed, on one line."""
    assert outcome.exit_code == 2, outcome.output
    return " ".join(outcome.stderr.split())


SESSION = """
import shlex, sys
import cwr_mech_cli.main as program
program.answer_signals = lambda _: None
for line in sys.stdin.read().splitlines():
    sys.argv = ["cwr-mech", *shlex.split(line)]
    print("$", line, flush=True)
    try:
        program.main()
    except SystemExit as ended:
        print("exit", ended.code or 0, flush=True)
"""


def session(
    python: str, folder: Path, lines: Sequence[str], environment: Mapping[str, str]
) -> dict[str, tuple[int, str]]:
    """Command line -> exit code and all it printed, all in one fresh process of an interpreter."""
    done = subprocess.run(
        [python, "-c", SESSION],
        input="\n".join(lines),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    parts = done.stdout.split("$ ")[1:]
    assert len(parts) == len(lines), done.stdout[-3000:]
    found = {}
    for line, part in zip(lines, parts, strict=True):
        said, _, code = part.removeprefix(line).rpartition("exit ")
        found[line] = (int(code), said)
    return found
