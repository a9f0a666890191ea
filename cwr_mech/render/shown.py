"""How a kind of result is shown: its section in a report, its figures, its short tables.

Each package of `analysis/` lists these in its `show.py`; terminal, notebook and report read the same lists.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cwr_mech.results import Result, Row


class Section(NamedTuple):
    """A part of a report: the kind of result it shows, its heading, opening line and text (Markdown)."""

    kind: str
    title: str
    opening: str
    text: "Callable[[Result], str]"


class Plot(NamedTuple):
    """One figure of a kind of result: the file is NAME[-suffix].png, `title` says what it shows.

    Drawn only for results that hold the table `needs`, when one is named.
    """

    suffix: str
    title: str
    function: "Callable[[Result], Figure]"
    needs: str = ""


class Table(NamedTuple):
    """A short table for the terminal and notebooks: `columns` of rows chosen from a result by `rows`."""

    title: str
    columns: tuple[str, ...]
    rows: "Callable[[Result], list[Row]]"


class Show(NamedTuple):
    """All of it for one kind of result."""

    section: Section
    figures: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()


Shows = Mapping[str, Show]
"""Kind of result -> how it is shown."""
