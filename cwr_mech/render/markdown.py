"""Markdown: tables, links, sentences with numbers."""

from collections.abc import Iterable, Mapping, Sequence

from cwr_mech.render.columns import column
from cwr_mech.render.numbers import number, with_layer_name
from cwr_mech.results import Result, Row

POSITIONS = ("position", "site", "span")
"""Columns that hold the name of a token position."""


def table_of(rows: Sequence[Row], columns: str, /, **headings: str) -> str:
    """A table of tidy rows under the headings of the glossary (`render.columns`) or those given here.

    `columns`: names with spaces between. NAME~ stands for a value with its interval, from columns NAME,
    NAME_lo and NAME_hi; `interval` for the ends lo and hi alone. Columns that no row fills are left out, and
    so is a table without rows.
    """
    if not rows:
        return ""
    names = [name for name in columns.split() if any(_given(row, name) for row in rows)]
    told = {name: headings.get(name.rstrip("~"), column(name.rstrip("~")).heading) for name in names}
    return markdown_table([{name: shown(row, name) for name in names} for row in rows], told)


def paragraphs(*parts: str) -> str:
    """Parts of a text with an empty line between; empty ones are left out."""
    return "\n\n".join(part for part in parts if part)


def _given(row: Row, name: str) -> bool:
    return row.get("lo" if name == "interval" else name.rstrip("~")) is not None


def shown(row: Row, name: str) -> object:
    """The cell of a column of `table_of` as a reader sees it."""
    value = with_layer_name(row, name.rstrip("~"))
    if name == "interval":
        return ends(row)
    if name.endswith("~"):
        return with_ends(row, name[:-1])
    return value.replace("_", " ") if name in POSITIONS and isinstance(value, str) else value


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


def ends(row: Row, name: str = "") -> str:
    """The 95 % interval lo to hi of a row, or that of a column; a dash when it has none."""
    low, high = (row.get(f"{name}_{end}" if name else end) for end in ("lo", "hi"))
    return "-" if low is None or high is None else f"{number(low)} to {number(high)}"


def with_ends(row: Row, name: str) -> str:
    """A value with its interval where it has one."""
    told = ends(row, name)
    return number(row[name]) + ("" if row[name] is None or told == "-" else f" ({told})")
