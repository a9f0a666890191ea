"""What every command needs: consoles, tables, progress, finding runs, saving results."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cwr_mech.render.numbers import number as number

if TYPE_CHECKING:
    from cwr_mech.results import Result

RUNS = Path("runs")
ZOO = Path("zoo")
REPORTS = Path("reports")
ACTIVATIONS = Path("activations")
PLAIN_WIDTH = 100
PLAIN_SECONDS = 10.0


def _console(stderr: bool) -> Console:
    """A console; 100 columns wide where the output is not a terminal and COLUMNS does not say otherwise."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PLAIN_WIDTH
    return Console(stderr=stderr, width=width, highlight=False)


console = _console(stderr=False)
err_console = _console(stderr=True)


def say(line: str) -> None:
    """Print one line, unwrapped and without markup, so that paths can be copied."""
    console.print(Text(line), soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A rich table: columns that hold numbers are aligned to the right, None is a dash."""
    result = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None)
    for index, column in enumerate(columns):
        cells = [row[index] for row in rows if row[index] is not None]
        numeric = bool(cells) and all(isinstance(cell, int | float) for cell in cells)
        result.add_column(column, justify="right" if numeric else "left", no_wrap=numeric)
    for row in rows:
        result.add_row(*(number(cell) for cell in row))
    return result


@contextmanager
def progress(description: str, total: int, unit: str = "steps") -> Iterator[Callable[..., None]]:
    """Yield `advance(n=1, note="")`, which shows done, rate and time left.

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
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with Progress(*columns, console=console) as bar:
        item = bar.add_task(description, total=total, unit=unit, rate="", note="")

        def advance(n: int = 1, note: str = "") -> None:
            speed = bar.tasks[0].speed
            rate = f"{number(float(speed))}/s" if speed else ""
            bar.update(item, advance=n, note=note, rate=rate)

        yield advance


def _plain_progress(
    description: str, total: int, unit: str, clock: Callable[[], float]
) -> Callable[..., None]:
    start = shown = clock()
    done = 0

    def advance(n: int = 1, note: str = "") -> None:
        nonlocal done, shown
        done += n
        now = clock()
        if now - shown < PLAIN_SECONDS and done < total:
            return
        shown = now
        rate = done / max(now - start, 1e-9)
        left = "" if done >= total else f", {duration((total - done) / rate)} left"
        extra = f"  {note}" if note else ""
        say(f"{description}: {done:,}/{total:,} {unit}, {number(rate)}/s{left}{extra}")

    return advance


def duration(seconds: float) -> str:
    """`seconds` as 4.2s, 3m 10s or 2h 05m."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def resolve_run(name: str | Path | None = None) -> Path:
    """The folder of a run: a path, a name in runs/, `zoo:NAME`, or the latest run when `name` is None.

    Raises MissingArtifact, with the nearest known name in the hint.
    """
    from cwr_mech.errors import MissingArtifact

    if name is None:
        from cwr_mech.training.runs import latest_run

        return latest_run(RUNS)
    text = str(name)
    root = ZOO if text.startswith("zoo:") else RUNS
    short = text.removeprefix("zoo:")
    for folder in (Path(text), root / short):
        if (folder / "manifest.json").is_file():
            return folder
    raise MissingArtifact(f"no such run: '{text}'", _known_runs(root, short))


def _known_runs(root: Path, name: str) -> str:
    from difflib import get_close_matches

    known = sorted(path.parent.name for path in root.glob("*/manifest.json"))
    near = get_close_matches(name, known, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    return (
        f"runs in {root}/: {', '.join(known[:12])}"
        if known
        else f"{root}/ holds no run; train one with: cwr-mech train"
    )


def report_folder(name: str) -> Path:
    """Folder of the report `name`, zoo-NAME for a model zoo:NAME.

    Raises ConfigError when the name is no plain name.
    """
    import re

    from cwr_mech.errors import ConfigError

    name = name.replace("zoo:", "zoo-")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
        raise ConfigError(f"'{name}' cannot name a report", "use letters, digits, and . _ + -")
    return REPORTS / name


def save_result(result: "Result", report: str, name: str) -> Path:
    """Save `result` under reports/REPORT/results, draw its figure, print both paths; returns the JSON's.

    A zoo:MODEL in the name becomes zoo-MODEL, as in names of reports.
    """
    from cwr_mech.report.figures import draw

    folder, name = report_folder(report), name.replace("zoo:", "zoo-")
    path = result.save(folder / "results", name)
    say(f"result  {path}")
    for figure in draw(result, folder / "figures", name):
        say(f"figure  {figure}")
    return path


def rows_of(records: Sequence[dict[str, Any]], columns: Sequence[str]) -> list[list[object]]:
    """The cells of tidy `records` in the order of `columns`, for `table`."""
    return [[record.get(column) for column in columns] for record in records]
