"""Lines show the numbers of their rows, their intervals, and nothing where there is no number."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from cwr_mech.render.lines import BARS, layer_ticks, line, panels

ROWS = [
    {"layer": -1, "r2": -0.9, "lo": -1.0, "hi": -0.2},
    {"layer": 0, "r2": None, "lo": None, "hi": None},
    {"layer": 1, "r2": 0.5, "lo": 0.25, "hi": 0.75},
]


def test_a_line_has_its_values_and_its_intervals() -> None:
    ax = Figure().subplots()
    line(ax, ROWS, "layer", "r2", bars=BARS, least=-0.5, color="black", marker="o")
    (drawn,) = ax.get_lines()
    assert drawn.get_xdata().tolist() == [-1, 0, 1]
    np.testing.assert_array_equal(drawn.get_ydata(), [-0.5, np.nan, 0.5])
    (bars,) = ax.collections
    ends = {tuple(segment[:, 1]) for segment in bars.get_segments() if len(segment)}
    assert (0.25, 0.75) in ends
    assert (-0.5, -0.2) in ends, "what lies below the least is drawn there"
    line(ax, ROWS, [5, 6, 7], "r2", color="black")
    assert len(ax.collections) == 1, "control: no intervals without bars"
    assert ax.get_lines()[1].get_xdata().tolist() == [5, 6, 7]


def test_error_bars_have_caps_when_asked() -> None:
    ax = Figure().subplots()
    line(ax, ROWS[2:], "layer", "r2", caps=2, color="black")
    ((_, caps, (bars,)),) = ax.containers
    assert len(caps) == 2
    assert bars.get_segments()[0][:, 1].tolist() == [0.25, 0.75]


def test_columns_of_an_interval_go_by_the_name_of_the_value() -> None:
    ax = Figure().subplots()
    row = {"k": 1, "share": 0.5, "share_lo": 0.4, "share_hi": 0.6, "lo": 0.0, "hi": 1.0}
    line(ax, [row], "k", "share", bars=BARS, color="black")
    assert ax.collections[0].get_segments()[0][:, 1].tolist() == [0.4, 0.6]


@pytest.mark.parametrize(("n", "shape"), [(1, (1, 1)), (3, (1, 3)), (5, (2, 4))])
def test_panels_that_stay_empty_are_hidden(n: int, shape: tuple[int, int]) -> None:
    figure, axes = panels(n, margin=1.0, line=2.0)
    assert figure.get_figheight() == 1.0 + 2.0 * shape[0]
    assert len(axes) == n == sum(ax.get_visible() for ax in figure.axes)
    assert axes[0].get_subplotspec().get_gridspec().get_geometry() == shape


def test_layers_are_named_where_they_stand() -> None:
    ax = Figure().subplots()
    layer_ticks(ax, [-1, 0, 2], range(3))
    assert ax.get_xticks().tolist() == [0, 1, 2]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["embed", "L0", "L2"]
