"""What a report says about each kind of result: Markdown that goes below its figures."""

from cwr_mech.render.markdown import markdown_table
from cwr_mech.results import Result, Row

MOST_ROWS = 40
"""Longer tables are left to the result file."""


def plain(result: Result) -> str:
    """Any result: its values and its short tables as they are."""
    parts = []
    if result.values:
        rows: list[Row] = [{"name": name, "value": value} for name, value in result.values.items()]
        parts.append(markdown_table(rows, {"name": "value", "value": ""}))
    for name, table in result.tables.items():
        if table and len(table) <= MOST_ROWS:
            parts.append(f"{name}:\n\n{markdown_table(table, {key: key for key in table[0]})}")
        elif table:
            parts.append(f"Table `{name}` has {len(table):,} rows; they are in the result file.")
    return "\n\n".join(parts)
