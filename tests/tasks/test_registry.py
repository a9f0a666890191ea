"""Tasks that users add: what may be registered, what an installed package brings, what is refused."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cwr_mech.config import DataConfig, parse
from cwr_mech.data.rows import generate
from cwr_mech.data.splits import split_of
from cwr_mech.errors import ConfigError, UnknownName
from cwr_mech.tasks import symmetry
from cwr_mech.tasks.registry import (
    PAPER_TASKS,
    TASKS,
    Stratum,
    Task,
    UnknownTask,
    get_task,
    ordered,
    register_task,
)
from cwr_mech.world.cities import load_world


def manhattan(xy: np.ndarray, sizes: np.ndarray | None = None) -> np.ndarray:
    return np.abs(xy[:, 0] - xy[:, 1]).sum(axis=1)


BLOCKS = Task(
    "blocks", "blocks", ",,", 2, 2, manhattan, symmetry.unordered,
    unit="tenths of a degree", max_digits=4, failure_value=5400.0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    list(TASKS)
    monkeypatch.setattr(TASKS, "_things", dict(TASKS._things))


def test_a_registered_task_is_a_task_everywhere() -> None:
    with pytest.raises(UnknownTask, match="known: distance"):
        get_task("blocks")
    assert register_task(BLOCKS) is BLOCKS
    assert list(TASKS) == [*PAPER_TASKS, "blocks"]
    assert ordered(["blocks", "elsewhere", "angle", "angle"]) == ("angle", "blocks", "elsewhere")
    assert parse(DataConfig, {"tasks": ["blocks"]}).tasks == ("blocks",)
    assert DataConfig().tasks == PAPER_TASKS  # what presets train on does not change
    rows = generate(load_world(n_cities=50, id_digits=3), "blocks", 200)
    assert set(rows.task) == {7}
    a, b = (load_world(n_cities=50, id_digits=3).xy_of(rows.cities[:, i].astype(np.int64)) for i in (0, 1))
    assert (rows.values == np.abs(a - b).sum(axis=1)).all()
    assert rows.texts()[0].startswith("blocks(c_")


def test_splits_of_a_registered_task_hang_on_its_name_alone() -> None:
    ids = np.stack(np.triu_indices(100, 1), axis=1)
    first, other = split_of(BLOCKS, ids), split_of(replace(BLOCKS, name="other", prefix="other"), ids)
    assert BLOCKS.key == 5000845847
    assert (first == split_of(BLOCKS, ids[:, ::-1])).all()
    assert (first != other).mean() > 0.05  # 11 % of two independent splits differ


BAD = [
    ({"name": "Blocks"}, "name cannot be 'Blocks'"),
    ({"name": "all"}, "commands use the word"),
    ({"prefix": "bl("}, "prefix cannot be"),
    ({"separators": ","}, "separators cannot be"),
    ({"separators": ",,,,,,,", "n_max": 7}, "only 1 to 6"),
    ({"labels": ("A", "B")}, "not both"),
    ({"max_digits": 0}, "needs labels"),
    ({"max_digits": 0, "labels": ("A", "A")}, "different words"),
    ({"strata": (Stratum((2,)),) * 5}, "must divide"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_fields_that_cannot_make_a_task(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(BLOCKS, **({"strata": ()} | changes))


FORMULAS = [
    (lambda xy, sizes: xy[:, 0, 0] / 2, "one whole number a query"),
    (lambda xy, sizes: xy[:, 0], "one whole number a query"),
    (lambda xy, sizes: xy[:, 0, 0], "not numbers of up to 4 digits"),
    (lambda xy, sizes: 10 * manhattan(xy), "not numbers of up to 4 digits"),
    (lambda xy, sizes: xy[:, 2, 0], "formula of blocks fails"),
]


@pytest.mark.parametrize(("formula", "message"), FORMULAS)
def test_formulas_whose_answers_cannot_be_written(formula: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        register_task(replace(BLOCKS, formula=formula))
    assert "blocks" not in TASKS


def test_a_name_or_a_prefix_that_is_taken() -> None:
    with pytest.raises(ConfigError, match="there is a task 'distance' already"):
        register_task(replace(BLOCKS, name="distance", prefix="dist"))
    with pytest.raises(ConfigError, match="there is a task 'distance' already"):
        register_task(replace(BLOCKS, name="distance", prefix="dist"), replace=True)
    with pytest.raises(ConfigError, match="prefix 'dist' is that of task distance"):
        register_task(replace(BLOCKS, prefix="dist"))
    register_task(BLOCKS)
    register_task(BLOCKS)  # the same once more is no harm
    other = replace(BLOCKS, max_digits=5)
    with pytest.raises(ConfigError, match="replace=True"):
        register_task(other)
    assert register_task(other, replace=True) is TASKS["blocks"] is other


def plugin(folder: Path, module: str, entries: str, code: str) -> None:
    """A package as pip leaves it: a module, and a dist-info folder with entry points."""
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[cwr_mech.tasks]\n{entries}\n")


def asked(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """A fresh process that has the packages in `folder`."""
    command = [sys.executable, "-c", f"import sys; sys.path.append({str(folder)!r})\n{code}"]
    return subprocess.run(command, capture_output=True, text=True)


def test_an_installed_package_brings_tasks(tmp_path: Path) -> None:
    code = (Path(__file__).parent / "test_registry.py").read_text().partition("@pytest.fixture")[0]
    plugin(tmp_path, "towns_good", "blocks = towns_good:BLOCKS", code)
    plugin(tmp_path, "towns_broken", "lost = towns_broken:LOST", "import no_such_module")
    plugin(tmp_path, "towns_taken", "dist = towns_taken:TASK", "from dataclasses import replace\n"
           "from towns_good import BLOCKS\nTASK = replace(BLOCKS, name='distance', prefix='d2')")  # fmt: skip
    done = asked(tmp_path, "import cwr_mech; print(*cwr_mech.TASKS)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [*PAPER_TASKS, "blocks"]
    assert "'lost' of package towns_broken is left out: No module named 'no_such_module'" in done.stderr
    assert "'dist' of package towns_taken is left out: there is a task 'distance' already" in done.stderr
    control = asked(tmp_path / "elsewhere", "import cwr_mech; print(*cwr_mech.TASKS)")
    assert control.stdout.split() == list(PAPER_TASKS)


def test_what_is_missing_is_said_in_one_line() -> None:
    with pytest.raises(UnknownName, match="unknown task 'blocks'") as found:
        parse(DataConfig, {"tasks": ["distance", "blocks"]})
    assert "needs its package installed" in str(found.value.hint)
