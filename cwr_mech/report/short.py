"""The short tables of a result: what a command prints and a notebook shows."""

from cwr_mech.render.units import in_unit, unit_of
from cwr_mech.report.contents import SHOWS
from cwr_mech.results import Result, Row

MOST_ROWS = 40


def short_tables(result: Result) -> list[tuple[str, list[str], list[Row]]]:
    """Title, columns that hold anything, and rows of each short table; all tables for an unlisted kind."""
    unit = unit_of(result)
    found = []
    for title, columns, rows in _short_tables(result):
        kept = [key for key in columns if any(row.get(key) is not None for row in rows)]
        if rows:
            found.append((in_unit(title, unit), kept, [_said(row, unit) for row in rows]))
    return found


def _short_tables(result: Result) -> list[tuple[str, list[str], list[Row]]]:
    """The same as they are written, about the earth."""
    show = SHOWS.get(result.kind)
    if show is None or not show.tables:
        return [(name, list(rows[0]), rows[:MOST_ROWS]) for name, rows in result.tables.items() if rows]
    return [(table.title, table.columns.split(), table.of(result)) for table in show.tables]


def _said(row: Row, unit: float) -> Row:
    return {key: in_unit(value, unit) if isinstance(value, str) else value for key, value in row.items()}


def text(result: Result) -> str:
    """The short tables as plain text, with the result's notes."""
    import pandas as pd

    parts = [
        f"{title}\n{pd.DataFrame(rows, columns=columns).to_string(index=False, float_format='{:.3g}'.format)}"
        for title, columns, rows in short_tables(result)
    ]
    return "\n\n".join([*parts, *(in_unit(note, unit_of(result)) for note in result.notes)])
