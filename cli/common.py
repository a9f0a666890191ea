"""What every command needs: consoles, tables, progress, finding runs, saving results."""

import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from cwr_mech.errors import ConfigError
from cwr_mech.render.numbers import number, with_layer_name

from .tables import Table, visible

if TYPE_CHECKING:
    from cwr_mech.results import Result

REPORTS = Path("reports")
ACTIVATIONS = Path("activations")
PLAIN_WIDTH, USUAL_WIDTH, LEAST_WIDTH = 100, 80, 20
PLAIN_SECONDS = 10.0


def _console(stderr: bool) -> Console:
    """A console as wide as COLUMNS says or the terminal is.

    100 columns where the output is no terminal, 80 where a terminal claims to have next to none.
    """
    stream = sys.stderr if stderr else sys.stdout
    said = os.environ.get("COLUMNS", "")
    told = int(said) if said.isdigit() else None
    width = told if told is not None or stream.isatty() else PLAIN_WIDTH
    found = Console(stderr=stderr, width=width or None, highlight=False)
    if (told is not None and told < LEAST_WIDTH) or found.width < LEAST_WIDTH:
        found.width = USUAL_WIDTH
    return found


console = _console(stderr=False)
err_console = _console(stderr=True)


def say(line: str) -> None:
    """Print a line, unwrapped and without markup, so that paths can be copied; control characters escaped."""
    console.print(Text(visible(line, "\n")), soft_wrap=True)


def show_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], unit: float | None = None
) -> None:
    """Print a table that fits any terminal, unless it has no row; see `Table`."""
    if rows:
        console.print(Table(title, columns, rows, unit))


@contextmanager
def progress(description: str, total: int, unit: str = "steps") -> Iterator[Callable[..., None]]:
    """Yield `advance(n=1)`, which shows done, rate and time left.

    On a terminal a live bar; elsewhere a plain line at most every ten seconds, so that logs stay short.
    """
    if not console.is_terminal:
        yield _plain_progress(description, total, unit, time.monotonic)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}", justify="right"),
        TextColumn("{task.fields[rate]}", style="dim"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console) as bar:
        item = bar.add_task(description, total=total, unit=unit, rate="")

        def advance(n: int = 1) -> None:
            speed = bar.tasks[0].speed
            rate = f"{number(float(speed))}/s" if speed else ""
            bar.update(item, advance=n, rate=rate)

        yield advance


def _plain_progress(
    description: str, total: int, unit: str, clock: Callable[[], float]
) -> Callable[..., None]:
    start = shown = clock()
    done = 0

    def advance(n: int = 1) -> None:
        nonlocal done, shown
        done += n
        now = clock()
        if now - shown < PLAIN_SECONDS and done < total:
            return
        shown = now
        rate = done / max(now - start, 1e-9)
        left = "" if done >= total else f", {duration((total - done) / rate)} left"
        say(f"{description}: {done:,}/{total:,} {unit}, {number(rate)}/s{left}")

    return advance


def duration(seconds: float) -> str:
    """`seconds` as 4.2s, 3m 10s or 2h 05m."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def size_text(n: int) -> str:
    """A number of bytes for a reader."""
    return f"{n / 1e6:.1f} MB" if n >= 1e6 else f"{n / 1e3:.0f} kB"


def command_line() -> str:
    """What the user typed, for a result's `command`; a result does not depend on being resumed."""
    return shlex.join(["cwr-mech", *(word for word in sys.argv[1:] if word != "--resume")])


def report_folder(name: str) -> Path:
    """Folder of the report `name`, zoo-NAME for zoo:NAME. Raises ConfigError for no plain name."""
    name = name.replace("zoo:", "zoo-")
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ConfigError(f"'{name}' cannot name a report", "use letters, digits, and . _ + -")
    return REPORTS / name


def plain_name(run: str) -> str:
    """A run, by name or path, as part of the name of a report or of a result's file: - for other letters."""
    return re.sub(r"[^\w.+-]+", "-", run).strip("-.+") or "run"


@cache
def say_if_published(folder: Path) -> None:
    """Say, once for each, that a report of the repository (by its .gitignore) changes, and how to undo it."""
    path = Path(".gitignore")
    if path.is_file() and f"!/{REPORTS}/{folder.name}/" in path.read_text(encoding="utf-8").splitlines():
        say(f"note    {folder} is published; git diff shows what changes, git checkout {folder} undoes it")


def save_result(result: "Result", report: str, name: str, log: str | None = None) -> Path:
    """Save `result` under reports/REPORT/results, draw its figure, print both paths; returns the JSON's.

    `log` names a tracker that gets both.
    """
    from cwr_mech.report.contents import show_of

    folder = report_folder(report)
    say_if_published(folder)
    path = result.save(folder / "results", name)
    say(f"result  {path}")
    figures: list[Path] = []
    if show_of(result).figures:
        from cwr_mech.report.figures import draw

        figures = draw(result, folder / "figures", name)
    for figure in figures:
        say(f"figure  {figure}")
    if log:
        from cwr_mech.training.trackers import log_results

        log_results(log, {name: result}, {name: figures}, folder)
        say(f"logged to {log}")
    return path


def log_report(log: str, folder: Path) -> None:
    """Send the results of a report with their figures to a tracker."""
    from cwr_mech.report.figures import figure_names
    from cwr_mech.report.write import saved_results
    from cwr_mech.training.trackers import log_results

    results = saved_results(folder)
    figures = {
        name: [folder / "figures" / file for _, file in figure_names(result, name)]
        for name, result in results.items()
    }
    log_results(log, results, figures, folder)
    say(f"logged to {log}")


def check_log(log: str | None) -> str | None:
    """Refuse a tracker before work begins. Raises UnknownName, or MissingArtifact if it is not installed."""
    if log:
        from cwr_mech.training.trackers import check_tracker

        check_tracker(log)
    return log


def rows_of(records: Sequence[dict[str, Any]], columns: Sequence[str]) -> list[list[object]]:
    """The cells of tidy `records` in the order of `columns`, for `table`; layers by name."""
    return [[with_layer_name(record, name) for name in columns] for record in records]
