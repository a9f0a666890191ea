"""Tables in a terminal of any width: numbers are never cut, and every row keeps what tells it apart.

The leading columns that tell the rows apart are its labels. A table that is too wide first wraps its
headings, then its text, then is split into blocks that repeat the labels; where not even the labels and one
number fit beside each other, each row becomes a paragraph with a line for each column.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.align import VerticalAlignMethod
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from cwr_mech.render.columns import column
from cwr_mech.render.numbers import number

GAP = 2
"""Blanks between two columns."""
LEAST_LABEL = 12
"""A label is not wrapped into less than this many characters; below that a row becomes a paragraph."""
LEAST_TEXT = 12
"""The same for other columns of words."""


@dataclass(frozen=True)
class Table:
    """What rich can print: `rows` of cells under `columns`, names of columns by the glossary or headings."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    unit: float | None = None
    """Degrees a unit of the coordinates; None: tenths of a degree."""
    cells: list[list[str]] = field(init=False)
    """Texts, row by row."""

    def __post_init__(self) -> None:
        digits = [column(name).digits for name in self.columns]
        cells = [[visible(number(cell, n)) for cell, n in zip(row, digits, strict=True)] for row in self.rows]
        object.__setattr__(self, "cells", cells)

    def numeric(self, index: int) -> bool:
        """Whether a column holds numbers, which are set to the right and never wrapped."""
        values = [row[index] for row in self.rows if row[index] is not None]
        return all(isinstance(value, int | float) for value in values)

    def labels(self) -> int:
        """How many leading columns it takes to tell the rows apart: all of them that are words at least."""
        words = 0
        while words < len(self.columns) and not self.numeric(words):
            words += 1
        for count in range(1, len(self.columns)):
            seen = {tuple(row[:count]) for row in self.cells}
            if len(seen) == len(self.rows):
                return count
            if any(isinstance(row[count], float) for row in self.rows):
                break  # a measured number is no label
        return max(1, words)

    def needs(self, index: int, *, wrapped: bool) -> int:
        """Width of a column: of its heading on one line, or of its longest word when it may be wrapped."""
        heading = column(self.columns[index]).heading
        longest = max((len(row[index]) for row in self.cells), default=0)
        if not wrapped:
            return max(longest, len(heading))
        if not self.numeric(index):
            least = LEAST_LABEL if index < self.labels() else LEAST_TEXT
            longest = min(longest, max(least, *(_longest_word(row[index]) for row in self.cells), 1))
        return max(longest, _longest_word(heading))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        if self.title:
            yield Text(self.title, style="bold")
        if not self.rows:
            yield Text("(no rows)", style="dim")
            return
        for number_of_block, shown in enumerate(self.blocks(options.max_width)):
            if number_of_block:
                yield Text("")
            yield self._block(shown, options.max_width) if shown else self._paragraphs(options.max_width)
        if units := self._units():
            yield Text(units, style="dim")

    def blocks(self, width: int) -> list[list[int]]:
        """Columns of each block, labels first; one empty list where not even two columns fit.

        Labels are wrapped only where that saves a block.
        """
        least = [self.needs(index, wrapped=True) for index in range(len(self.columns))]
        if _total(least) <= width:
            return [list(range(len(self.columns)))]
        count = self.labels()
        full = [self.needs(index, wrapped=False) for index in range(count)]
        whole, narrow = (_split([*labels, *least[count:]], count, width) for labels in (full, least[:count]))
        return whole if whole != [[]] and len(whole) <= len(narrow) else narrow

    def _block(self, shown: list[int], width: int) -> RichTable | Text:
        least = [self.needs(index, wrapped=True) for index in shown]
        wanted = [self.needs(index, wrapped=False) for index in shown]
        widths = _grown(least, wanted, width)
        folded = any(len(row[i]) > size for row in self.cells for i, size in zip(shown, widths, strict=True))
        headings = [column(self.columns[index]).heading for index in shown]
        if not folded and all(len(heading) <= size for heading, size in zip(headings, widths, strict=True)):
            return self._as_it_is(shown, headings, widths)
        level: VerticalAlignMethod = "top" if folded else "bottom"
        result = RichTable(box=None, header_style="dim", padding=(0, GAP, 0, 0), pad_edge=False)
        for index, name, size in zip(shown, headings, widths, strict=True):
            heading = Text(name)
            side: JustifyMethod = "right" if self.numeric(index) else "left"
            result.add_column(heading, justify=side, width=size, overflow="fold", vertical=level)
        for row in self.cells:
            result.add_row(*(Text(row[index]) for index in shown))
        return result

    def _as_it_is(self, shown: list[int], headings: list[str], widths: list[int]) -> Text:
        """A block in which nothing is wrapped, as text: rich lays out a cell of a table in a tenth of a
        millisecond, which is most of what a list of 500 runs takes.
        """
        right = [self.numeric(index) for index in shown]

        def line(cells: Sequence[str]) -> str:
            padded = (
                " " * (size - cell_len(cell)) + cell if side else cell + " " * (size - cell_len(cell))
                for cell, size, side in zip(cells, widths, right, strict=True)
            )
            return (" " * GAP).join(padded).rstrip()

        body = "".join(f"\n{line([row[index] for index in shown])}" for row in self.cells)
        return Text.assemble((line(headings), "dim"), body, no_wrap=True, overflow="ignore")

    def _paragraphs(self, width: int) -> Text:
        """Each row for itself: its labels, then a line for each column."""
        lines = []
        labels = self.labels()
        for row in self.cells:
            lines.append(" ".join(row[:labels]))
            for index in range(labels, len(self.columns)):
                heading = column(self.columns[index]).heading
                line = f"  {heading} {row[index]}"
                lines += [line] if len(line) <= width else [f"  {heading}", f"    {row[index]}"]
        return Text("\n".join(lines), overflow="fold")

    def _units(self) -> str:
        """What the numbers are in, once for all columns of a unit."""
        named: dict[str, list[str]] = {}
        for name in self.columns:
            about = column(name)
            if about.unit:
                named.setdefault(about.unit, []).append(about.heading)
        said = "; ".join(f"{', '.join(heads)}: {unit}" for unit, heads in named.items())
        if self.unit is None:
            return said
        from cwr_mech.render.units import in_unit

        return in_unit(said, self.unit)


def visible(text: str, kept: str = "") -> str:
    """`text` with what a terminal would obey and not show spelled out, as in \\x1b; but for `kept`."""
    return "".join(one if one.isprintable() or one in kept else repr(one)[1:-1] for one in text)


def _split(widths: list[int], labels: int, width: int) -> list[list[int]]:
    """Columns of each block, each beginning with the first `labels` columns; [[]] when they leave no room."""
    head = list(range(labels))
    blocks: list[list[int]] = []
    for index in range(labels, len(widths)):
        if _total([*widths[:labels], widths[index]]) > width:
            return [[]]
        if not blocks or _total([widths[i] for i in (*head, *blocks[-1], index)]) > width:
            blocks.append([])
        blocks[-1].append(index)
    return [[*head, *block] for block in blocks] or [[]]


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _grown(least: list[int], wanted: list[int], width: int) -> list[int]:
    """Widths between `least` and `wanted`: what is free goes to the columns in shares of what they lack."""
    lack = [max(0, most - size) for size, most in zip(least, wanted, strict=True)]
    share = min(1.0, (width - _total(least)) / max(1, sum(lack)))
    return [size + int(more * share) for size, more in zip(least, lack, strict=True)]
