"""The short tables of a result: what a command prints and a notebook shows."""

from cwr_mech.render.markdown import with_ends
from cwr_mech.render.units import in_unit, unit_of
from cwr_mech.report.contents import MOST_ROWS, show_of
from cwr_mech.results import Result, Row


def short_tables(result: Result) -> list[tuple[str, list[str], list[Row]]]:
    """Title, columns that hold anything, and rows of each short table; all tables for a kind without any."""
    unit = unit_of(result)
    tables = [(table.title, table.columns, table.of(result)) for table in show_of(result).tables] or [
        (name, " ".join(rows[0]), rows[:MOST_ROWS]) for name, rows in result.tables.items() if rows
    ]
    found = []
    for title, columns, rows in tables:
        names = columns.replace("interval", "lo hi").split()
        plain = [name.rstrip("~") for name in names]
        kept = [name for name in plain if any(row.get(name) is not None for row in rows)]
        if rows:
            found.append((in_unit(title, unit), kept, [_said(row, names, unit) for row in rows]))
    return found


def _said(row: Row, names: list[str], unit: float) -> Row:
    """A row in the unit of its world; a value NAME~ with its interval where it has one."""
    for name in names:
        if name.endswith("~") and row.get(f"{name[:-1]}_lo") is not None:
            row = row | {name[:-1]: with_ends(row, name[:-1])}
    return {key: in_unit(value, unit) if isinstance(value, str) else value for key, value in row.items()}


def text(result: Result) -> str:
    """The short tables as plain text, with the result's notes."""
    import pandas as pd

    parts = [
        f"{title}\n{pd.DataFrame(rows, columns=columns).to_string(index=False, float_format='{:.3g}'.format)}"
        for title, columns, rows in short_tables(result)
    ]
    return "\n\n".join([*parts, *(in_unit(note, unit_of(result)) for note in result.notes)])
