"""What is said about a world of another unit than the earth's names that unit, in every place."""

from dataclasses import replace

import matplotlib
import pytest
import synthetic

from cwr_mech.render.units import in_unit, unit_of
from cwr_mech.report.figures import figure_names, one_figure
from cwr_mech.report.page import report_text
from cwr_mech.report.short import text
from cwr_mech.results import Result

# unit in degrees, text about tenths of a degree, the same about that unit
CASES = (
    (0.1, "error, 0.1° ↓ of 10.1°; tenths of a degree", "error, 0.1° ↓ of 10.1°; tenths of a degree"),
    (0.01, "square tenths of a degree", "square hundredths of a degree"),
    (0.001, "tenths of a degree", "thousandths of a degree"),
    (1.0, "error, 0.1° ↓", "error, 1° ↓"),
    (0.002, "in tenths of a degree.", "in units of 0.002 degrees."),
    (0.002, "error, 0.01 sq ° ↓, 10.1°", "error, 4e-06 sq ° ↓, 10.1°"),
)


@pytest.mark.parametrize(("unit", "said", "meant"), CASES)
def test_cases(unit: float, said: str, meant: str) -> None:
    assert in_unit(said, unit) == meant


def all_words(result: Result) -> str:
    """Everything that a reader may see of a result."""
    figures = [one_figure(result, plot.suffix) for plot, _ in figure_names(result, result.kind)]
    labels = [label.get_text() for one in figures for label in one.findobj(matplotlib.text.Text)]
    page, tables = report_text("r", {result.kind: result})
    return "\n".join([page, *tables.values(), *labels, text(result)])


@pytest.mark.parametrize("name", ["probe", "eval", "train-quick"])
def test_reports_figures_and_tables_name_the_world_s_unit(name: str) -> None:
    earth = synthetic.ALL[name]()
    town = replace(earth, params=earth.params | {"unit": 0.01})
    assert (unit_of(earth), unit_of(town)) == (0.1, 0.01)
    assert "tenths of a degree" in all_words(earth)  # control
    shown = all_words(town)
    assert "hundredths of a degree" in shown
    assert "tenths of a degree" not in shown
    assert "error, 0.1°" not in shown


def test_the_unit_of_a_training_is_that_of_its_settings() -> None:
    earth = synthetic.train()
    assert unit_of(replace(earth, params={"config": {"world": {"unit": 0.002}}})) == 0.002
