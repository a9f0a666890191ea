"""Figures of the zoo's report show the numbers of their results."""

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from cwr_mech.findings import show as report_zoo
from cwr_mech.findings.figures import maps_figure, stretch_figure
from cwr_mech.results import Result

HOOKS = ((-1, "hook_embed"), (0, "blocks.0.hook_resid_post"), (1, "unembed.hook_in"))


def words(figure: Figure) -> str:
    figure.draw_without_rendering()
    return " ".join(" ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text)).split())


def maps() -> Result:
    """Two seven-task models and one of angle alone; R² grows by 0.3 a layer."""
    runs = (("zoo:a", "all seven tasks", 0.0), ("zoo:b", "all seven tasks", 0.1), ("zoo:c", "1 task", 0.05))
    rows = [
        {"run": run, "family": family, "task": task, "layer": layer, "hook": hook, "r2": 0.3 * k + more}
        | {"control_r2_shuffled": -0.02, "control_r2_digits": 0.01, "error_mean": 100.0 - 10 * k}
        for run, family, more in runs
        for task in (("distance", "angle") if family == "all seven tasks" else ("angle",))
        for k, (layer, hook) in enumerate(HOOKS)
    ]
    columns = ("run", "family", "task", "layer", "hook")
    new = [{column: row[column] for column in columns} | {"error_mean": 700.0} for row in rows]
    return Result("maps", "test", {}, {"runs": ["zoo:a"]}, tables={"layers": rows, "new": new})


def stretch() -> Result:
    loss = np.array([4.0, 3.0, 2.5])
    values = {"steps": 3, "rows": 30, "loss": 2.5, "loss_peer": 2.5001, "largest_difference": 1e-4}
    values |= {"last_difference": 1e-4, "seconds_a_step": 0.5, "seconds_a_step_peer": 1.3}
    arrays = {"loss": loss, "loss_peer": loss + 1e-4}
    return Result("stretch", "test", {}, {"runs": ["paper"], "batch_size": 10}, values, arrays=arrays)


def test_maps_are_means_over_models() -> None:
    shown = words(maps_figure(maps()))
    assert "all seven tasks n = 2" in shown
    assert "1 task n = 1" in shown
    assert ".65" in shown  # 0.6 and 0.7 at the last layer
    text = report_zoo.maps(maps())
    assert "| all seven tasks | angle | 2 | final | 0.650 | -0.020 | 0.010 | 80.0 | 700 |" in text
    assert "| 1 task | angle | 1 | 0.050 | 0.350 | 0.650 |" in text


def test_a_stretch_shows_both_losses() -> None:
    figure = stretch_figure(stretch())
    lines = figure.axes[0].lines
    assert [line.get_ydata()[-1] for line in lines] == pytest.approx([2.5001, 2.5])
    assert "3 steps of 10 rows" in words(figure)
    assert "2.5001 under the Trainer" in report_zoo.stretch(stretch())
