"""Run folders: what they hold, what is said when they are broken."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cwr_mech.artifacts import write_json
from cwr_mech.config import ModelConfig, RunConfig, WorldConfig
from cwr_mech.errors import ArtifactExists, ConfigError, CorruptArtifact, MissingArtifact, SchemaMismatch
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.training.folders import latest_run
from cwr_mech.training.runs import (
    checkpoint_path,
    create_run,
    load_run,
    update_manifest,
)

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


def test_checkpoints_that_are_not_there(folder: Path) -> None:
    run = load_run(folder)
    with pytest.raises(MissingArtifact, match="steps: 0"):
        run.checkpoint(5)
    checkpoint_path(folder, 0).rename(folder / "elsewhere")
    with pytest.raises(MissingArtifact, match="no checkpoint yet"):
        run.model()


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
