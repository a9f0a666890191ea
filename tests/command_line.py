"""Commands called in the tests' own process, and what they said."""

from collections.abc import Callable

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
