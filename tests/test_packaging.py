"""What is installed and exported, and the direction of imports that the architecture lays down."""

import ast
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path
from zipfile import ZipFile

import pytest
from paths import ROOT

import cwr_mech
from cwr_mech.analysis.registry import ANALYSES
from cwr_mech.training.folders import SHIPPED

LEVELS = (
    ("errors",),
    ("artifacts",),
    ("tasks",),
    ("config",),
    ("world",),
    ("data", "results", "render"),
    ("model",),
    ("activations",),
    ("training",),
    ("experiments",),
    ("analysis",),
    ("findings",),
    ("report",),
)
"""Every package and module of `cwr_mech/`, lowest first. Imports go down only."""

ANALYSIS_LEVELS = (
    ("registry", "study", "best", "published", "selection", "stats"),
    ("sources", "answers"),
    ("members",),
    ("probing",),
    ("similarity",),
    ("manifold",),
    ("erasure",),
    ("transfer", "locating"),
    ("patching",),
    ("anatomy", "course", "routing", "prediction"),
)
"""The same inside `cwr_mech/analysis/`; an analysis without a row here is above them: nobody imports it."""

FIXED_NAMES = (
    "TASKS", "HookedQwen2", "load_world", "Tokenizer", "load_run", "ActivationStore", "CwrError", "UserError",
)  # fmt: skip


def imports_of(path: Path) -> set[str]:
    """Dotted names below `cwr_mech` that a file imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name.removeprefix("cwr_mech.") for name in found if name.startswith("cwr_mech.")}


def graph(folder: Path) -> dict[str, set[str]]:
    """Entry of `folder` (package or module) -> entries of `folder` that its files import."""
    prefix = ".".join(folder.relative_to(ROOT / "cwr_mech").parts)
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    entries = files | {path.parent.name for path in folder.glob("*/__init__.py")}
    edges: dict[str, set[str]] = {entry: set() for entry in entries}
    for path in folder.rglob("*.py"):
        entry = path.relative_to(folder).parts[0].removesuffix(".py")
        for name in imports_of(path):
            inner = name.removeprefix(f"{prefix}.") if prefix else name
            other = inner.split(".")[0]
            if entry in entries and other in entries and other != entry and (not prefix or inner != name):
                edges[entry].add(other)
    return edges


def violations(edges: dict[str, set[str]], levels: tuple[tuple[str, ...], ...]) -> list[str]:
    height = {name: level for level, names in enumerate(levels) for name in names}
    missing = [f"{name} has no level" for name in edges if name not in height]
    return missing + [
        f"{name} imports {other}"
        for name, others in edges.items()
        for other in sorted(others)
        if name in height and height.get(other, 99) > height[name]
    ]


@pytest.mark.parametrize(
    ("folder", "levels"), [("cwr_mech", LEVELS), ("cwr_mech/analysis", ANALYSIS_LEVELS)], ids=str
)
def test_imports_go_one_way(folder: str, levels: tuple[tuple[str, ...], ...]) -> None:
    edges = graph(ROOT / folder)
    listed = {name for names in levels for name in names}
    alone = {row.package for row in ANALYSES} - listed if folder.endswith("analysis") else set()
    levels = (*levels, *((name,) for name in sorted(alone)))
    assert violations(edges, levels) == []
    assert set(edges) == listed | alone
    list(TopologicalSorter(edges).static_order())  # raises CycleError
    # Controls: an import that goes up is seen, and so is an entry without a level.
    lowest, highest = levels[0][0], levels[-1][0]
    assert violations(edges | {lowest: {highest}}, levels) == [f"{lowest} imports {highest}"]
    assert violations(edges | {"stray": set()}, levels) == ["stray has no level"]


def test_few_entries() -> None:
    """A newcomer reads the tree: packages and modules of `cwr_mech/`, `__init__` included."""
    assert len(graph(ROOT / "cwr_mech")) + 1 <= 16


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


OF_FILES = ("probing", "manifold", "similarity")
"""Analyses that need no model where activations are on disk: torch and transformers take seconds to load."""


def test_analyses_of_files_load_no_torch() -> None:
    analyses = [f"analysis.{name}.{part}" for name in OF_FILES for part in ("study", "tables")]
    imported = "; ".join(
        f"import cwr_mech.{name}" for name in (*analyses, "analysis.members", "report.contents")
    )
    code = f"import sys; {imported}; print([m for m in ('torch', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['scipy']"


def test_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("cwr_mech", "cli"):
        shutil.copytree(ROOT / folder, source / folder, ignore=ignore)
    for model in (*SHIPPED, "small-seed2"):  # the last is of the zoo, but not of the wheel
        shutil.copytree(ROOT / "zoo" / model, source / "zoo" / model)
    for extra in ("tests", "reports"):  # must not leak even where they are
        (source / extra).mkdir()
        (source / extra / "__init__.py").touch()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
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
    models = {path.relative_to(source).as_posix() for path in (source / "zoo").rglob("*") if path.is_file()}
    shipped = {name for name in models if name.split("/")[1] in SHIPPED}
    assert {name for name in names if "/zoo/" in name} == {f"cwr_mech/{name}" for name in shipped}
    assert len(shipped) < len(models)  # control: there was something to leave out
    assert sum((source / name).stat().st_size for name in shipped) < 2_000_000
    assert wheel.stat().st_size < 2_500_000
    expected |= {"cwr_mech/world/cities.csv", "cwr_mech/world/README.md", "cwr_mech/py.typed"}
    expected |= {"cwr_mech/analysis/published.json", "cwr_mech/analysis/gradients.json"}
    expected |= {
        f"cwr_mech/report/templates/{name}" for name in ("page.html", "page.css", "page.js", "map.js")
    }
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


def test_tests_lie_beside_what_they_test() -> None:
    """tests/PACKAGE/test_MODULE.py for every package; the root keeps the single modules and the whole."""
    tests = [path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")]
    single = {path.stem for path in (ROOT / "cwr_mech").glob("*.py")} | {
        "packaging",
        "freeze",
        "gpu_check",
        "bench_figures",
        "checked_calls",
    }
    homeless = [
        str(path)
        for path in tests
        if not (path.parts[0] == "cli" or (ROOT / "cwr_mech" / path.parent).is_dir())
        or (len(path.parts) == 1 and path.stem.removeprefix("test_") not in single)
    ]
    assert homeless == [], "move each into the folder of tests/ that is named as its package"
    assert len(tests) > 50


def test_an_interval_has_one_name() -> None:
    """Ends of an interval are `lo` and `hi` (NAME_lo, NAME_hi), in code and in columns of tables."""
    old = re.compile(r"\bci_(lo|hi)\b|[a-z0-9}]_(low|high)[\"']")
    assert old.search("row['ci_lo']"), "control"
    for path in [*(ROOT / "cwr_mech").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]:
        found = old.search(path.read_text(encoding="utf-8"))
        assert not found, f"{path}: {found.group()} (write lo, hi)"


def test_contributing_names_every_package() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    packages = [path.parent.name for path in (ROOT / "cwr_mech").glob("*/__init__.py")]
    assert [name for name in packages if f"| `cwr_mech/{name}` |" not in text] == []
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


@pytest.mark.parametrize(("old", "new"), cwr_mech._MOVED.items())
def test_a_moved_module_is_the_one_that_is_there(old: str, new: str) -> None:
    module = importlib.import_module(new)
    assert importlib.import_module(old) is module
    assert module.__spec__ is not None
    assert module.__spec__.name == new
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"{old}_nothing")
