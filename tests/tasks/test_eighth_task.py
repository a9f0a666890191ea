"""An eighth task and a world of one's own, from a package as users install it, through every command.

Nothing in `cwr_mech` knows of them. The package is a folder on the path with entry points; a fresh process
runs the commands, then one that does not have the package reads what they left.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import session

from cwr_mech.tasks.registry import PAPER_TASKS

PACKAGE = '''
"""Which of two cities is nearer to a third; and places along a spiral."""

import numpy as np

from cwr_mech import Stratum, Task


def second_is_nearer(xy, sizes=None):
    first, second = (((xy[:, i] - xy[:, 0]) ** 2).sum(axis=1) for i in (1, 2))
    return (second < first).astype(np.int64)


NEARER = Task(
    "nearer", "near", ";,,", 3, 3, second_is_nearer, labels=("FIRST", "SECOND"),
    strata=(Stratum((3,), 0, 0.5), Stratum((3,), 1, 0.5)),
)


def spiral(n, rng):
    turn = 0.5 + 4 * np.pi * np.sqrt(rng.uniform(size=n))
    xy = 65 * turn[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return np.rint(xy).astype(np.int64), ["inner" if angle < 8 else "outer" for angle in turn]
'''

WORLD = "--preset tiny --world spiral --n-cities 40 --new scattered:4+atlantis:4"
SINGLES = (
    "sweep singles --preset tiny --set tasks=distance,nearer --set steps=4 --set batch_size=16 --out sweep"
)
COMMANDS = (
    "data -t nearer --stats -n 200 --world spiral --n-cities 40",
    f"train {WORLD} --tasks all --set batch_size=32 --set steps=20 --out runs/eight",
    f"train {WORLD} --tasks nearer --set steps=150 --set lr=3e-3 --set optimizer=muon --set batch_size=64 "
    "--set eval_rows=64 --out runs/near",
    "eval eight near -n 16 --tasks nearer,distance --cities old,new --report own",
    "cache-acts eight",
    "cache-acts near",
    "probe near --layers 0,1 --prompts nearer --draws 2 --report own",
    "cka eight near --prompts distance,nearer --draws 2 --report own",
    "patch near --task nearer --pairs 8 --report own",
    "finetune near --tasks nearer --steps 4 --rows 100 --replay-rows 50",
    "transfer near -n 8 --report own",
    f"{SINGLES} --only tiny-distance",
    SINGLES,
    "sweep tune --preset tiny --set tasks=distance,nearer --dry-run",
    "report own",
    "report own --check",
    "runs",
)


def commands(folder: Path, lines: tuple[str, ...], *path: Path) -> dict[str, tuple[int, str]]:
    """Command -> exit code and all it printed, in one fresh process with these folders on its path."""
    others = {"COLUMNS": "120", "PYTHONPATH": os.pathsep.join(map(str, path))}
    return session(sys.executable, folder, lines, os.environ | others)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in, the package beside it in `package/`."""
    folder = tmp_path_factory.mktemp("user")
    info = folder / "package" / "my_towns-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "package" / "my_towns.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-towns\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[cwr_mech.tasks]\nnearer = my_towns:NEARER\n[cwr_mech.worlds]\nspiral = my_towns:spiral\n"
    )
    (folder / "work").mkdir()
    return folder


@pytest.fixture(scope="module")
def said(folder: Path) -> dict[str, str]:
    """First word (and run) of a command -> what it printed; all commands have run and ended well."""
    found = commands(folder / "work", COMMANDS, folder / "package")
    for line, (code, words) in found.items():
        assert code == 0, f"cwr-mech {line}\n{words[-3000:]}"
    return {line: words for line, (_, words) in found.items()}


def result(folder: Path, name: str) -> dict:
    return json.loads((folder / "work" / "reports" / "own" / "results" / f"{name}.json").read_text())


def test_its_numbers_stand_in_every_result(folder: Path, said: dict[str, str]) -> None:
    rows = result(folder, "eval")["tables"]["tasks"]
    assert {row["task"] for row in rows} == {"nearer", "distance"}
    answered = [row for row in rows if (row["run"], row["task"]) == ("near", "nearer")]
    assert [row["metric"] for row in answered] == ["accuracy"] * 2
    assert all(row["parse_rate"] > 0.9 and row["value_mean"] > 0 for row in answered)
    # Control: of distance, which it has not learned, the same model can write no answer.
    assert all(row["parse_rate"] == 0 for row in rows if (row["run"], row["task"]) == ("near", "distance"))
    assert "nearer" in {row["task"] for row in result(folder, "probe")["tables"]["layers"]}
    alike = [row for row in result(folder, "cka")["tables"]["cells"] if row["cka"] is not None]
    assert {"nearer", "distance"} <= {row["task_a"] for row in alike}
    patched = result(folder, "patch-nearer")
    assert patched["tables"]["cells"]
    assert np.isfinite([row["recovered"] for row in patched["tables"]["cells"] if row["recovered"]]).all()
    moved = result(folder, "transfer")["tables"]["scores"]
    assert {row["task"] for row in moved} == {*PAPER_TASKS, "nearer"}


def test_reports_plans_and_lists_name_it(folder: Path, said: dict[str, str]) -> None:
    report = (folder / "work" / "reports" / "own" / "report.md").read_text()
    assert report.count("nearer") >= 5
    assert (folder / "work" / "reports" / "own" / "figures" / "patch-nearer.png").is_file()
    # One run of the sweep was trained in this process, so the other alone in one that the sweep started.
    swept = sorted((folder / "work" / "sweep").glob("tiny*"))
    assert [path.name for path in swept] == ["tiny-distance", "tiny-nearer"]
    assert [json.loads((path / "manifest.json").read_text())["state"] for path in swept] == ["done"] * 2
    assert "started tiny-nearer" in said[SINGLES]
    assert "started tiny-distance" not in said[SINGLES]
    assert (folder / "work" / "sweep" / ".sweep" / "tiny-nearer.log").stat().st_size > 0
    plan = next(words for line, words in said.items() if line.startswith("sweep tune"))
    assert "tiny-ft-distance+nearer" in plan
    listed = said["runs"]
    assert "all, nearer" in listed
    assert "near-ft-nearer" in listed
    stats = said[COMMANDS[0]]
    assert "FIRST 50.0%" in stats
    trained = said[COMMANDS[1]]
    assert "40 cities of spiral and 8 new ones (scattered:4+atlantis:4)" in trained


def test_without_the_package_one_line_says_what_is_missing(folder: Path, said: dict[str, str]) -> None:
    lines = (
        "runs",
        "eval near -n 4 --report none",
        "cache-acts near",
        "data -t nearer",
        "data --world spiral",
    )
    found = commands(folder / "work", lines)
    code, listed = found["runs"]
    assert code == 0
    for name in ("near", "eight", "near-ft-nearer"):
        assert f"run {name} needs the task 'nearer'" in " ".join(listed.split()), listed
    for line in lines[1:]:
        code, words = found[line]
        assert code == 2, line
        errors = [text for text in words.splitlines() if text.startswith("error:")]
        assert len(errors) == 1, words
        assert ("'spiral'" if "spiral" in line else "'nearer'") in errors[0]
    assert not (folder / "work" / "reports" / "none").exists()
