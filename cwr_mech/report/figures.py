"""Figures of results, drawn by the functions listed for each kind.

A figure is drawn from a Result and nothing else; each function's docstring says which tables and arrays it
reads. The PNG carries the digest of its result and matplotlib's version, so that a reader can tell whether a
figure still belongs to the numbers beside it.
"""

from collections.abc import Iterator
from pathlib import Path

from matplotlib import style
from matplotlib.figure import Figure

from cwr_mech.artifacts import atomic_file
from cwr_mech.errors import AnalysisError, CorruptArtifact, one_of
from cwr_mech.render.shown import Plot
from cwr_mech.render.style import RC
from cwr_mech.render.units import figure_in_unit, unit_of
from cwr_mech.report.contents import show_of
from cwr_mech.results import Result

DPI = 150
SOURCE = "Source"
"""Name of the PNG text field that holds the digest of the result."""
CAPTION = "Description"
"""Name of the PNG text field that holds the caption."""


def figure_names(result: Result, name: str) -> list[tuple[Plot, str]]:
    """The figures of a result saved as `name`, with their file names."""
    return [
        (plot, f"{name}{'-' if plot.suffix else ''}{plot.suffix}.png")
        for plot in show_of(result).figures
        if not plot.needs or plot.needs in result.tables
    ]


def drawn(result: Result, name: str) -> Iterator[tuple[str, Figure]]:
    """File name and figure of each figure of a result saved as `name`.

    Raises CorruptArtifact when the result lacks a table or array that its figure needs.
    """
    for plot, file in figure_names(result, name):
        with style.context(["default", RC]):  # whatever a matplotlibrc says
            try:
                figure = figure_in_unit(plot.function(result), unit_of(result))
            except KeyError as error:
                raise CorruptArtifact(
                    f"the {result.kind} result '{name}' lacks {error}, which its figure needs",
                    f"make it anew with: {result.command}",
                ) from error
            yield file, figure


def caption_of(figure: Figure) -> str:
    """The small print under a figure, as one line."""
    return " ".join(figure.get_supxlabel().split())


def draw(result: Result, folder: Path | str, name: str) -> list[Path]:
    """Draw all figures of `result` as PNG files in `folder`; returns their paths. Raises as `drawn`."""
    paths = []
    for file, figure in drawn(result, name):
        path = Path(folder) / file
        about = {SOURCE: result.sha256, CAPTION: caption_of(figure)}
        with atomic_file(path) as part:
            figure.savefig(part, format="png", dpi=DPI, metadata=about)
        paths.append(path)
    return paths


def one_figure(result: Result, suffix: str | None = None) -> Figure:
    """One figure of a result by its suffix, the first one by default.

    Raises UnknownName, or AnalysisError for a kind of result that has no figure.
    """
    plots = {plot.suffix: plot for plot, _ in figure_names(result, result.kind)}
    if not plots:
        raise AnalysisError(f"results of kind '{result.kind}' have no figure")
    name = next(iter(plots)) if suffix is None else suffix
    one_of(f"figure of the {result.kind} result", name, plots)
    with style.context(["default", RC]):
        return figure_in_unit(plots[name].function(result), unit_of(result))
