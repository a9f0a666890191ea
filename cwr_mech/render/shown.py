"""How a kind of result is shown: its section in a report, its figures, its short tables.

Each package of `analysis/` lists these in its `show.py`; terminal, notebook and report read the same lists.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cwr_mech.results import Result, Row


class Plot(NamedTuple):
    """One figure of a kind of result: the file is NAME[-suffix].png, `title` says what it shows.

    Drawn only for results that hold the table `needs`, when one is named.
    """

    function: "Callable[[Result], Figure]"
    title: str
    suffix: str = ""
    needs: str = ""

    def __call__(self, result: "Result") -> "Figure":
        """Draw it."""
        return self.function(result)


def plot(title: str, suffix: str = "", needs: str = "") -> "Callable[[Callable[[Result], Figure]], Plot]":
    """Make a function that draws a result a figure of reports, which a `Show` lists."""
    return lambda function: Plot(function, title, suffix, needs)


class Table(NamedTuple):
    """A short table for the terminal and notebooks: `columns` of the rows of the result's table `rows`, or of
    those that a function `rows` chooses from the result.

    Columns as in `cwr_mech.render.markdown.table_of`, with the `headings` of a report.
    """

    title: str
    columns: str
    rows: "str | Callable[[Result], list[Row]]"
    headings: Mapping[str, str] = MappingProxyType({})

    def of(self, result: "Result") -> "list[Row]":
        """The rows of a result."""
        return result.tables[self.rows] if isinstance(self.rows, str) else self.rows(result)

    def text(self, result: "Result") -> str:
        """The table in Markdown."""
        from cwr_mech.render.markdown import table_of

        return table_of(self.of(result), self.columns, **self.headings)


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
    Markdown (the tables when None), figures, and short tables. `explore` makes a figure to explore, for the
    page only; `finding` says what a result found, in a sentence for the summary.
    """

    kind: str
    title: str
    opening: str
    text: "Callable[[Result], str] | None" = None
    figures: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    explore: "Callable[[Result], Explorer | None] | None" = None
    finding: "Callable[[Result], str] | None" = None

    def body(self, result: "Result") -> str:
        """What a report says below the opening line."""
        return self.text(result) if self.text else "\n\n".join(table.text(result) for table in self.tables)


Shows = Mapping[str, Show]
"""Kind of result -> how it is shown."""


def by_kind(*shows: Show) -> Shows:
    """How some kinds of results are shown, in the order of a report."""
    return {show.kind: show for show in shows}
