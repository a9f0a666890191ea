"""Learning curves: what is read from the metrics, what is drawn, what `cwr-mech plot` writes."""

import dataclasses
import json
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from cwr_mech_cli import common, plot, report
from matplotlib.figure import Figure

from cwr_mech.analysis.answers.curves import (
    BASELINE_ROWS,
    MOST_POINTS_BESIDE,
    breakouts,
    curves_result,
    training_result,
)
from cwr_mech.analysis.answers.lines import curves_figure, learning_figure
from cwr_mech.analysis.answers.show import LAST_SCORES, answered
from cwr_mech.analysis.members import gains
from cwr_mech.config import DataConfig, ModelConfig, Part, RunConfig, WorldConfig
from cwr_mech.data.summary import gain
from cwr_mech.errors import MissingArtifact
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.report.figures import draw
from cwr_mech.results import Result, load_result
from cwr_mech.training import folders
from cwr_mech.training.begin import create_run
from cwr_mech.training.runs import Run, load_run

CONFIG = RunConfig(
    world=WorldConfig(n_cities=40, new="atlantis", n_new=8),
    data=DataConfig(tasks=("distance", "compass")),
    model=ModelConfig(n_layers=1, d_model=8, n_heads=2, d_mlp=8),
)
TUNED = CONFIG.model_copy(
    update={"data": DataConfig(tasks=("distance",), parts=(Part(task="distance", group="new", rows=9),))}
)


def made(folder: Path, config: RunConfig, factor: float) -> Run:
    """A run whose loss is factor / step and whose distance error is 100 * factor / step."""
    run = create_run(folder, config, HookedQwen2(config.model, seed=0))
    lines: list[dict] = []
    for step in range(1, 301):
        line = {"step": step, "rows": 128 * step, "lr": 1e-3, "rows_per_second": 9.0, "seconds": 1.0 * step}
        loss = factor / step
        lines.append(line | {"loss": loss, "losses": dict.fromkeys(config.data.tasks, loss)})
        if step % 100 == 0:
            scores = dict.fromkeys(config.data.tasks, 100 * factor / step)
            extra = {"scores_new": scores} if config.data.parts else {}
            lines.append({"step": step, "rows": 128 * step, "scores": scores} | extra)
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    return [made(tmp_path / "a", CONFIG, 1.0), made(tmp_path / "b", TUNED, 3.0)]


def test_several_runs_lie_side_by_side(runs: list[Run]) -> None:
    found = curves_result(runs, "cwr-mech plot a b")
    for run, factor in zip(runs, (1.0, 3.0), strict=True):
        mine = [row for row in found.tables["loss"] if row["run"] == run.name]
        assert len(mine) == MOST_POINTS_BESIDE
        assert [mine[0]["step"], mine[-1]["rows"]] == [1, 128 * 300]
        assert all(row["loss"] == pytest.approx(factor / row["step"]) for row in mine)
    groups = {(row["run"], row["task"], row["group"]) for row in found.tables["tasks"]}
    assert groups == {("a", "distance", "old"), ("a", "compass", "old")} | {
        ("b", "distance", group) for group in ("old", "new")
    }
    constants = {row["group"]: row["baseline"] for row in found.tables["tasks"] if row["task"] == "distance"}
    assert 0 < constants["new"] != constants["old"] > 0
    alone = training_result(runs[1], "").tables["tasks"]
    assert {row["baseline"] for row in alone} == {constants["old"]}
    assert str(BASELINE_ROWS) in found.notes[0]


def test_what_a_run_has_learned_is_read_without_its_weights(runs: list[Run]) -> None:
    last = training_result(runs[0], "").tables["tasks"][-2:]
    assert {row["step"] for row in last} == {300}
    shutil.rmtree(runs[0].folder / "checkpoints")
    assert gains(runs[0]) == {row["task"]: gain(row["metric"], row["value"], row["baseline"]) for row in last}
    (runs[0].folder / "metrics.jsonl").write_text("")
    with pytest.raises(MissingArtifact, match="no metrics"):
        gains(runs[0])


def scored(task: str, metric: str, baseline: float, values: list[float | None]) -> list[dict]:
    head = {"run": "a", "task": task, "metric": metric, "baseline": float(baseline)}
    points = enumerate(values, start=1)
    return [
        head | {"rows": 1000 * n, "value": None if value is None else float(value)} for n, value in points
    ]


def test_a_task_has_broken_out_where_half_of_its_gap_is_closed_for_good(runs: list[Run]) -> None:
    """Errors of 400 by a constant answer: half is closed at 200, on straight lines between validations."""
    (smooth,) = breakouts(scored("distance", "error", 400, [400, 300, 100, 40]))
    assert smooth == {"run": "a", "task": "distance", "rows_half": 2500, "rows": 4000} | {
        "closed": pytest.approx(0.9),
        "published_rows": 1_280_000,
    }
    (relapse,) = breakouts(scored("distance", "error", 400, [100, 300, 300, 100, None, 0]))
    assert (relapse["rows_half"], relapse["rows"]) == (3500, 6000)  # the first time did not last
    (spike,) = breakouts(scored("distance", "error", 400, [300, 100, 100, 4000, 100, 100]))
    assert spike["rows_half"] == 1500  # one wild answer later on
    (early,) = breakouts(scored("inside", "accuracy", 0.5, [1.0, 1.0]))
    assert early["rows_half"] == 500  # a constant answer before the first row
    (never,) = breakouts(scored("crossing", "accuracy", 0.5, [0.9, 0.6]))
    assert (never["rows_half"], never["closed"]) == (None, pytest.approx(0.2))
    table = curves_result(runs, "").tables["breakout"]
    assert {row["run"] for row in table} == {"a", "b"}  # both began with fresh weights
    assert all(row["rows_half"] for row in table if row["task"] == "distance")


def test_one_question_leaves_no_gap_and_is_told_all_the_same() -> None:
    """Its constant answer is perfect, so that only a perfect model closes the gap."""
    head = {"run": "a", "group": "old", "metric": "error", "baseline": 0.0, "n": 1}
    rows = [head | {"task": "distance", "value_mean": 0.0}, head | {"task": "angle", "value_mean": 3.0}]
    assert "a in 1 of 2 tasks (distance)" in answered(Result(kind="eval", tables={"tasks": rows}))


def test_the_figure_tells_runs_apart_without_colour(runs: list[Run], tmp_path: Path) -> None:
    result = curves_result(runs, "cwr-mech plot a b")
    loss, distance, compass = curves_figure(result).axes
    lines = loss.get_lines()
    assert [line.get_label() for line in lines] == ["a", "b"]
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == 2
    assert np.allclose(lines[0].get_xdata()[-1], 38.4)  # thousand examples
    shown = [line for line in distance.get_lines() if len(line.get_xdata()) == 3]
    assert [matplotlib.colors.to_hex(line.get_markerfacecolor()) == "#ffffff" for line in shown] == [
        False,
        False,
        True,
    ]
    assert compass.get_ylim() == (0, 1.02)
    assert [path.name for path in draw(result, tmp_path, "curves")] == ["curves.png"]
    assert LAST_SCORES.text(result).count("\n") == 2 + 3


def test_marks_of_equal_curves_do_not_cover_each_other(tmp_path: Path) -> None:
    result = curves_result([made(tmp_path / name, CONFIG, 1.0) for name in "ab"], "c")
    table = [row | {"rows": k} for row in result.tables["loss"] for k in range(1, 81)]
    longer = dataclasses.replace(result, tables=result.tables | {"loss": table})
    marks = []
    for line in curves_figure(longer).axes[0].get_lines():
        start, step = line.get_markevery()
        marks.append(set(range(start, len(line.get_xdata()), step)))
    assert [len(places) >= 7 for places in marks] == [True, True]
    assert not set.intersection(*marks)


def test_plot_writes_one_or_several_runs(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "RUNS", tmp_path)
    monkeypatch.setattr(folders, "RUNS", tmp_path)
    monkeypatch.setattr(common, "REPORTS", tmp_path / "reports")
    plot.command(["a", "b"], report="r")
    plot.command(["b"])
    assert load_result(tmp_path / "reports/r/results/curves.json").params["runs"] == ["a", "b"]
    assert load_result(tmp_path / "reports/b/results/train-b.json").kind == "train"
    assert (tmp_path / "reports/b/figures/train-b.png").exists()
    results = tmp_path / "reports" / "r" / "results"
    monkeypatch.setattr(report, "CURVES", 1)
    report.add_learning_curves(results.parent)
    assert not list(results.glob("train-*"))  # two runs are more than few
    monkeypatch.undo()
    monkeypatch.setattr(report, "RUNS", tmp_path)
    monkeypatch.setattr(folders, "RUNS", tmp_path)
    report.add_learning_curves(results.parent)
    assert sorted(path.name for path in results.glob("train-*.json")) == ["train-a.json", "train-b.json"]
    (tmp_path / "a" / "metrics.jsonl").unlink()
    with pytest.raises(MissingArtifact, match="run a has no metrics"):
        plot.command(["a"])
    assert load_run(tmp_path / "a").state == "stopped"


def test_the_figure_marks_where_the_other_tasks_join(tmp_path: Path) -> None:
    """At the row where they do, in every panel; not in a training without such a start, or before its end."""
    started = CONFIG.with_settings(["first_tasks=compass", "first_steps=150", "batch_size=128"])
    runs = [made(tmp_path / "plain", CONFIG, 1.0), made(tmp_path / "started", started, 1.0)]
    late = made(tmp_path / "late", started.with_settings(["first_steps=400"]), 1.0)

    def lines_at(figure: Figure) -> list[list[float]]:
        x = 150 * 128 / 1000
        return [[at for line in ax.lines for at in set(line.get_xdata()) if at == x] for ax in figure.axes]

    def words(figure: Figure) -> str:
        return " ".join(figure._supxlabel.get_text().split())

    both = curves_figure(curves_result(runs, "c"))
    alone = learning_figure(training_result(runs[1], "c"))
    for figure in (both, alone):
        assert all(len(found) >= 1 for found in lines_at(figure))
        assert "sees compass alone" in words(figure)
    for figure in (
        curves_figure(curves_result(runs[:1], "c")),
        learning_figure(training_result(runs[0], "c")),
    ):
        assert "alone" not in words(figure)
        assert not any(line.get_linestyle() == ":" for ax in figure.axes for line in ax.lines)
    unfinished = learning_figure(training_result(late, "c"))
    assert not any(line.get_linestyle() == ":" for ax in unfinished.axes for line in ax.lines)
