"""Options that several commands share, so that they read alike everywhere."""

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cwr_mech.errors import ConfigError

from .common import check_log, report_folder


def report_name(name: str | None) -> str | None:
    """Refuse a name that cannot be a report's before anything is computed. Raises ConfigError."""
    if name is not None:
        report_folder(name)
    return name


Run = Annotated[str | None, typer.Argument(help="The run; the latest by default.")]
RunFolder = Annotated[Path | None, typer.Option(help="Folder of the run; runs/NAME by default.")]
Report = Annotated[
    str | None,
    typer.Option(help="Report that gets the result; the first run's by default.", callback=report_name),
]


def result_suffix(text: str | None) -> str | None:
    """Refuse what cannot end a file's name before anything is computed. Raises ConfigError."""
    if text is not None and not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", text):
        raise ConfigError(f"'{text}' cannot end a result's name", "take small letters, digits and hyphens")
    return text


Suffix = Annotated[
    str | None,
    typer.Option(
        help="End of the result's name, for a report that holds several of a kind.", callback=result_suffix
    ),
]

Layers = Annotated[str | None, typer.Option(help="Layers, e.g. embed,0,2,final; all by default.")]

World = Annotated[
    str | None,
    typer.Option(
        "--world",
        help="cities, uniform, grid, clusters, ring, a world of your own, or a CSV file: columns name and "
        "lon,lat (degrees) or x,y (whole units); id and region may be there, too.",
    ),
]
CityCount = Annotated[
    str | None,
    typer.Option("--n-cities", help="Number of training cities, or all; all of a file's by default."),
]
Unit = Annotated[float | None, typer.Option(help="Degrees a unit for a file's lon and lat; 0.1 by default.")]
NewCities = Annotated[
    str | None,
    typer.Option(
        "--new",
        help="New cities: none, atlantis, scattered, holdout:REGION, or several: scattered:32+atlantis:100.",
    ),
]

LabelNoise = Annotated[
    float | None, typer.Option(help="Share of rows with a wrong answer; none, or the base's, by default.")
]
LabelNoiseKind = Annotated[
    str, typer.Option(help="uniform: another query's answer; local: a number 5 % off, a neighbouring label.")
]
Log = Annotated[str | None, typer.Option(help="Send metrics to tensorboard or wandb, too, if installed.")]
LogResult = Annotated[
    str | None,
    typer.Option("--log", help="Send numbers and figures to tensorboard or wandb, too.", callback=check_log),
]
Threads = Annotated[int, typer.Option(min=1, max=256, help="Threads; small models are fastest with one.")]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option(help="auto takes a GPU where there is one; mps is refused, and told why."),
]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16"], typer.Option(help="Of matrix products; auto: bfloat16 on a GPU.")
]
Compile = Annotated[
    Literal["auto", "off", "default", "reduce-overhead"],
    typer.Option(help="torch.compile; reduce-overhead: CUDA graphs; auto: default on a GPU."),
]

Resume = Annotated[bool, typer.Option("--resume", help="Go on with what was begun and stopped.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be trained and stop.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a setting: --set lr=1e-3 --set world.n_cities=512. Repeatable."),
]

Group = Mapping[str, tuple[Any, Any]]
"""Options that go together: name -> annotation and default."""
WORLD: Group = {
    "source": (World, None),
    "n_cities": (CityCount, None),
    "new": (NewCities, None),
    "unit": (Unit, None),
}
"""Settings of a world (`WorldConfig`); None where the option is not given."""
COMPUTE: Group = {"device": (Device, "auto"), "precision": (Precision, "auto"), "compile": (Compile, "auto")}


def taking(**groups: Group) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of some groups; it gets each group's values as one mapping."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            values = {name: {key: given.pop(key) for key in options} for name, options in groups.items()}
            command(**given, **values)

        kind = inspect.Parameter.KEYWORD_ONLY
        own = [one for one in inspect.signature(command).parameters.values() if one.name not in groups]
        parameters = [one.replace(kind=kind) for one in own] + [
            inspect.Parameter(name, kind, default=default, annotation=annotation)
            for options in groups.values()
            for name, (annotation, default) in options.items()
        ]
        run.__doc__ = command.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return decorate
