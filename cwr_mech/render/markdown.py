"""Markdown: tables, links, sentences with numbers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cwr_mech.render.numbers import number
from cwr_mech.results import Result, Row


def markdown_table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """A table of tidy rows; `columns` maps keys to headings. Columns of numbers are aligned to the right."""
    numeric = [any(isinstance(row.get(key), int | float) for row in rows) for key in columns]
    lines = [
        _line(columns.values()),
        _line("--:" if right else ":--" for right in numeric),
        *(_line(escaped(number(row.get(key))) for key in columns) for row in rows),
    ]
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def escaped(text: str) -> str:
    """`text` so that Markdown shows it as it is inside a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def source_line(name: str, result: Result) -> str:
    """Where the numbers above come from."""
    arrays = f" and [{name}.npz](results/{name}.npz)" if result.arrays else ""
    return f"Source of these numbers: [{name}.json](results/{name}.json){arrays}, made by `{result.command}`."


def notes(result: Result) -> str:
    """The notes of a result as a list."""
    return "\n".join(f"- {note}" for note in result.notes)


def best_rows(rows: Iterable[Row], by: str, value: str) -> list[Row]:
    """For each value of column `by`, in order of appearance, the row with the largest `value`."""
    best: dict[Any, Row] = {}
    for row in rows:
        known = best.get(row[by])
        if row[value] is not None and (known is None or row[value] > known[value]):
            best[row[by]] = row
    return list(best.values())


def interval(row: Row) -> str:
    """The row's 95 % interval, a dash when it has none."""
    if row.get("lo") is None or row.get("hi") is None:
        return "-"
    return f"{number(row['lo'])} to {number(row['hi'])}"


def used(rows: list[Row], heads: dict[str, str]) -> dict[str, str]:
    return {key: head for key, head in heads.items() if any(row.get(key) is not None for row in rows)}


def with_ends(row: Row, name: str) -> str:
    """A value with its interval."""
    if row[f"{name}_lo"] is None:
        return number(row[name])
    return f"{number(row[name])} ({number(row[f'{name}_lo'])} to {number(row[f'{name}_hi'])})"
