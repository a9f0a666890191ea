"""The wheel in a clean environment and an empty folder: models are there, every stage works."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from command_line import session
from paths import ROOT

from cwr_mech.training.folders import HOME, SHIPPED


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The installed command: a new environment that sees the dependencies installed here, but no checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("cwr_mech", "cli"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in SHIPPED:
        shutil.copytree(ROOT / "zoo" / name, source / "zoo" / name)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / "bin" / "python"
    (packages,) = venv.glob("lib/python*/site-packages")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", str(wheel)]
    subprocess.run(install, check=True)
    # The dependencies, behind the wheel; .pth files there are not followed, so no editable install is found.
    (packages / "dependencies.pth").write_text("\n".join(dependencies()) + "\n")
    shutil.rmtree(source)
    return [str(venv / "bin" / "cwr-mech")]


def dependencies() -> list[str]:
    """Folders of site-packages on this interpreter's path."""
    own = sysconfig.get_path("purelib")
    return list(dict.fromkeys([own, *(path for path in sys.path if path.endswith("site-packages"))]))


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Variables of a user in an empty folder, who has no checkout."""
    monkeypatch.chdir(tmp_path)
    return {key: value for key, value in os.environ.items() if key not in (HOME, "PYTHONPATH")}


def call(program: list[str], line: str, environment: dict[str, str]) -> str:
    """What the installed command prints."""
    done = subprocess.run([*program, *line.split()], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


STAGES = (
    "zoo check small --quick",
    "train --preset tiny --set steps=20",
    "cache-acts tiny --tasks distance,compass",
    "probe tiny --prompts distance --draws 2",
    "report tiny",
)


def test_every_stage_in_an_empty_folder(
    program: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    listed = call(program, "zoo list", environment)
    assert {word for word in listed.split() if word.startswith("zoo:")} == {f"zoo:{name}" for name in SHIPPED}
    assert HOME in listed  # how to get the others
    python = Path(program[0]).with_name("python")
    said = session(str(python), tmp_path, STAGES, environment)
    assert {line: words for line, (code, words) in said.items() if code} == {}
    assert "as added" in said[STAGES[0]][1]
    report = (tmp_path / "reports" / "tiny" / "report.md").read_text(encoding="utf-8")
    assert "results/probe.json" in report
    assert sorted(path.name for path in tmp_path.iterdir()) == ["activations", "reports", "runs"]


def test_the_installed_package_is_the_wheel_s(program: list[str], tmp_path: Path) -> None:
    """Control: what runs above is not the checkout that these tests are run from."""
    python = Path(program[0]).with_name("python")
    code = "import cwr_mech; print(cwr_mech.__file__)"
    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert str(Path(program[0]).parents[1]) in done.stdout


@pytest.mark.slow
def test_the_short_demo_in_an_empty_folder(
    program: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    assert "all done in" in call(program, "demo --short", environment)
    assert (tmp_path / "reports" / "demo" / "report.md").is_file()
