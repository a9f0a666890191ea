"""`cwr-mech runs`, and what is said when a training begins or goes on."""

import json
import os
from pathlib import Path

import pytest
import torch
import typer
from command_line import Cli
from cwr_mech_cli import common
from cwr_mech_cli.main import guarded
from cwr_mech_cli.runs import command, in_short
from cwr_mech_cli.train import announce
from typer.testing import CliRunner

from cwr_mech.errors import CorruptArtifact
from cwr_mech.experiments.presets import nearest, preset
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.training.begin import create_run
from cwr_mech.training.runs import Run, load_run
from cwr_mech.training.state import FILES, TrainingState, write_state

CONFIG = preset("tiny").with_settings(["steps=1200", "data.tasks=distance,compass"])

SHORT = [
    ("distance", 48.4, "48"),
    ("trianglearea", 47_900.0, "48k"),
    ("angle", 3.14, "3.1"),
    ("compass", 0.954, ".95"),
    ("inside", 1.0, "1.00"),
]


@pytest.mark.parametrize(("task", "score", "text"), SHORT)
def test_scores_in_short(task: str, score: float, text: str) -> None:
    assert in_short(task, score) == text


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("cwr_mech_cli.runs.RUNS", tmp_path)
    return create_run(
        tmp_path / "a-run-with-a-long-name-of-its-own", CONFIG, HookedQwen2(CONFIG.model, seed=0)
    )


def listed(monkeypatch: pytest.MonkeyPatch, width: int) -> list[str]:
    monkeypatch.setattr(common.console, "width", width)
    app = typer.Typer()
    app.command()(guarded(command))
    with common.console.capture() as found:
        assert CliRunner().invoke(app, []).exit_code == 0
    return found.get().splitlines()


def test_runs_are_listed_on_one_line_each(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {
        "scores": {"distance": 90.0, "compass": 0.9, "of another program": 7.0},
        "scores_new": {"distance": 101.2},
    }
    (run.folder / "metrics.jsonl").write_text(json.dumps({"step": 300} | scores) + "\n")
    (run.folder.parent / "broken").mkdir()
    (run.folder.parent / "broken" / "manifest.json").write_text("{")
    wide, narrow = listed(monkeypatch, 100), listed(monkeypatch, 80)
    assert wide[0].split() == ["run", "tasks", "preset", "step", "scores", "state"]
    line = next(line for line in wide if run.name in line)
    assert line.split()[1:] == ["distance,", "compass", "tiny", "300/1,200", "90/101", ".90", "stopped"]
    assert "preset" not in narrow[0]
    assert any(run.name in line for line in narrow)
    assert max(len(line) for line in narrow if "broken" not in line) <= 80
    assert narrow[0].split()[-1] == "state"  # no column fell into a second block
    assert any("broken" in line and "manifest.json is not" in line for line in wide)


LINE = {"rows": 8, "loss": 1.5, "losses": {"distance": 1.5}, "lr": 0.1, "rows_per_second": 4, "seconds": 2}


def test_without_a_name_the_latest_run_that_can_be_read_is_taken(
    cli: Cli, caplog: pytest.LogCaptureFixture
) -> None:
    for age, name in enumerate(("new", "whole", "old")):
        run = create_run(Path("runs", name), CONFIG, HookedQwen2(CONFIG.model, seed=0))
        (run.folder / "metrics.jsonl").write_text(json.dumps({"step": 1} | LINE) + "\n")
        os.utime(run.folder / "manifest.json", (2e9 - age, 2e9 - age))
    assert "train-new.png" in cli("plot")[1]
    assert "train-new-twice.png" in cli("plot", "--suffix", "twice")[1]
    Path("runs/new/metrics.jsonl").write_bytes(bytes(300))
    code, out, _ = cli("plot")
    assert (code, "left out runs/new: run new has no metrics" in out, "train-whole.png" in out) == (0, 1, 1)
    assert cli("plot", "new")[0] == 2  # it was asked for
    assert load_run().name == "new"
    Path("runs/new/manifest.json").write_text("{")
    os.utime("runs/new/manifest.json", (2e9, 2e9))
    assert load_run().name == "whole"
    assert "left out runs/new: runs/new/manifest.json is not valid JSON" in caplog.text
    for name in ("whole", "old"):
        Path("runs", name, "manifest.json").write_text("{")
    with pytest.raises(CorruptArtifact, match="new"):
        load_run()


def test_a_run_has_a_report_wherever_it_lies_and_whatever_it_is_called(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, name in (("runs/two words", "two-words"), ("elsewhere/\u00fc", "\u00fc"), ("runs/-x", "x")):
        run = create_run(Path(place), CONFIG, HookedQwen2(CONFIG.model, seed=0))
        (run.folder / "metrics.jsonl").write_text(json.dumps({"step": 1} | LINE) + "\n")
        assert cli("plot", "--", place)[::2] == (0, "")
        assert Path(f"reports/{name}/results/train-{name}.json").is_file()
        assert cli("report", name)[0] == 0
    monkeypatch.chdir("elsewhere/\u00fc")
    assert (load_run(".").name, load_run("checkpoints/..").name) == ("\u00fc", "\u00fc")
    assert common.plain_name("elsewhere/zoo:x@4") == "elsewhere-zoo-x-4"  # control: no separator is left


def test_a_timeline_of_one_checkpoint_is_refused_before_any_work(cli: Cli) -> None:
    create_run(Path("runs/one"), CONFIG, HookedQwen2(CONFIG.model, seed=0))
    code, _, errors = cli("timeline", "one")
    assert (code, "run one has 1 checkpoint(s)" in errors) == (2, True)
    assert not Path("activations").exists()


def test_the_nearest_preset_is_named() -> None:
    assert [nearest(preset(name)) for name in ("tiny", "quick", "small", "paper")] == [
        "tiny",
        "quick",
        "small",
        "paper",
    ]
    assert nearest(preset("small").with_settings(["steps=1044", "lr=7e-5"])) == "small"
    assert nearest(preset("tiny").with_settings(["d_mlp=96"])) is None


def test_what_is_left_out_of_a_resume_is_said(run: Run) -> None:
    def said() -> str:
        with common.console.capture() as found:
            announce(run)
        return found.get()

    assert "going on" not in said()
    for step in (20, 40):
        write_state(run.folder, TrainingState(step, 0, 0.0, {"x": torch.zeros(4)}))
    assert "going on from step 40" in said()
    (run.folder / FILES[1]).write_bytes(b"half")
    assert f"{FILES[1]} is broken and left out" in said()
    assert "going on from step 20" in said()
    (run.folder / FILES[0]).write_bytes(b"")
    assert "beginning again with step 0" in said()


def test_a_report_holds_several_results_of_a_kind_by_their_suffix(cli: Cli) -> None:
    create_run(Path("runs/one"), CONFIG, HookedQwen2(CONFIG.model, seed=0))
    for suffix, seed in ((), 1), (("--suffix", "again-2"), 2):
        assert cli("eval", "one", "-n", "8", "--seed", str(seed), *suffix)[0] == 0
    results = Path("reports/one/results")
    plain, again = (json.loads((results / f"{name}.json").read_text()) for name in ("eval", "eval-again-2"))
    assert plain["params"]["seed"] == 1, "the second has not taken its place"
    assert again["command"].endswith("--suffix again-2")
    assert cli("report", "one")[0] == 0
    for wrong in ("../x", "A", "a b", "a-"):
        code, _, errors = cli("eval", "one", "--suffix", wrong)
        assert (code, "cannot end a result's name" in " ".join(errors.split())) == (2, True), wrong
    assert sorted(path.name for path in results.iterdir()) == ["eval-again-2.json", "eval.json"]
