"""Run every benchmark beside this file and print one table: `make bench`, or `run.py NAME ...` for some.

Beside each figure stands the one kept in figures.json: the ratio where there is one, which hangs little on
the machine, else the seconds. `run.py --keep [NAME ...]` keeps what it finds, with the processor's name.

A benchmark is a module bench_NAME.py with `main(argv: list[str]) -> list[dict]`: rows with the keys `case`
(what was timed), `seconds`, and, where they apply, `memory_mb` (peak), `ratio` (against the other way, timed
in the same run) and `note`. Each runs in a process of its own, so that peak memory is its own.
"""

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
COLUMNS = ("benchmark", "case", "seconds", "memory_mb", "ratio", "kept", "note")
NUMBERS = ("seconds", "memory_mb", "ratio", "kept")
CHILD, KEEP = "--rows-of", "--keep"
FIGURES = HERE / "figures.json"
Rows = list[dict[str, Any]]


def rows_of(name: str) -> Rows:
    """The rows of one benchmark, computed in this process."""
    sys.path.insert(0, str(HERE))
    return list(import_module(f"bench_{name}").main([]))


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def kept_figures(path: Path = FIGURES) -> dict[str, dict[str, Any]]:
    """What `keep` wrote, benchmark by benchmark: {"processor", "rows"}; nothing where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def keep(found: Mapping[str, Rows], path: Path = FIGURES) -> None:
    """Write the rows of the benchmarks that were run; those of the others stay."""
    new = {name: {"processor": processor(), "rows": rows} for name, rows in found.items()}
    text = json.dumps(dict(sorted((kept_figures(path) | new).items())), indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def beside(row: Mapping[str, Any], kept: Rows) -> str:
    """The kept figure of a row's case, and by how much today's differs; "" for a case that is new."""
    for old in kept:
        figure = "ratio" if old.get("ratio") else "seconds"
        if old["case"] == row["case"] and old.get(figure) and row.get(figure):
            unit = "s" if figure == "seconds" else "x"
            return f"{_cell(old[figure])}{unit} ({row[figure] / old[figure] - 1:+.0%})"
    return ""


def run(names: list[str], *, keeping: bool = False) -> int:
    """Run the benchmarks named (all when none is) and print the table; returns how many failed."""
    known = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"error: no benchmark '{unknown[0]}'; there are: {', '.join(known) or 'none'}")
    table = Table(box=None, header_style="dim")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in NUMBERS else "left")
    failed, kept, found = 0, kept_figures(), dict[str, Rows]()
    for name in names or known:
        done = subprocess.run([sys.executable, __file__, CHILD, name], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            failed += 1
            table.add_row(name, f"failed with exit code {done.returncode}")
            continue
        found[name] = json.loads(done.stdout.splitlines()[-1])
        for row in found[name]:
            row_kept = {"kept": beside(row, kept.get(name, {}).get("rows", []))}
            table.add_row(name, *(_cell((row | row_kept).get(column)) for column in COLUMNS[1:]))
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    there = sorted({entry["processor"] for name, entry in kept.items() if name in found})
    console.print(f"on {processor()}; kept figures are from {', '.join(there) or 'nowhere yet'}")
    if keeping:
        keep(found)
    return failed


def _cell(value: object) -> str:
    if isinstance(value, int | float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value)


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        print(json.dumps(rows_of(sys.argv[2])))
    else:
        names = [name for name in sys.argv[1:] if name != KEEP]
        sys.exit(1 if run(names, keeping=KEEP in sys.argv[1:]) else 0)
