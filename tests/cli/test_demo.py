"""The demo's stages: what they call, side by side, one after the other, and how they end."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from cwr_mech_cli import demo
from cwr_mech_cli.main import COMMANDS
from paths import ROOT

from cwr_mech.errors import ArtifactExists
from cwr_mech.experiments import processes
from cwr_mech.experiments.presets import for_tasks, preset
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.training.begin import create_run, update_manifest
from cwr_mech.training.runs import load_run


def script(text: str) -> list[str]:
    return [sys.executable, "-c", text]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stage commands are Python scripts instead of commands of this program."""

    def start(argv: demo.Argv, log: Path) -> subprocess.Popen[bytes]:
        return processes.start(script(argv[0]), log, {})

    monkeypatch.setattr(demo, "start", start)


def test_stages_call_known_commands_on_one_live_run_and_the_zoo() -> None:
    table = demo.stages("demo")
    argvs = [argv for stage in table for lane in stage.lanes for argv in lane]
    assert {argv[0] for argv in argvs} <= {row.name for row in COMMANDS}
    names = [stage.name for stage in table]
    assert names == ["train", "eval", "cache-acts", "cka", "probe", "places", "patch", "report"]
    trained = [argv[argv.index("--out") + 1] for argv in argvs if argv[0] == "train"]
    assert trained == ["runs/demo"]
    reports = {argv[argv.index("--report") + 1] for argv in argvs if "--report" in argv}
    assert reports == {"demo"}
    cached = {argv[1] for argv in argvs if argv[0] == "cache-acts"}
    (compared,) = (set(argv[1 : argv.index("--report")]) for argv in argvs if argv[0] == "cka")
    assert cached == compared == {"demo", *demo.ZOO_MODELS}


def test_the_short_form_trains_less_and_patches_nothing() -> None:
    short = demo.stages("demo", demo.ZOO_MODELS[:1], short=True)
    assert [stage.name for stage in short] == [s.name for s in demo.stages("demo") if s.name != "patch"]
    argvs = [argv for stage in short for lane in stage.lanes for argv in lane]
    assert f"steps={demo.SHORT_STEPS}" in argvs[0]
    assert demo.stages("demo", log="wandb")[-1].lanes == ((("report", "demo", "--log", "wandb"),),)
    assert not any(demo.ZOO_MODELS[1] in argv for argv in argvs)  # a wheel has the first only


def test_the_zoo_has_the_demo_s_models_in_its_world() -> None:
    for name in demo.ZOO_MODELS:
        model = load_run(ROOT / "zoo" / name.removeprefix("zoo:"))
        assert model.config.world == preset(demo.PRESET).world
        assert len(model.config.data.tasks) == 7


@pytest.mark.usefixtures("commands")
def test_lanes_run_side_by_side_and_their_commands_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # Each lane waits for a file of the other: this ends only when both run at the same time.
    wait = (
        "import pathlib, time\npathlib.Path('{mine}').touch()\nwhile not pathlib.Path('{other}').exists():\n"
    )
    wait += "    time.sleep(0.01)\nprint('{mine} done', flush=True)"
    lanes = (
        ((wait.format(mine="a", other="b"),), ("print('second')",)),
        ((wait.format(mine="b", other="a"),),),
    )
    assert demo.run_stage(demo.Stage("both", "", lanes), tmp_path)
    assert (tmp_path / "both.log").read_text() == "a done\nsecond\n"
    assert (tmp_path / "both-1.log").read_text() == "b done\n"


@pytest.mark.usefixtures("commands")
def test_a_failure_ends_its_lane_and_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lanes = ((("raise SystemExit('error: no such city')",), ("open('never', 'w')",)), (("print('fine')",),))
    assert not demo.run_stage(demo.Stage("bad", "", lanes), tmp_path)
    assert "error: no such city" in capsys.readouterr().err
    assert not Path("never").exists()
    assert (tmp_path / "bad-1.log").read_text() == "fine\n"


@pytest.mark.usefixtures("commands")
def test_an_interruption_reaches_every_lane_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sleeper = (
        "import pathlib, signal, sys, time\n"
        "def end(*_):\n    print('saved', flush=True); sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "pathlib.Path('ready{0}').touch()\ntime.sleep(60)"
    )
    lanes = tuple(((sleeper.replace("{0}", str(index)),),) for index in range(2))

    def interrupt_when_ready(seconds: float) -> None:
        time.sleep(seconds)
        if all(Path(f"ready{index}").exists() for index in range(2)):
            raise KeyboardInterrupt

    clock = SimpleNamespace(monotonic=time.monotonic, sleep=interrupt_when_ready)
    monkeypatch.setattr(demo, "time", clock)
    with pytest.raises(KeyboardInterrupt):
        demo.run_stage(demo.Stage("train", "", lanes), tmp_path)
    assert [(tmp_path / name).read_text() for name in ("train.log", "train-1.log")] == ["saved\n"] * 2


def test_models_that_are_there_are_kept_and_others_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = demo.train("demo-angle", "tiny", "angle")
    assert demo.due(argv) == argv
    config = for_tasks(preset("tiny"), ("angle",)).model_copy(update={"name": "demo-angle"})
    model = HookedQwen2(config.model, seed=0)
    run = create_run(Path("runs/demo-angle"), config, model=model)
    assert demo.due(argv) == ("train", "--resume", "--out", "runs/demo-angle")
    update_manifest(run, state="done")
    assert demo.due(argv) is None
    with pytest.raises(ArtifactExists, match=r"runs/demo-angle was trained with other settings"):
        demo.due(demo.train("demo-angle", "tiny", "distance"))
    assert demo.due(("eval", "demo")) == ("eval", "demo")


LOGS = (("", ""), ("a\nb\n\n", "b"), ("one", "one"), ("x" * 5000 + "\nlast  \n", "last"))


@pytest.mark.parametrize(("text", "last"), LOGS)
def test_last_line(text: str, last: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(text)
    assert demo.last_line(tmp_path / "log") == last
