"""How a kind of result is shown: its section in a report, its figures, its short tables.

Each package of `analysis/` lists these in its `show.py`; terminal, notebook and report read the same lists.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

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


class Explorer(NamedTuple):
    """A figure whose content a reader of the page chooses.

    `controls`: label -> options; `panels`: a figure of plotly (data, layout) for the numbers of the options
    chosen, in the order of the controls. `note` says how to read it.
    """

    title: str
    controls: Mapping[str, Sequence[str]]
    panels: "Mapping[tuple[int, ...], Mapping[str, Any]]"
    note: str = ""


class Show(NamedTuple):
    """All of it for one kind of result. `explore` makes a figure to explore, for the page only."""

    section: Section
    figures: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    explore: "Callable[[Result], Explorer | None] | None" = None


Shows = Mapping[str, Show]
"""Kind of result -> how it is shown."""
