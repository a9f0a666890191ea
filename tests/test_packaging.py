"""What is installed and exported, and the direction of imports that the architecture lays down."""

import ast
import shutil
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from zipfile import ZipFile

import pytest

import cwr_mech

ROOT = Path(__file__).parents[1]

LEVELS = (
    ("errors",),
    ("artifacts", "config"),
    ("world", "tokenizer"),
    ("tasks",),
    ("dataset",),
    ("model", "runs"),
    ("training", "evaluation", "activations"),
    ("results",),
    ("analysis",),
    ("figures",),
    ("report",),
)
"""Modules named by the architecture, lowest first. Helper modules stand wherever their imports put them."""

FIXED_NAMES = (
    "TASKS", "HookedQwen2", "load_world", "Tokenizer", "load_run", "ActivationStore", "CwrError", "UserError",
)  # fmt: skip


def imports_of(path: Path) -> set[str]:
    """Modules of cwr_mech that a file imports anywhere, `cwr_mech.` left off."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name.removeprefix("cwr_mech.") for name in found} & modules()


@cache
def modules() -> frozenset[str]:
    return frozenset({name_of(path) for path in (ROOT / "cwr_mech").rglob("*.py")} - {"__init__"})


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "cwr_mech").with_suffix("").parts)


def graph() -> dict[str, set[str]]:
    return {name_of(path): imports_of(path) for path in (ROOT / "cwr_mech").rglob("*.py")}


def reachable(start: str, edges: dict[str, set[str]]) -> set[str]:
    seen, queue = set(), [start]
    while queue:
        for name in edges.get(queue.pop(), set()) - seen:
            seen.add(name)
            queue.append(name)
    return seen


def violations(edges: dict[str, set[str]]) -> list[str]:
    level = {name: height for height, names in enumerate(LEVELS) for name in names}
    below = {name: height for name, height in level.items() if name != "analysis"}
    below |= {name: level["analysis"] for name in edges if name.startswith("analysis.")}
    return [
        f"{name} reaches {other}"
        for name, height in below.items()
        for other in reachable(name, edges)
        if below.get(other, -1) > height
    ]


def test_imports_go_one_way() -> None:
    edges = graph()
    assert set(edges) >= {"world", "results", "figures", "report", "analysis.similarity"}
    assert violations(edges) == []
    list(TopologicalSorter(edges).static_order())  # raises CycleError
    # Control: the same check sees an import that goes up, also through a helper.
    assert violations(edges | {"world": {"formats"}, "formats": {"report"}}) != []


def test_library_does_not_import_the_command_line() -> None:
    for path in (ROOT / "cwr_mech").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "cwr_mech_cli" not in text, path
        assert "import typer" not in text, path


def test_library_does_not_print_or_exit() -> None:
    for path in (ROOT / "cwr_mech").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("print", "exit", "input"), f"{path}:{node.lineno}"


def test_exported_names() -> None:
    assert set(FIXED_NAMES) <= set(cwr_mech.__all__)
    for name in cwr_mech.__all__:
        assert getattr(cwr_mech, name) is not None
        assert name in dir(cwr_mech)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cwr_mech.nothing  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, cwr_mech; print([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("cwr_mech", "cli"):
        shutil.copytree(ROOT / folder, source / folder, ignore=ignore)
    for extra in ("tests", "reports"):  # must not leak even where they are
        (source / extra).mkdir()
        (source / extra / "__init__.py").touch()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.split("/")[0] for name in names}
    assert tops == {"cwr_mech", "cwr_mech_cli", f"cwr_mech-{_version()}.dist-info"}
    expected = {path.relative_to(source).as_posix() for path in (source / "cwr_mech").rglob("*.py")}
    expected |= {f"cwr_mech_cli/{path.name}" for path in (source / "cli").glob("*.py")}
    expected |= {"cwr_mech/data/cities.csv", "cwr_mech/data/README.md", "cwr_mech/py.typed"}
    assert expected <= names


def _version() -> str:
    from importlib.metadata import version

    return version("cwr-mech")


def test_constraints_pin_every_dependency() -> None:
    import re
    import tomllib

    def key(name: str) -> str:
        return re.sub(r"[-_.]+", "-", re.split(r"[<>=\[; ]", name)[0]).lower()

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {key(line) for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {key(line) for line in lines if "==" in line}
    assert wanted - pinned <= {"setuptools"}
    assert not any("+cpu" in line and not line.startswith("#") for line in lines)
