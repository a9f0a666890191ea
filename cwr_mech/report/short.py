"""The short tables of a result: what a command prints and a notebook shows."""

from cwr_mech.analysis.registry import shows
from cwr_mech.results import Result, Row

MOST_ROWS = 40


def short_tables(result: Result) -> list[tuple[str, list[str], list[Row]]]:
    """Title, columns that hold anything, and rows of each short table; all tables for an unlisted kind."""
    show = shows().get(result.kind)
    if show is None or not show.tables:
        return [(name, list(rows[0]), rows[:MOST_ROWS]) for name, rows in result.tables.items() if rows]
    found = []
    for table in show.tables:
        rows = table.rows(result)
        columns = [key for key in table.columns if any(row.get(key) is not None for row in rows)]
        if rows:
            found.append((table.title, columns, rows))
    return found


def text(result: Result) -> str:
    """The short tables as plain text, with the result's notes."""
    import pandas as pd

    parts = [
        f"{title}\n{pd.DataFrame(rows, columns=columns).to_string(index=False, float_format='{:.3g}'.format)}"
        for title, columns, rows in short_tables(result)
    ]
    return "\n\n".join([*parts, *result.notes])
