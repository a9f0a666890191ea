"""Options that several commands share, and how typer reads the options of all."""

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from cwr_mech.analysis.registry import Opt
from cwr_mech.errors import ConfigError

from .common import check_log, report_folder


def typed(command: Callable[..., Any]) -> inspect.Signature:
    """The signature of a command as typer reads it.

    A parameter with an `Opt` is an option where it is given by keyword alone, else an argument; one that is
    on or off is shown as such, not as if it took a value.
    """
    return inspect.Signature([_typed(one) for one in inspect.signature(command).parameters.values()])


def _typed(parameter: inspect.Parameter) -> inspect.Parameter:
    kind, *extras = get_args(parameter.annotation) or (None,)
    about = next((extra for extra in extras if isinstance(extra, Opt)), None)
    if about is None:
        return parameter
    more = {**about._asdict(), "metavar": "" if kind is bool else about.metavar}
    flags = [*(more.pop("flags") or (f"--{parameter.name.replace('_', '-')}",)), more.pop("short")]
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
        info = typer.Option(*filter(None, flags), **more)
    else:
        info = typer.Argument(**more)
    return parameter.replace(annotation=Annotated[kind, info])


def report_name(name: str | None) -> str | None:
    """Refuse a name that cannot be a report's before anything is computed. Raises ConfigError."""
    if name is not None:
        report_folder(name)
    return name


Run = Annotated[str | None, Opt("The run; the latest by default.")]
RunFolder = Annotated[Path | None, Opt("Folder of the run; runs/NAME by default.")]
Report = Annotated[
    str | None, Opt("Report that gets the result; the first run's by default.", callback=report_name)
]


def result_suffix(text: str | None) -> str | None:
    """Refuse what cannot end a file's name before anything is computed. Raises ConfigError."""
    if text is not None and not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", text):
        raise ConfigError(f"'{text}' cannot end a result's name", "take small letters, digits and hyphens")
    return text


Suffix = Annotated[
    str | None,
    Opt("End of the result's name, for a report that holds several of a kind.", callback=result_suffix),
]

Layers = Annotated[str | None, Opt("Layers, e.g. embed,0,2,final; all by default.")]

World = Annotated[
    str | None,
    Opt(
        "cities, uniform, grid, clusters, ring, a world of your own, or a CSV file: columns name and "
        "lon,lat (degrees) or x,y (whole units); id and region may be there, too.",
        flags=("--world",),
    ),
]
CityCount = Annotated[str | None, Opt("Number of training cities, or all; all of a file's by default.")]
Unit = Annotated[float | None, Opt("Degrees a unit for a file's lon and lat; 0.1 by default.")]
NewCities = Annotated[
    str | None,
    Opt("New cities: none, atlantis, scattered, holdout:REGION, or several: scattered:32+atlantis:100."),
]

LabelNoise = Annotated[
    float | None, Opt("Share of rows with a wrong answer; none, or the base's, by default.")
]
LabelNoiseKind = Annotated[
    str, Opt("uniform: another query's answer; local: a number 5 % off, a neighbouring label.")
]
Log = Annotated[str | None, Opt("Send metrics to tensorboard or wandb, too, if installed.")]
LogResult = Annotated[
    str | None, Opt("Send numbers and figures to tensorboard or wandb, too.", callback=check_log)
]
Threads = Annotated[int, Opt("Threads; small models are fastest with one.", min=1, max=256)]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    Opt("auto takes a GPU where there is one; mps is refused, and told why."),
]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16"], Opt("Of matrix products; auto: bfloat16 on a GPU.")
]
Compile = Annotated[
    Literal["auto", "off", "default", "reduce-overhead"],
    Opt("torch.compile; reduce-overhead: CUDA graphs; auto: default on a GPU."),
]

Resume = Annotated[bool, Opt("Go on with what was begun and stopped.")]
DryRun = Annotated[bool, Opt("Say what would be trained and stop.")]
Settings = Annotated[
    list[str] | None,
    Opt("Change a setting: --set lr=1e-3 --set world.n_cities=512. Repeatable.", flags=("--set",)),
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
        parameters = own + [
            inspect.Parameter(name, kind, default=default, annotation=annotation)
            for options in groups.values()
            for name, (annotation, default) in options.items()
        ]
        run.__doc__ = command.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return decorate
