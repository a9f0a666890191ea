"""The zoo's analyses on made-up models: results about all of them, from recorded answers and from weights."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
import typer
from cwr_mech_cli import zoo as zoo_command
from cwr_mech_cli import zoo_report
from cwr_mech_cli.main import guarded
from threadpoolctl import threadpool_info
from typer.testing import CliRunner

from cwr_mech import trajectory, transfer
from cwr_mech.config import RunConfig, parse
from cwr_mech.experiments.finetuning import finetuning_config
from cwr_mech.experiments.zoo import zoo_models
from cwr_mech.experiments.zoo_files import add, recorded
from cwr_mech.findings.questions import QUESTIONS
from cwr_mech.findings.zoo import models_result, plan_rows
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.report.page import MOST_ROWS
from cwr_mech.report.write import check_report
from cwr_mech.results import Result, load_result
from cwr_mech.training.begin import create_run, update_manifest
from cwr_mech.training.runs import checkpoint_path

N = 8
FOLDER = Path("reports/other/results")

app = typer.Typer()
app.command("zoo")(guarded(zoo_command.command))
app.command("other")(lambda: None)  # with two commands typer wants the name of one


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo of two bases and a fine-tuning of each, all of them untrained."""
    folder = tmp_path_factory.mktemp("zoo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed in (0, 1):
            settings = {
                "name": f"base{seed}",
                "world": {"source": "uniform", "n_cities": 40, "new": "scattered", "n_new": 4},
                "model": {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_mlp": 16},
                "train": {"steps": 40, "batch_size": 7, "checkpoints": 0, "seed": seed},
            }
            config = parse(RunConfig, settings)
            run = create_run(Path("runs") / config.name, config, HookedQwen2(config.model, seed=seed))
            base = add(update_manifest(run, state="done"), n=N)
            tuned = finetuning_config(config, ("distance",), steps=2)
            model = HookedQwen2(config.model, seed=seed + 5)
            child = create_run(Path("runs") / tuned.name, tuned, model, base)
            model.save_pretrained(checkpoint_path(child.folder, 2))
            add(update_manifest(child, state="done"), n=N)
    return folder


@pytest.fixture(autouse=True)
def _here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr("cwr_mech.training.folders.PACKAGE", place / "elsewhere")
    # Untrained models answer nothing right: where they read a city is not searched for long.
    monkeypatch.setattr("cwr_mech.analysis.patching.pairs.PATIENCE", 1)


def analysed(*parts: str, processes: int = 1) -> dict[str, Result]:
    line = ["zoo", "analyse", "--part", ",".join(parts), "-j", str(processes)]
    outcome = CliRunner().invoke(app, line, env={"COLUMNS": "100"})
    assert outcome.exit_code == 0, outcome.output
    assert all(part in outcome.output for part in parts)
    shown = [line.split()[0] for line in outcome.output.splitlines()]
    assert not {"fine-tuned", "prompt", "run", "base"} & set(shown)  # tables are the report's
    return {path.stem: load_result(path) for path in FOLDER.glob("*.json")}


def test_models_beside_the_plan() -> None:
    result = models_result(zoo_models(), "test")
    assert [row["run"] for row in result.tables["models"]] == [
        "zoo:base0",
        "zoo:base1",
        "zoo:base0-ft-distance",
        "zoo:base1-ft-distance",
    ]
    rows = plan_rows(result.tables["models"], "zoo")
    plan = {row["family"]: (row["planned"], row["here"]) for row in rows}
    assert result.tables["plan"] == []  # models of no preset
    assert plan["all seven tasks"] == (3, 2)
    assert plan["fine-tuned on 1 task"] == (21, 2)
    assert plan["1 task"] == (21, 0)
    assert all(row["hours"] == 0 for row in rows)  # nothing was trained
    trained = [{"family": "1 task", "hours": 0.25}, {"family": "1 task", "hours": 0.5}]
    assert {row["hours"] for row in plan_rows(trained, "zoo")} == {0, 0.75}
    assert all(row["here"] == 0 for row in plan_rows([], "zoo"))
    assert len(result.tables["scores"]) == 4 * 7 * 2


def test_transfer_is_that_of_the_recorded_answers() -> None:
    models = zoo_models()
    tuned = [model for model in models if model.parent]
    bases = {model.name: model for model in models if not model.parent}
    result = transfer([model.name for model in tuned], rows=N)
    row = next(r for r in result.tables["scores"] if r["run"] == tuned[0].name and r["task"] == "angle")
    assert row["new"] == recorded(tuned[0], "new").score("angle").value_mean
    assert row["base_old"] == recorded(bases["zoo:base0"], "old").score("angle").value_mean
    assert result.values["n_bases"] == 2


def test_parts_made_side_by_side_are_those_made_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ("learning", "decoded")  # there is no model of one task alone to learn of
    alone = analysed(*parts)["places"]
    (FOLDER / "places.json").unlink()
    monkeypatch.setattr(zoo_report, "make", lambda *given: pytest.fail("made in this process"))
    beside = analysed(*parts, processes=2)["places"]
    assert beside.tables == alone.tables
    assert {row["run"] for row in beside.tables["scores"]} == {"zoo:base0", "zoo:base1"}


def test_places_start_at_the_base() -> None:
    tuned = [model.name for model in zoo_models() if model.parent]
    rows = trajectory(tuned, prompts="distance,angle").tables["trajectory"]
    assert {(row["base"], row["step"]) for row in rows} == {
        (f"zoo:base{seed}", step) for seed in (0, 1) for step in (0, 2)
    }
    assert {row["prompt"] for row in rows} == {"distance", "angle"}


def test_the_report_begins_with_its_answers_and_follows_from_its_results() -> None:
    results = analysed("models", "maps", "transfer")
    assert {"models", "maps", "transfer", "findings"} <= set(results)
    families = {row["family"] for row in results["maps"].tables["layers"]}
    assert families == {"all seven tasks", "fine-tuned on 1 task"}
    text = Path("reports/other/report.md").read_text()
    headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert headings[:2] == ["Summary", "Contents"]
    assert headings[2:5] == [q.title for q in QUESTIONS if q.id in ("tasks", "maps", "transfer")]
    summary = text[: text.index("## Contents")]
    assert all(heading in summary for heading in headings[2:5])  # each with its answer
    assert "2 models are too few" in summary  # two bases
    assert "What this scale cannot say" in summary
    longest = max(len(block.splitlines()) for block in text.split("\n\n") if block.startswith("| "))
    assert longest - 2 <= MOST_ROWS
    assert check_report("reports/other") == []


def test_a_part_that_is_not_there_is_refused() -> None:
    outcome = CliRunner().invoke(app, ["zoo", "analyse", "--part", "maps,routes"], env={"COLUMNS": "200"})
    assert outcome.exit_code == 2
    assert "'routes'" in outcome.stderr


def test_models_that_no_report_is_about_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cwr_mech.findings.parts.nearest", lambda config: "small")
    outcome = CliRunner().invoke(app, ["zoo", "analyse", "--preset", "small"], env={"COLUMNS": "200"})
    assert outcome.exit_code == 2
    assert "no part of a report is about models of preset small" in outcome.stderr


@pytest.mark.parametrize("threads", [1, 2])
def test_processes_side_by_side_share_the_processors(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of several processes on the same processors wait for each other, spinning."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    server = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, server, initializer=zoo_report._worker, initargs=(threads,)) as pool:
        assert pool.submit(torch.get_num_threads).result() == threads
        pools = pool.submit(threadpool_info).result()
    assert max(one["num_threads"] for one in pools if one["user_api"] == "blas") <= threads
