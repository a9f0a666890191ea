"""The wheel in a clean environment and an empty folder: models are there, every stage works."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
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
    for name in ("pyproject.toml", "README.md", "LICENSE"):
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
def call(program: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that runs the installed command in an empty folder and returns what it printed."""
    monkeypatch.chdir(tmp_path)
    environment = {key: value for key, value in os.environ.items() if key not in (HOME, "PYTHONPATH")}

    def run(line: str) -> str:
        done = subprocess.run([*program, *line.split()], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def test_every_stage_in_an_empty_folder(call: Callable[[str], str], tmp_path: Path) -> None:
    listed = call("zoo list")
    assert {word for word in listed.split() if word.startswith("zoo:")} == {f"zoo:{name}" for name in SHIPPED}
    assert HOME in listed  # how to get the others
    assert "as added" in call("zoo check small --quick")
    call("train --preset tiny --set steps=20")
    call("cache-acts tiny --tasks distance,compass")
    call("probe tiny --prompts distance --draws 2")
    call("report tiny")
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
def test_the_short_demo_in_an_empty_folder(call: Callable[[str], str], tmp_path: Path) -> None:
    assert "all done in" in call("demo --short")
    assert (tmp_path / "reports" / "demo" / "report.md").is_file()
