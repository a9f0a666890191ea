"""The `cwr-mech` command: runs the command named on the line and turns what went wrong into one line.

Only the module of the command asked for is imported, and those modules import their heavy parts inside the
command, so `--help` answers at once.
"""

import errno
import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, NamedTuple

import typer

from cwr_mech.analysis.registry import ANALYSES
from cwr_mech.errors import ConfigError, CwrError, UnknownName, UserError

from .interrupt import EXIT_INTERRUPTED, KEPT, answer_signals
from .quick import check_words


class Command(NamedTuple):
    """One command: its name, that of a module of cli/ or of an analysis, and the line that `--help` shows."""

    name: str
    help: str
    is_analysis: bool = False


COMMANDS: tuple[Command, ...] = (
    Command("data", "Print rows of the training data, or their statistics."),
    Command("train", "Train a model, or go on with one."),
    Command("finetune", "Teach a model new cities through some of its tasks."),
    Command("sweep", "Train a named plan of models, resumable."),
    Command("plot", "Draw learning curves, one or several runs in a figure."),
    Command("runs", "List the models trained here."),
    Command("cache-acts", "Cache residual-stream activations at city tokens, as HDF5."),
    *(Command(row.name, row.help, is_analysis=True) for row in ANALYSES),
    Command("zoo", "Trained models that ship with this, and what they show together."),
    Command("report", "Write a report from saved results, or check one."),
    Command("demo", "Everything once: train, look inside, write the report."),
)
"""Every command, in the order of the help text. A new one: a row here, a module in cli/ with `command`."""

EXIT_FAILED, EXIT_USAGE = 1, 2
REPORT_IT = (
    "please tell whoever gave you this copy, as an issue where you cloned it or by mail: the command, the "
    "lines above and what cwr-mech --version says"
)


def version(show: bool) -> None:
    """Print the version and leave."""
    if show:
        from importlib.metadata import version as installed  # slow, and only needed here

        print(f"cwr-mech {installed('cwr-mech')}")
        raise typer.Exit


def root(
    _version: bool = typer.Option(
        False, "--version", callback=version, is_eager=True, help="Print the version and leave."
    ),
) -> None:
    """Train small transformers on a world of cities, and look for the map inside them."""


def one_line(message: str, hint: str | None = None) -> None:
    """Print a red `error:` line, and a dim `hint:` line when there is one, on stderr."""
    from rich.text import Text

    from .common import err_console
    from .tables import visible

    with suppress(OSError):  # a full disk takes no message either
        said = Text.assemble(("error: ", "bold red"), (visible(message), "red"))
        err_console.print(said, soft_wrap=True)
        if hint:
            err_console.print(Text(f"hint: {visible(hint)}", style="dim"), soft_wrap=True)


def explain(error: BaseException) -> int:
    """Say on stderr what `error` means to the user; returns the exit code.

    2: the user can mend it (UserError, or the system refuses a file). 1: the computation failed, or a bug of
    ours, shown with its traceback. 130: Ctrl-C, SIGTERM or SIGHUP. A closed pipe (`| head`) ends quietly with
    1.
    """
    if isinstance(error, CwrError):
        one_line(error.message, error.hint)
        return EXIT_USAGE if isinstance(error, UserError) else EXIT_FAILED
    if isinstance(error, KeyboardInterrupt):
        one_line("interrupted", KEPT)
        return EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError):
        _silence(1)
        return EXIT_FAILED
    if isinstance(error, OSError) and error.errno is not None:
        _silence_full()
        place = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if error.errno == errno.ENOENT and not place:  # os.getcwd names no file
            one_line("the current folder is no longer there", "go to another: cd ..")
            return EXIT_USAGE
        one_line(place + os.strerror(error.errno), "free some space" if full else "choose another file")
        return EXIT_USAGE
    if isinstance(error, MemoryError):
        one_line("there is not enough memory", "take fewer models, layers or cities, or another machine")
        return EXIT_FAILED
    frames = traceback.extract_tb(error.__traceback__)
    if any(frame.name == "_rc_params_in_file" for frame in frames):  # the user's, read when it is imported
        one_line(f"matplotlib cannot read its settings: {error}", "mend or remove your matplotlibrc")
        return EXIT_USAGE
    from rich.traceback import Traceback

    from .common import err_console

    err_console.print(Traceback.from_exception(type(error), error, error.__traceback__, suppress=[typer]))
    one_line("this is a bug in cwr-mech", REPORT_IT)
    return EXIT_FAILED


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as typer should call it: what it raises is explained and becomes an exit code."""
    from .options import typed

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            result = function(*args, **kwargs)
            sys.stdout.flush()
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except (Exception, KeyboardInterrupt) as error:
            raise typer.Exit(explain(error)) from None
        return result

    run.__signature__ = typed(function)  # type: ignore[attr-defined]
    return run


def _load(row: Command) -> Callable[..., Any]:
    if row.is_analysis:
        from .analyses import command_of, commands

        return command_of(commands()[row.name])
    return import_module(f"{__package__}.{row.name.replace('-', '_')}").command


def unwrapped(text: str | None) -> str:
    """A docstring with a line for each paragraph, so that help is wrapped once, at the terminal's width."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _listed_only() -> None:
    """Stands for a command that is listed in the help text but not asked for."""


def build_app(args: Sequence[str]) -> typer.Typer:
    """The typer application for one command line: the command that `args` names is imported, no other."""
    if "_CWR_MECH_COMPLETE" in os.environ:  # the shell asks; the line being completed is in the environment
        args = os.environ.get("_TYPER_COMPLETE_ARGS", os.environ.get("COMP_WORDS", "")).split()[1:]
    app = typer.Typer(
        name="cwr-mech",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(root)
    asked = next((arg for arg in args if not arg.startswith("-")), None)
    for row in COMMANDS:
        function = guarded(_load(row)) if row.name == asked else _listed_only
        app.command(row.name, short_help=row.help, help=unwrapped(function.__doc__))(function)
    return app


def _check_known(args: Sequence[str]) -> None:
    """Raises UnknownName when the first word names no command."""
    if args and not args[0].startswith("-") and args[0] not in {row.name for row in COMMANDS}:
        raise UnknownName("command", args[0], [row.name for row in COMMANDS])


def _check_text(args: Sequence[str]) -> None:
    """Raises ConfigError for a word that is no text in this locale: it could be neither shown nor stored.

    So does an empty word: what an unset variable of a script leaves must not stand for a default.
    """
    for before, arg in zip(("", *args), args, strict=False):
        if not arg.strip(", \t\r\n") or (arg.startswith("--") and arg.rstrip(" ,").endswith("=")):
            place = arg.strip(" =,\t\r\n") or (before if before[:1] == "-" and before != "--" else "a word")
            raise ConfigError(f"{place} is empty", "a variable may be unset; leave it out for the default")
        if any("\ud800" <= letter <= "\udfff" for letter in arg):
            raise ConfigError(f"{arg!r} is not valid UTF-8", "rename the file, or set LC_ALL=C.UTF-8")


def _silence(stream: int) -> None:
    """Let what is still written to a stream of ours vanish."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream)
    os.close(nowhere)


def _silence_full() -> None:
    """Where standard output itself takes nothing any more, a last flush at the end must not fail again."""
    try:
        sys.stdout.flush()
    except OSError:
        _silence(1)


def _open_streams() -> None:
    """Make standard streams that a daemon has closed, and let none fail on a letter it cannot show."""
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:  # else the next file would become standard output
        pass
    os.close(spare)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
        with suppress(AttributeError, ValueError):
            getattr(sys, name).reconfigure(errors="replace")


def main() -> None:
    """Entry point of the `cwr-mech` script."""
    os.environ["MPLBACKEND"] = "agg"  # a notebook sets its own, which need not be installed here
    _open_streams()
    args = sys.argv[1:]
    answer_signals(next((arg for arg in args if not arg.startswith("-")), None))
    try:
        _check_text(args)
        _check_known(args)
        check_words(args)
        build_app(args)(args=args, prog_name="cwr-mech")
    except SystemExit:
        with suppress(OSError):
            sys.stdout.flush()
            raise
        _silence(1)  # --help into a full disk
        sys.exit(EXIT_USAGE)
    except (Exception, KeyboardInterrupt) as error:
        sys.exit(explain(error))


if __name__ == "__main__":
    main()
