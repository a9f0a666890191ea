"""Sweeps: order, failures, going on. The trainer here is a script that only writes manifests."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cwr_mech.artifacts import folder_lock
from cwr_mech.errors import MissingArtifact
from cwr_mech.experiments.planned import Planned
from cwr_mech.experiments.plans import find_plan
from cwr_mech.experiments.presets import preset
from cwr_mech.experiments.sweep import (
    Outcome,
    Sweep,
    log_path,
    require_base,
    standing,
    state_of,
)
from cwr_mech.experiments.workflow import snakefile, snakemake_argv
from cwr_mech.training.runs import SCHEMA

TRAINER = """
import json, pathlib, sys, time
folder, base, content = pathlib.Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
order = folder.parent / "order.txt"
with open(order, "a") as out: out.write(f"+{folder.name}\\n")
if base:
    assert json.loads((folder.parent / base / "manifest.json").read_text())["state"] == "done"
if folder.name in sys.argv[4:]:
    print("error: the dog ate it")
    sys.exit(2)
time.sleep(0.1)
folder.mkdir(exist_ok=True)
(folder / "manifest.json").write_text(json.dumps(content))
with open(order, "a") as out: out.write(f"-{folder.name}\\n")
"""

PLAN = find_plan("trial").runs(preset("tiny"))


def manifest(planned: Planned, state: str) -> dict:
    """What a run's manifest.json holds."""
    return {
        "schema": SCHEMA,
        "config": planned.config.model_dump(mode="json"),
        "state": state,
        "world_sha256": "",
        "parent": {},
        "checkpoints": {},
    }


def sweep(root: Path, *failing: str, jobs: int = 2, runs: tuple[Planned, ...] = PLAN) -> Sweep:
    (root / "trainer.py").write_text(TRAINER)
    by_name = {run.name: run for run in runs}

    def argv(name: str) -> list[str]:
        run = by_name[name]
        content = json.dumps(manifest(run, "done"))
        trainer = [sys.executable, "-S", str(root / "trainer.py")]
        return [*trainer, str(root / name), run.base or "", content, *failing]

    return Sweep(runs, root, argv, jobs)


def trained(root: Path) -> list[str]:
    return [line[1:] for line in (root / "order.txt").read_text().splitlines() if line[0] == "+"]


@pytest.mark.parametrize("jobs", [1, 3])
def test_everything_is_trained_once_and_bases_first(tmp_path: Path, jobs: int) -> None:
    going, running = sweep(tmp_path, jobs=jobs), []
    going.event = lambda name, what, details: running.append(len(going._running))
    assert [outcome.state for outcome in going.run()] == ["done"] * 7
    assert max(running) == jobs
    assert sorted(trained(tmp_path)) == sorted(run.name for run in PLAN)
    assert all(outcome.state == "done" for outcome in sweep(tmp_path).run())
    assert len(trained(tmp_path)) == 7


def test_a_failure_stops_only_what_starts_from_it(tmp_path: Path) -> None:
    outcomes = {outcome.name: outcome for outcome in sweep(tmp_path, "tiny-angle", "tiny").run()}
    assert outcomes["tiny-distance"].state == "done"
    assert outcomes["tiny-angle"] == Outcome("tiny-angle", "failed", "error: the dog ate it (exit 2)")
    assert {name for name, outcome in outcomes.items() if outcome.state == "waiting"} == {
        "tiny-ft-distance",
        "tiny-ft-trianglearea",
        "tiny-ft-angle",
    }
    again = {outcome.name: outcome.state for outcome in sweep(tmp_path).run()}
    assert set(again.values()) == {"done"}
    assert trained(tmp_path).count("tiny-distance") == 1
    assert "the dog ate it" in log_path("tiny-angle", tmp_path).read_text()


def test_what_another_process_trains_is_waited_for(tmp_path: Path) -> None:
    run = PLAN[0]
    (tmp_path / run.name).mkdir()
    seen: list[tuple[str, str]] = []
    going = sweep(tmp_path, runs=PLAN[:1])
    going.event = lambda name, what, details: seen.append((name, what))

    def elsewhere() -> None:
        with folder_lock(tmp_path / run.name):
            time.sleep(0.6)
            (tmp_path / run.name / "manifest.json").write_text(json.dumps(manifest(run, "done")))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    time.sleep(0.2)
    assert going.run() == [Outcome(run.name, "done")]
    thread.join()
    assert seen == [(run.name, "busy"), (run.name, "done")]
    assert not (tmp_path / "order.txt").exists()


def test_ctrl_c_stops_the_processes(tmp_path: Path) -> None:
    going = sweep(tmp_path)

    def press(name: str, what: str, details: str) -> None:
        if what == "done":
            raise KeyboardInterrupt

    going.event = press
    with pytest.raises(KeyboardInterrupt):
        going.run()
    assert all(process.poll() is not None for process, _ in going._running.values())
    assert all(outcome.state == "done" for outcome in sweep(tmp_path).run())


HUNG_UP = """
import signal, sys
from pathlib import Path
from cwr_mech_cli.interrupt import answer_signals
from cwr_mech.experiments.plans import find_plan
from cwr_mech.experiments.presets import preset
from cwr_mech.experiments.sweep import Sweep
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
answer_signals("sweep")
Sweep(
    find_plan("trial").runs(preset("tiny"))[:2],
    Path(sys.argv[1]),
    lambda name: [sys.executable, "-S", "-c", sys.argv[2]],
    2,
).run()
"""
TRAINED = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit("saved"))
print(os.getpid(), flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent to notice (a zombie) does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("wish", [signal.SIGHUP, signal.SIGKILL])
def test_what_ends_the_sweep_ends_what_it_started(tmp_path: Path, wish: signal.Signals) -> None:
    """The signal goes to the sweep alone, as when the shell that started it over a network goes away."""
    logs = [log_path(run.name, tmp_path) for run in PLAN[:2]]
    with subprocess.Popen([sys.executable, "-c", HUNG_UP, str(tmp_path), TRAINED]) as going:
        while not all(log.exists() and log.read_text().endswith("\n") for log in logs):
            assert going.poll() is None
            time.sleep(0.05)
        pids = [int(log.read_text()) for log in logs]
        assert all(map(alive, pids))  # control
        going.send_signal(wish)
    assert going.returncode == -(wish if wish == signal.SIGKILL else signal.SIGINT)  # as Python ends then
    while any(map(alive, pids)):  # after SIGKILL nobody waits for them; they sleep ten minutes at most
        time.sleep(0.05)
    assert [log.read_text().split() for log in logs] == [[str(pid), "saved"] for pid in pids]


# state in the manifest, whether the folder is locked -> state of the planned run
STATES = [
    ("done", False, "done"),
    ("interrupted", False, "begun"),
    ("running", False, "begun"),
    ("running", True, "busy"),
    ("diverged", False, "failed"),
]


@pytest.mark.parametrize(("state", "locked", "expected"), STATES)
def test_states(tmp_path: Path, state: str, locked: bool, expected: str) -> None:
    run = PLAN[0]
    assert state_of(run, tmp_path) == "todo"
    (tmp_path / run.name).mkdir()
    (tmp_path / run.name / "manifest.json").write_text(json.dumps(manifest(run, state)))
    if locked:
        with folder_lock(tmp_path / run.name):
            assert state_of(run, tmp_path) == expected
    else:
        assert state_of(run, tmp_path) == expected


def test_other_settings_and_missing_bases_are_named(tmp_path: Path) -> None:
    other = Planned(PLAN[0].config.with_settings(["lr=0.5"]))
    (tmp_path / other.name).mkdir()
    (tmp_path / other.name / "manifest.json").write_text(json.dumps(manifest(other, "done")))
    assert "other settings" in standing(PLAN[0], tmp_path).details
    require_base(PLAN[0], tmp_path)
    with pytest.raises(MissingArtifact, match="starts from tiny, which is not done"):
        require_base(PLAN[-1], tmp_path / "elsewhere")


def test_the_workflow_names_every_run_and_its_base(tmp_path: Path) -> None:
    text = snakefile(PLAN, Path("runs"), ["/usr/bin/py", "-m", "x", "sweep", "--set", "a={1}"], "cwr-mech")
    scope: dict = {}
    exec(text[text.index("BASE") : text.index("rule all")], scope)
    assert scope["BASE"] == {run.name: run.base or "" for run in PLAN}
    assert scope["DONE"].format(name="tiny") == "runs/.sweep/tiny.done"
    assert "--set 'a={{1}}' --only {wildcards.name} >> {log}" in text
    argv = snakemake_argv("snakemake", Path("f"), 3, ["--executor", "slurm"])
    assert argv[:5] == ["snakemake", "--snakefile", "f", "--cores", "3"]
    assert argv[-2:] == ["--executor", "slurm"]
