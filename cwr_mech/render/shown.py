"""How a kind of result is shown: its section in a report, its figures, its short tables.

Each package of `analysis/` lists these in its `show.py`; terminal, notebook and report read the same lists.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cwr_mech.results import Result, Row


class Plot(NamedTuple):
    """One figure of a kind of result: the file is NAME[-suffix].png, `title` says what it shows.

    Drawn only for results that hold the table `needs`, when one is named.
    """

    suffix: str
    title: str
    function: "Callable[[Result], Figure]"
    needs: str = ""


class Table(NamedTuple):
    """A short table for the terminal and notebooks: `columns` (names with spaces between) of the rows of the
    result's table `rows`, or of those that a function `rows` chooses from the result.
    """

    title: str
    columns: str
    rows: "str | Callable[[Result], list[Row]]"

    def of(self, result: "Result") -> "list[Row]":
        """The rows of a result."""
        return result.tables[self.rows] if isinstance(self.rows, str) else self.rows(result)


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
    """All of it for one kind of result: a part of a report with its heading, opening line and text in
    Markdown, figures, and short tables. `explore` makes a figure to explore, for the page only.
    """

    kind: str
    title: str
    opening: str
    text: "Callable[[Result], str]"
    figures: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    explore: "Callable[[Result], Explorer | None] | None" = None


Shows = Mapping[str, Show]
"""Kind of result -> how it is shown."""


def by_kind(*shows: Show) -> Shows:
    """How some kinds of results are shown, in the order of a report."""
    return {show.kind: show for show in shows}
