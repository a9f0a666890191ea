"""Settings and plans from a user's own files: what they say holds, the rest stays, faults are named."""

import json
import re
from pathlib import Path

import pytest

from cwr_mech.config import RunConfig, setting_rows
from cwr_mech.errors import ConfigError, CorruptArtifact, MissingArtifact, UnknownName, UserError
from cwr_mech.experiments.files import read_plan, with_file
from cwr_mech.experiments.presets import preset

PLAN = """
preset = "tiny"
seeds = [1, 2]
settings = ["steps=30"]
[[run]]
tasks = ["distance", "angle"]
name = "two"
[[run]]
base = "two"
tasks = ["angle"]
settings = {lr = 1e-4}
"""


def written(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_part_of_the_settings_is_enough(tmp_path: Path) -> None:
    found = with_file(preset("tiny"), written(tmp_path, '[train]\nsteps = 7\n[data]\ntasks = ["angle"]\n'))
    assert (found.train.steps, found.data.tasks) == (7, ("angle",))
    assert found.model == preset("tiny").model  # control: what is not said stays
    whole = preset("small").with_settings(["lr=0.5"])
    manifest = written(
        tmp_path, json.dumps({"config": whole.model_dump(mode="json"), "state": "done"}), "m.json"
    )
    assert with_file(preset("tiny"), manifest) == whole


@pytest.mark.parametrize("name", ["mine.toml", "mine.json"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_the_mark_of_other_editors_are_read(tmp_path: Path, name: str, mark: str) -> None:
    text = "[train]\r\nsteps = 7\r\n" if name.endswith("toml") else '{"train":\r\n{"steps": 7}}\r\n'
    assert with_file(preset("tiny"), written(tmp_path, mark + text, name)).train.steps == 7


FAULTS = (
    ("[train]\nstep = 7\n", ConfigError, "unknown setting 'train.step'"),
    ("[train]\nsteps = 0\n", ConfigError, "train.steps"),
    ("[data]\ntasks = ['dist']\n", UnknownName, "unknown task 'dist'"),
    ("[train", CorruptArtifact, "neither TOML nor JSON"),
)


@pytest.mark.parametrize(("text", "error", "words"), FAULTS)
def test_faults_in_settings_are_named(tmp_path: Path, text: str, error: type[UserError], words: str) -> None:
    with pytest.raises(error, match=words):
        with_file(preset("tiny"), written(tmp_path, text))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifact, match="no such file"):
        with_file(preset("tiny"), tmp_path / "nothing.toml")


def test_a_plan_of_ones_own(tmp_path: Path) -> None:
    plan = read_plan(written(tmp_path, PLAN))
    assert [(run.name, run.base) for run in plan] == [
        ("two-seed1", None),
        ("two-seed2", None),
        ("two-seed1-ft-angle", "two-seed1"),
        ("two-seed2-ft-angle", "two-seed2"),
    ]
    assert {run.config.train.steps for run in plan[:2]} == {30}
    assert [run.config.train.lr for run in plan[2:]] == [1e-4, 1e-4]
    assert [run.config.train.seed for run in plan] == [1, 2, 1, 2]
    one = read_plan(written(tmp_path, PLAN), seeds=[42], settings=["steps=5"])
    assert [run.name for run in one] == ["two", "two-ft-angle"]
    assert one[0].config.train.steps == 5


PLAN_FAULTS = (
    ("", "plans no run"),
    ("[[run]]\ntask = ['angle']\n", "unknown setting 'run.0.task'"),
    ("[[run]]\nbase = 'other'\ntasks = ['angle']\n", "trains no run 'other' before"),
    ("preset = 'tiny'\n[[run]]\nname = 'a'\n[[run]]\nname = 'a'\n", "two runs of the plan are called a"),
)


@pytest.mark.parametrize(("text", "words"), PLAN_FAULTS)
def test_faults_in_plans_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_plan(written(tmp_path, text))


# What a plan says -> the entry that the error names, and what it cannot be.
MISSHAPEN = {
    "seeds = 3\n[[run]]": "'seeds' cannot be 3",
    "seeds = ['a']\n[[run]]": "'seeds.0' cannot be 'a'",
    "settings = 5\n[[run]]": "'settings' cannot be 5",
    "preset = ['tiny']\n[[run]]": "'preset' cannot be ['tiny']",
    "run = 3": "'run' cannot be 3",
    "run = [3]": "'run.0' cannot be 3",
    "[[run]]\nname = ['a']": "'run.0.name' cannot be ['a']",
    "[[run]]\n[[run]]\nbase = ['a']": "'run.1.base' cannot be ['a']",
    "[[run]]\ntasks = 'distance'": "'run.0.tasks' cannot be 'distance'",
    "[[run]]\nsettings = 5": "'run.0.settings' cannot be 5",
}


@pytest.mark.parametrize("text", MISSHAPEN)
def test_entries_of_a_plan_that_are_something_else_are_named_with_the_file(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=re.escape(f"{path}: setting {MISSHAPEN[text]}")) as raised:
        read_plan(path)
    assert "\n" not in str(raised.value)


def test_every_setting_has_a_meaning() -> None:
    rows = setting_rows(preset("quick"))
    assert all(row["meaning"] for row in rows)
    assert {"train.lr", "data.protocol.refill_repeats", "name"} < {row["setting"] for row in rows}
    assert all(row["value"] == row["default"] for row in setting_rows(RunConfig()))
    assert sum(row["value"] != row["default"] for row in rows) > 10  # control: quick is not the default


def test_a_setting_can_be_typed_as_it_is_shown() -> None:
    config = preset("quick")
    typed = [
        f"{row['setting']}={row['value']}" for row in setting_rows(config) if row["setting"] != "data.parts"
    ]
    assert RunConfig().with_settings(typed) == config
