"""Run folders: what they hold, what is said when they are broken."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cwr_mech.artifacts import sha256_file, write_json
from cwr_mech.config import ModelConfig, RunConfig, WorldConfig
from cwr_mech.errors import (
    ArtifactError,
    ArtifactExists,
    ConfigError,
    CorruptArtifact,
    MissingArtifact,
    SchemaMismatch,
    UnknownName,
)
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.tasks.registry import get_task
from cwr_mech.training.begin import create_run, require_free, update_manifest
from cwr_mech.training.folders import latest_run, newest_first
from cwr_mech.training.loop import train
from cwr_mech.training.runs import checkpoint_path, load_run, readable_runs

CONFIG = RunConfig(
    name="r",
    world=WorldConfig(n_cities=20),
    model=ModelConfig(n_layers=1, d_model=8, n_heads=2, d_mlp=8),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return create_run(tmp_path / "r", CONFIG, HookedQwen2(CONFIG.model, seed=0)).folder


def test_a_new_run_reads_back(folder: Path) -> None:
    run = load_run(folder)
    assert run.config == CONFIG
    assert run.steps == (0,)
    assert run.last_step == 0
    assert run.parent is None
    assert run.world().n == 20
    assert run.metrics() == []
    assert (
        repr(run) == f"Run('r', {'+'.join(CONFIG.data.tasks)}, checkpoint 0 of {CONFIG.train.steps:,} steps)"
    )
    assert {"python", "torch", "machine"} <= set(run.manifest["provenance"])
    with pytest.raises(ArtifactExists, match="--resume"):
        create_run(folder, CONFIG, HookedQwen2(CONFIG.model, seed=0))


def test_a_run_keeps_a_copy_of_the_users_cities(tmp_path: Path) -> None:
    csv = tmp_path / "own.csv"
    csv.write_text("id,name,x,y\n" + "\n".join(f"{1000 + i},City {i},{i},{2 * i}" for i in range(30)))
    config = CONFIG.with_settings([f"world.source={csv}", "n_cities=all"])
    run = create_run(tmp_path / "r", config, HookedQwen2(CONFIG.model, seed=0))
    assert run.has_settings(config)
    assert run.has_settings(load_run(run.folder).config)
    csv.write_text(csv.read_text().replace("City 7", "City 70"))
    assert not run.has_settings(config)
    csv.unlink()
    moved = run.folder.rename(tmp_path / "moved")
    assert load_run(moved).world().names[7] == "City 7"
    (moved / "cities.csv").write_text((moved / "cities.csv").read_text().replace("City 7", "City 70"))
    with pytest.raises(CorruptArtifact, match="no longer the one it was trained in"):
        load_run(moved).world()


def test_runs_are_found_by_name_and_by_age(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cwr_mech.training.folders.RUNS", tmp_path)
    assert load_run("r").folder == folder
    create_run(tmp_path / "s", CONFIG, HookedQwen2(CONFIG.model, seed=0))
    assert latest_run(tmp_path).name == "s"
    update_manifest(load_run("r"), state="done")
    assert latest_run(tmp_path).name == "r"
    with pytest.raises(MissingArtifact, match="there is no run"):
        latest_run(tmp_path / "empty")


def test_a_link_to_itself_of_the_same_name_is_another_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "r").symlink_to("r")
    assert load_run(folder).reference == "./r"
    (tmp_path / "runs" / "r").unlink()
    (tmp_path / "runs" / "r").symlink_to(folder)  # control: a link to the run is the run
    assert load_run(folder).reference == "r"


def test_checkpoints_that_are_not_there(folder: Path) -> None:
    run = load_run(folder)
    with pytest.raises(MissingArtifact, match="steps: 0"):
        run.checkpoint(5)
    checkpoint_path(folder, 0).rename(folder / "elsewhere")
    with pytest.raises(MissingArtifact, match="no checkpoint yet"):
        run.model()


def test_a_finished_run_without_its_last_checkpoint_does_not_pass_for_an_older_one(folder: Path) -> None:
    HookedQwen2(CONFIG.model, seed=1).save_pretrained(checkpoint_path(folder, 7))
    weights = {str(step): sha256_file(checkpoint_path(folder, step) / "model.safetensors") for step in (0, 7)}
    run = update_manifest(load_run(folder), checkpoints=weights, state="done")
    assert run.last_step == 7  # control
    checkpoint_path(folder, 7).rename(folder / "elsewhere")
    with pytest.raises(
        MissingArtifact, match=r"step 7, is gone.*another step \(0\), or cwr-mech train --config"
    ):
        load_run(folder).model()
    assert load_run(folder).model(0) is not None
    with pytest.raises(MissingArtifact, match="step 7, is gone"):
        train(CONFIG, folder, resume=True)
    update_manifest(run, state="interrupted")  # control: it is going on from there
    assert load_run(folder).last_step == 0
    checkpoint_path(folder, 0).rename(folder / "beside")
    update_manifest(run, state="done")
    with pytest.raises(MissingArtifact, match=r"gone \(cwr-mech train --config .*manifest.json --out"):
        load_run(folder).model()


def test_half_a_metrics_line_is_left_out(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert load_run(folder).metrics() == [{"step": 1}, {"step": 2}]


def change(**changes: object) -> Callable[[Path], None]:
    """A change to manifest.json; None removes a field."""

    def apply(path: Path) -> None:
        content = json.loads(path.read_text()) | changes
        write_json(path, {key: value for key, value in content.items() if value is not None})

    return apply


BROKEN = [
    (lambda path: path.write_text("{"), CorruptArtifact, "not valid JSON"),
    (lambda path: path.unlink(), MissingArtifact, "no such run"),
    (change(schema="cwr-mech/run/0"), SchemaMismatch, "run/0"),
    (change(config=None), CorruptArtifact, "lacks 'config'"),
    (change(parent=None), CorruptArtifact, "lacks 'parent'"),
    (change(config={"name": "r", "wrold": {}}), ConfigError, "wrold"),
]


@pytest.mark.parametrize(("damage", "error", "message"), BROKEN)
def test_broken_manifests_are_named(
    folder: Path, damage: Callable[[Path], None], error: type[Exception], message: str
) -> None:
    damage(folder / "manifest.json")
    with pytest.raises(error, match=message):
        load_run(folder)


def lose_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def test_weights_and_settings_are_those_of_the_manifest(folder: Path) -> None:
    run = load_run(folder)
    run.model()
    config = checkpoint_path(folder, 0) / "config.json"
    whole = config.read_text()
    config.write_text(whole.replace("10000.0", "20000.0"))
    assert config.read_text() != whole
    with pytest.raises(CorruptArtifact, match="other settings than its run's"):
        run.model()
    config.write_text(whole)
    lose_a_bit(checkpoint_path(folder, 0) / "model.safetensors")
    with pytest.raises(CorruptArtifact, match="not those that were written"):
        run.model()
    write_json(folder / "manifest.json", {**run.manifest, "checkpoints": {}})
    assert load_run(folder).model() is not None, "a checkpoint that was never recorded: nothing to check by"


def test_a_base_that_is_trained_on_is_recorded_as_it_was_loaded(folder: Path, tmp_path: Path) -> None:
    """The weights at step 0 are loaded; then step 5 appears. The hash on record is that of step 0."""
    base = load_run(folder)
    step = base.last_step
    model = base.model(step)
    HookedQwen2(CONFIG.model, seed=5).save_pretrained(checkpoint_path(folder, 5))
    child = create_run(tmp_path / "child", CONFIG, model, base, step)
    assert child.manifest["parent"]["step"] == 0
    assert child.manifest["parent"]["sha256"] == sha256_file(checkpoint_path(folder, 0) / "model.safetensors")
    assert child.manifest["parent"]["sha256"] == child.sha256(0)
    assert base.sha256() != child.sha256(0), "control: the last checkpoint is another one"


METRICS = [
    ("\0" * 300 + "\n", 0),
    ("\0" * 300, 0),
    ("[1]\n3\nnull\n", 0),
    ('{"step": "one"}\n', 0),
    ('{"step": 1, "loss": NaN}\n', 0),
    ('{"step": 1, "loss": "low"}\n', 0),
    ('{"step": 1, "losses": [1]}\n', 0),
    ('{"step": 1, "scores": {"distance": "far"}}\n', 0),
    ("[" * 100_000 + "\n", 0),
    ('{"step": 1, "scores": {"distance": null}}\n', 1),
    ("\xff\xfe\n", 0),
]


@pytest.mark.parametrize(("damage", "more"), METRICS)
def test_lines_that_are_no_metrics_are_left_out(folder: Path, damage: str, more: int) -> None:
    good = '{"step": 1, "loss": 2.5}\n'
    (folder / "metrics.jsonl").write_text(
        good + damage + ("" if not damage.endswith("\n") else good), "latin-1"
    )
    kept = [line for line in load_run(folder).metrics() if line == {"step": 1, "loss": 2.5}]
    assert len(kept) == 1 + damage.endswith("\n")
    assert len(load_run(folder).metrics()) == len(kept) + more


def test_one_bad_folder_hides_no_run(folder: Path, tmp_path: Path) -> None:
    for name, content in (("foreign", "[]"), ("cut", '{"sch'), ("zeros", "\0" * 99), ("folder", None)):
        (tmp_path / name).mkdir()
        if content is None:
            (tmp_path / name / "manifest.json").mkdir()
        else:
            (tmp_path / name / "manifest.json").write_text(content)
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "nowhere" / "manifest.json").symlink_to("missing")
    (tmp_path / "task").mkdir()
    manifest = dict(load_run(folder).manifest)
    manifest["config"] = manifest["config"] | {"data": manifest["config"]["data"] | {"tasks": ["juggling"]}}
    write_json(tmp_path / "task" / "manifest.json", manifest)
    assert [run.name for run in readable_runs(tmp_path)] == ["r"]
    assert {path.name for path in newest_first(tmp_path)} == {
        "r",
        "foreign",
        "cut",
        "zeros",
        "folder",
        "task",
    }
    from cwr_mech_cli.runs import row

    said = {path.name: str(row(path)[1]) for path in newest_first(tmp_path)}
    assert "juggling" in said["task"]
    assert "not valid JSON" in said["zeros"]
    assert not any("\n" in line for line in said.values())


def test_a_run_begins_where_a_kill_left_only_parts_of_one(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    checkpoint_path(folder, 0).mkdir(parents=True)
    for name in (".lock", "manifest.json.part-elsewhere-1-1-0123abcd"):
        (folder / name).touch()
    require_free(folder)  # before anything is computed; training sweeps the part away
    (folder / "notes.txt").touch()
    with pytest.raises(ArtifactExists, match="is not a run"):
        require_free(folder)


def test_a_name_of_any_length_is_quoted_on_a_line_that_can_be_read(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["config"]["data"]["tasks"] = ["x" * 10_000]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"needs the task 'x{100}\.\.\.' \(10,000 characters\)") as caught:
        load_run(folder)
    assert len(str(caught.value)) < 500
    with pytest.raises(UnknownName, match=r"unknown task 'x{100}\.\.\.'") as unknown:
        get_task("x" * 10_000)
    assert len(unknown.value.message) < 200
    with pytest.raises(UnknownName, match="unknown task 'distanse'"):
        get_task("distanse")
