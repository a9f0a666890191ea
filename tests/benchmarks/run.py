"""Run every benchmark beside this file and print one table: `make bench`, or `run.py NAME ...` for some.

A benchmark is a module bench_NAME.py with `main(argv: list[str]) -> list[dict]`: rows with the keys `case`
(what was timed), `seconds`, and, where they apply, `memory_mb` (peak), `ratio` (against the other way, timed
in the same run) and `note`. Each runs in a process of its own, so that peak memory is its own.
"""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
COLUMNS = ("benchmark", "case", "seconds", "memory_mb", "ratio", "note")
CHILD = "--rows-of"


def rows_of(name: str) -> list[dict[str, object]]:
    """The rows of one benchmark, computed in this process."""
    sys.path.insert(0, str(HERE))
    return list(import_module(f"bench_{name}").main([]))


def run(names: list[str]) -> int:
    """Run the benchmarks named (all when none is) and print the table; returns how many failed."""
    known = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"error: no benchmark '{unknown[0]}'; there are: {', '.join(known) or 'none'}")
    table = Table(box=None, header_style="dim")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in ("seconds", "memory_mb", "ratio") else "left")
    failed = 0
    for name in names or known:
        done = subprocess.run([sys.executable, __file__, CHILD, name], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            failed += 1
            table.add_row(name, f"failed with exit code {done.returncode}")
            continue
        for row in json.loads(done.stdout.splitlines()[-1]):
            table.add_row(name, *(_cell(row.get(column)) for column in COLUMNS[1:]))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return failed


def _cell(value: object) -> str:
    if isinstance(value, int | float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value)


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        print(json.dumps(rows_of(sys.argv[2])))
    else:
        sys.exit(1 if run(sys.argv[1:]) else 0)
