"""Options that go together reach a command as one mapping."""

import inspect
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from cwr_mech_cli.options import taking
from typer.testing import CliRunner

SIZE = {
    "width": (Annotated[int, typer.Option(help="Width.")], 3),
    "name": (Annotated[str | None, typer.Option()], None),
}


def test_a_command_takes_the_options_of_its_groups() -> None:
    found: list[Any] = []

    @taking(size=SIZE)
    def command(seed: Annotated[int, typer.Option()] = 1, *, size: Mapping[str, Any]) -> None:
        """What it does."""
        found.append((seed, dict(size)))

    assert list(inspect.signature(command).parameters) == ["seed", "width", "name"]
    assert command.__doc__ == "What it does."
    app = typer.Typer()
    app.command()(command)
    assert CliRunner().invoke(app, ["--width", "5"]).exit_code == 0
    assert CliRunner().invoke(app, ["--seed", "2", "--name", "x"]).exit_code == 0
    assert found == [(1, {"width": 5, "name": None}), (2, {"width": 3, "name": "x"})]
    assert CliRunner().invoke(app, ["--size", "5"]).exit_code == 2  # control: the group itself is no option
