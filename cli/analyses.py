"""The commands of all analyses, made from the studies' own signatures.

A row of `cwr_mech.analysis.registry.ANALYSES` is a command: its arguments and options, with their help texts
and defaults, are those of the study; what it prints and draws is what the analysis' `show.py` lists.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from cwr_mech.analysis.registry import ANALYSES, Analysis
from cwr_mech.analysis.study import followed_by

from .common import plain_name, progress, rows_of, save_result, say, show_table
from .options import LogResult, Report, Suffix

if TYPE_CHECKING:
    from cwr_mech.results import Result

_PLAIN = (bool, int, float)


def commands() -> dict[str, Analysis]:
    """Name of a command -> its analysis."""
    return {row.name: row for row in ANALYSES}


def command_of(row: Analysis) -> Callable[..., None]:
    """The function that typer turns into the command of `row`."""
    study = row.function
    given = inspect.signature(study).parameters

    def command(
        report: str | None = None, suffix: str | None = None, log: str | None = None, **options: Any
    ) -> None:
        run(row.name, report, suffix=suffix, log=log, **options)

    command.__doc__ = study.__doc__
    parameters = [_option(parameter, set(given)) for parameter in given.values()]
    kind = inspect.Parameter.KEYWORD_ONLY
    for name, annotation in (("report", Report), ("suffix", Suffix), ("log", LogResult)):
        parameters.append(inspect.Parameter(name, kind, default=None, annotation=annotation))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def run(
    name: str,
    report: str | None,
    *,
    suffix: str | None = None,
    said: str | None = None,
    tables: bool = True,
    log: str | None = None,
    **options: Any,
) -> None:
    """Run the study of a command, print its short tables and save its result in a report, by default that of
    its first run, of a fine-tuning its base's.

    `suffix`: what its name ends with there. `said`: the command that it is to name instead of this one.
    `tables`: whether to print any.
    """
    row = commands()[name]
    with followed_by(progress):
        result = row.function(**options)
    ending = f" --suffix {suffix}" if suffix else ""
    result = replace(result, command=said or result.command + ending)
    if tables:
        show_result(result)
    if "task" in options and options["task"] is None:
        options = options | {"task": result.params.get("task")}
    named = "-".join(part for part in (file_name(row, result, options), suffix) if part)
    runs = result.params.get("bases") or result.params.get("runs") or [result.kind]
    save_result(result, report or plain_name(str(runs[0])), named, log)


def file_name(row: Analysis, result: "Result", options: Mapping[str, Any]) -> str:
    """Name of a result's file: its kind, the task if it is about one, the cities unless they are old, and the
    run where a report may hold one for each.
    """
    cities = str(options.get("cities") or "old")
    parts = [result.kind.replace("_", "-"), str(options.get("task") or ""), "" if "old" in cities else cities]
    runs = [plain_name(run) for run in (result.params["runs"] if row.by_run else ())]
    return "-".join(part for part in [*parts, *runs] if part)


SAME = (
    ("tasks", "task"),
    ("prompts", "tasks", "task"),
    ("layers", "layer"),
    ("sites", "site"),
    ("cities", "groups"),
)
"""Options that are one idea: whichever of them a study has, the others are understood."""


def _flags(name: str, taken: set[str]) -> tuple[str, ...]:
    """How an option may be written, its own name first."""
    alike = next((group for group in SAME if name in group), ())
    return (f"--{name.replace('_', '-')}", *(f"--{other}" for other in alike if other not in taken))


def _option(parameter: inspect.Parameter, taken: set[str]) -> inspect.Parameter:
    """A parameter of a study with a type that typer reads."""
    base, about = get_args(parameter.annotation)
    several = parameter.name in ("runs", "activations")
    kind = list[str] | None if several else _plain_type(base)
    about = about._replace(flags=_flags(parameter.name, taken))
    return parameter.replace(annotation=Annotated[kind, about])


def _plain_type(annotation: Any) -> Any:
    """What typer is to read for an annotation: bool, int, float or Literal as they are, else text."""
    options = [option for option in get_args(annotation) if option is not type(None)]
    if get_origin(annotation) is Literal or annotation in _PLAIN:
        return annotation
    if len(options) == 1 and options[0] in _PLAIN:
        return annotation
    return str | None


def show_result(result: "Result") -> None:
    """Print the short tables of a result and its notes."""
    from cwr_mech.render.units import in_unit, unit_of
    from cwr_mech.report.short import short_tables

    for title, columns, rows in short_tables(result):
        show_table(title, columns, rows_of(rows, columns), unit_of(result))
    for note in result.notes:
        say(in_unit(note, unit_of(result)))
