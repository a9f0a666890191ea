"""Texts of the documentation that follow from the program: commands, names, tasks, verdicts and limits.

python tools/docs_pages.py     (or make readme)  writes the README's tables of analyses and of verdicts anew
"""

import re
from collections.abc import Callable, Mapping, Sequence
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


def unlinked(text: str) -> str:
    """`text` without its links to files of the repository, which are no pages here."""
    return re.sub(r"\[([^]]+)\]\((?!https?:)[^)]*\)", r"\1", text)


def results() -> str:
    """What the models show: reports/README.md."""
    return unlinked((ROOT / "reports" / "README.md").read_text(encoding="utf-8"))


def analyses() -> str:
    """A row for each analysis: its command and what it asks."""
    from cwr_mech.analysis.registry import ANALYSES

    rows = [
        f"| `cwr-mech {row.name}` | {row.help[0].lower()}{row.help[1:].removesuffix('.')} |"
        for row in ANALYSES
    ]
    return "\n".join(["| command | what it asks |", "|---|---|", *rows])


def linked_verdicts(reports: Sequence[str] = ("ripe", "routing", "variants")) -> str:
    """The headline of each question in the committed reports, linked to its section."""
    from cwr_mech.findings.show import readme_rows
    from cwr_mech.results import load_result

    files = {name: ROOT / "reports" / name / "results" / "findings.json" for name in reports}
    return readme_rows({name: load_result(path) for name, path in files.items()})


def verdicts() -> str:
    """The table of verdicts without its links."""
    return unlinked(linked_verdicts())


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

    return show.limits(load_result(ROOT / "reports" / "ripe" / "results" / "models.json"))


PAGES: Mapping[str, Callable[[], str]] = {
    "commands.md": commands,
    "api.md": library,
    "activations.md": schema,
    "results.md": results,
}
"""Generated pages."""
PASSAGES: Mapping[str, Callable[[], str]] = {"verdicts": verdicts, "tasks": tasks, "limits": limits}
"""Generated passages, by the name in `<!-- generated: NAME -->`."""


def filled(markdown: str) -> str:
    """`markdown` with its generated passages. Raises KeyError for a passage that is none."""
    return re.sub(r"<!-- generated: (\w+) -->", lambda found: PASSAGES[found[1]](), markdown)


README: Mapping[str, Callable[[], str]] = {"analyses": analyses, "verdicts": linked_verdicts}
"""Generated tables of the README, by the name in `<!-- NAME -->` and `<!-- /NAME -->` around them."""


def readme(text: str) -> str:
    """The text of the README with its generated tables made anew."""
    for name, table in README.items():
        start, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
        before, _, rest = text.partition(start)
        text = before + start + table() + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    page = ROOT / "README.md"
    page.write_text(readme(page.read_text(encoding="utf-8")), encoding="utf-8")
