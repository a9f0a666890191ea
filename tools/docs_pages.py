"""Texts of the documentation that follow from the program: commands, names, tasks, verdicts and limits."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def commands() -> str:
    """Every command with its options, as its --help says them."""
    import typer
    from cwr_mech_cli.main import COMMANDS, build_app
    from typer.cli import get_docs_for_click

    lead = "Without arguments a command takes the latest run; `zoo:NAME` and folders of models work, too."
    parts = ["# Commands", lead]
    for row in COMMANDS:
        name = f"cwr-mech {row.name}"
        command = typer.main.get_command(build_app([row.name])).commands[row.name]  # type: ignore[attr-defined]
        context = command.make_context(name, [], resilient_parsing=True)
        parts.append(get_docs_for_click(obj=command, ctx=context, name=name, indent=1))
    return "\n\n".join(parts)


def library() -> str:
    """The public names of the package."""
    import cwr_mech

    names = [f"::: {cwr_mech._MODULE_OF[name]}.{name}" for name in cwr_mech.__all__]
    lead = "Names of `cwr_mech`, imported when first used. Every analysis is a function named as its command."
    return "\n\n".join(["# Library", lead, *names]) + "\n"


def schema() -> str:
    """The schema of activation files."""
    return (ROOT / "activations" / "README.md").read_text(encoding="utf-8")


def verdicts() -> str:
    """The README's table of verdicts, which a test holds to the committed reports."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split("<!-- verdicts -->")[1].split("<!-- /verdicts -->")[0].strip()
    return re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", table)


def tasks() -> str:
    """A row for each task: name, a question, its kind of answer."""
    import numpy as np

    from cwr_mech.tasks.registry import TASKS

    ids = np.array([[865, 4879, 1234, 5678, 2468, 1357]])
    return "\n".join(
        f"| {task.name} | `{task.prompt(ids[:, : task.n_min], 4)[0]}` | "
        f"{', '.join(task.labels) if task.labels else 'a whole number'} |"
        for task in TASKS.values()
    )


def limits() -> str:
    """What the zoo's scale cannot say, from its committed results."""
    from cwr_mech.findings import show
    from cwr_mech.results import load_result

    return show.limits(load_result(ROOT / "reports" / "zoo" / "results" / "models.json"))


PAGES: Mapping[str, Callable[[], str]] = {
    "commands.md": commands,
    "api.md": library,
    "activations.md": schema,
}
"""Generated pages."""
PASSAGES: Mapping[str, Callable[[], str]] = {"verdicts": verdicts, "tasks": tasks, "limits": limits}
"""Generated passages, by the name in `<!-- generated: NAME -->`."""


def filled(markdown: str) -> str:
    """`markdown` with its generated passages. Raises KeyError for a passage that is none."""
    return re.sub(r"<!-- generated: (\w+) -->", lambda found: PASSAGES[found[1]](), markdown)
