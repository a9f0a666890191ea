"""What all analyses share: how they are called, followed while they run, and recorded.

A study is a library function `name(runs, *, options) -> Result` under the decorator `study`. Its options
carry their help text (`Annotated[int, Opt("Folds of the cities.", min=2)]`) and the command line is made from
the same signature, so an option is written once. The decorator fills in what every Result needs: the command
that makes it again, and the hashes of what it was made from.
"""

import functools
import inspect
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

from cwr_mech.analysis.registry import Opt as Opt
from cwr_mech.config import EARTH_UNIT
from cwr_mech.errors import AnalysisError
from cwr_mech.results import Result

P = ParamSpec("P")
T = TypeVar("T")
Advance = Callable[..., object]
Reporter = Callable[[str, int, str], AbstractContextManager[Advance]]


Names = str | Sequence[str] | None
"""Several names: "a,b", ["a", "b"], or None for the default."""
RunArg = Annotated[str | Path | None, Opt("The run; the latest by default.")]
FineTunedArg = Annotated[
    Names, Opt("Fine-tuned runs, or bases, which stand for all their fine-tunings in runs/.")
]
RunsArg = Annotated[Names, Opt("Runs to compare; the latest by default.")]
Layers = Annotated[Names, Opt("Layers, e.g. embed,0,2,final; all by default.")]
BlockLayers = Annotated[Names, Opt("Layers, e.g. 0,2,final; all blocks by default.")]
Prompts = Annotated[Names, Opt("Prompts: own (the run's first task), all, or tasks by name.")]
OnePrompt = Annotated[str, Opt("Prompt: own (each run's first task) or a task.")]
OwnTasks = Annotated[Names, Opt("Tasks by name; own are those the (first) run was trained on.")]
Sites = Annotated[
    Names,
    Opt("Token positions, comma-separated, a+b side by side; last_digit+delimiter, or a text's last_token."),
]
Site = Annotated[
    str | None,
    Opt("Token position, a+b side by side; by default last_digit+delimiter, or a text's last_token."),
]
Cities = Annotated[str, Opt("old, new or all cities.")]
Shuffles = Annotated[int, Opt("Shuffled-label controls for each probe.", min=1)]
Folds = Annotated[int, Opt("Folds of the cities.", min=2)]
Seed = Annotated[int, Opt("Seed of folds, controls and resampling.", min=0)]
Questions = Annotated[int, Opt("Questions a task and group of cities.", min=1, short="-n")]
QuestionSeed = Annotated[int, Opt("Seed of the questions.", min=0)]
Step = Annotated[int | None, Opt("Checkpoint; the last by default.", min=0)]
ActivationFiles = Annotated[
    str | Path | Sequence[str | Path] | None, Opt("Activation files instead of runs; may be repeated.")
]


@contextmanager
def _silent(_title: str, _total: int, _unit: str) -> Iterator[Advance]:
    yield lambda *_args, **_kwargs: None


_reporter: ContextVar[Reporter] = ContextVar("reporter", default=_silent)
_inputs: ContextVar[dict[str, str] | None] = ContextVar("inputs", default=None)
_units: ContextVar[set[float] | None] = ContextVar("units", default=None)


def stage(title: str, total: int, unit: str = "steps") -> AbstractContextManager[Advance]:
    """A part of a study that takes time: yields `advance(n=1)`. Silent unless somebody `follows` it."""
    return _reporter.get()(title, total, unit)


def each(items: Iterable[T], title: str, unit: str = "steps") -> Iterator[T]:
    """The items one by one, as a stage that is one step further after each."""
    waiting = list(items)
    with stage(title, len(waiting), unit) as advance:
        for item in waiting:
            yield item
            advance()


@contextmanager
def followed_by(reporter: Reporter) -> Iterator[None]:
    """Show the stages of the studies inside through `reporter(title, total, unit)`."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


def uses(name: str, sha256: str) -> None:
    """Record that the study that is running was made from this file or model."""
    found = _inputs.get()
    if found is not None:
        found[name] = sha256


def measured_in(unit: float) -> None:
    """Record in what unit (degrees) the world is measured that the study that is running is about."""
    found = _units.get()
    if found is not None:
        found.add(unit)


def names(value: Names | Path | Sequence[str | Path]) -> list[str] | None:
    """The single names in an option: "a,b" and ["a", "b"] are the same. None stays None.

    Raises AnalysisError for a text without a name, which must not stand for the default, and for a name given
    twice, whose rows would count twice in every mean.
    """
    if value is None:
        return None
    parts = value.split(",") if isinstance(value, str) else [value] if isinstance(value, Path) else value
    found = [str(part).strip() for part in parts if str(part).strip()]
    if not found and isinstance(value, str):
        raise AnalysisError(f"{value!r} names nothing", "leave the option out for its default")
    for name in found:
        if found.count(name) > 1:
            raise AnalysisError(f"{name} was given twice", "name each once")
    return found


def command_line(name: str, arguments: Mapping[str, Any], signature: inspect.Signature) -> str:
    """The command that makes a call of a study again: options that have their default are left out."""
    words = ["cwr-mech", name]
    for key, value in arguments.items():
        parameter = signature.parameters[key]
        if value == parameter.default or value is None or key == "resume":
            continue  # a result does not depend on being resumed
        option = f"--{key.replace('_', '-')}"
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            words += names(value) or []
        elif value is True:
            words.append(option)
        elif isinstance(value, str | Path | int | float):
            words += [option, str(value)]
        else:
            words += [option, ",".join(map(str, value))]
    return shlex.join(words)


def study(name: str) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """Make a function that returns a Result the study behind `cwr-mech NAME`.

    BLAS is kept to one thread: decompositions of a few hundred cities are slower with several (40 times on a
    busy machine).
    """

    def decorate(function: Callable[P, Result]) -> Callable[P, Result]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> Result:
            import scipy.linalg  # noqa: F401  only libraries that are loaded are kept to one thread
            from threadpoolctl import threadpool_limits

            call = signature.bind(*args, **kwargs)
            inputs: dict[str, str] = {}
            units: set[float] = set()
            tokens = _inputs.set(inputs), _units.set(units)
            try:
                with threadpool_limits(limits=1, user_api="blas"):
                    result = function(*args, **kwargs)
            finally:
                _inputs.reset(tokens[0])
                _units.reset(tokens[1])
            command = command_line(name, call.arguments, signature)
            other = {"unit": units.pop()} if len(units) == 1 and EARTH_UNIT not in units else {}
            return replace(
                result, command=command, inputs={**inputs, **result.inputs}, params={**result.params, **other}
            )

        return run

    return decorate
