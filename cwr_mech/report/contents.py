"""What a report may hold, in the order of the report. Kinds without a row come last, shown as they are."""

from functools import cache

from cwr_mech.analysis.registry import show_of_kind, shows
from cwr_mech.render.markdown import markdown_table
from cwr_mech.render.shown import Show, Shows
from cwr_mech.results import Result, Row

MOST_ROWS = 40
"""Longer tables of a kind without a row are left to the result file."""


@cache
def all_shows() -> Shows:
    """Kind of result -> how it is shown, in the order of a report; findings take a second to import."""
    from cwr_mech.findings import show

    return {**shows(), **show.SHOWS}


def show_of(result: Result) -> Show:
    """How a result is shown; its values and short tables as they are for a kind without a row."""
    found = show_of_kind(result.kind) or all_shows().get(result.kind)
    return found or Show(result.kind, result.kind, "", plain)


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
