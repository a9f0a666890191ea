"""A matrix shows every number where it stands, and bars reach to the ends of the intervals."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from cwr_mech.render.grids import matrix
from cwr_mech.render.style import with_reach


@pytest.mark.parametrize("upwards", [False, True])
def test_matrix_names_rows_and_columns_and_writes_numbers(upwards: bool) -> None:
    ax = Figure().subplots()
    grid = np.array([[0.25, np.nan, 1.0], [0.5, 0.75, 0.125]])
    image = matrix(ax, grid, ["a", "b"], ["x_1", "y", "z"], ends=(0, 1), cmap="Greys", upwards=upwards)
    told = {tuple(map(int, text.get_position())): text.get_text() for text in ax.texts}
    assert told == {(0, 0): ".25", (1, 0): "·", (2, 0): "1.00", (0, 1): ".50", (1, 1): ".75", (2, 1): ".12"}
    assert [label.get_text() for label in ax.get_xticklabels()] == ["x 1", "y", "z"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert image.get_clim() == (0, 1)
    low, high = ax.get_ylim()
    assert (low < high) == upwards
    bare = Figure().subplots()
    matrix(bare, grid, ["a", "b"], ["x", "y", "z"], ends=(0, 1), cmap="Greys", numbers=None)
    assert not bare.texts


def test_bars_reach_to_the_ends_of_an_interval() -> None:
    rows = [
        {"r2": 0.5, "r2_lo": 0.25, "r2_hi": 1.0, "share": 3.0, "lo": 0.5, "hi": 4.0},
        {"r2": None, "r2_lo": None, "r2_hi": None, "share": 2.0, "lo": None, "hi": None},
    ]
    value, reach = with_reach(rows, "r2")
    np.testing.assert_array_equal(value, [0.5, np.nan])
    np.testing.assert_array_equal(reach, [[0.25, 0], [0.5, 0]])
    assert with_reach(rows, "share")[1][:, 0].tolist() == [2.5, 1.0]  # lo and hi where there is no share_lo
    assert with_reach(rows, "share", least=1.0)[1][:, 0].tolist() == [2.0, 1.0]
