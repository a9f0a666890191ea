"""The check for a card runs on a processor too, in small."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from cwr_mech.training.runs import load_run

SPEC = importlib.util.spec_from_file_location(
    "gpu_check", Path(__file__).parents[1] / "tools" / "gpu_check.py"
)
assert SPEC is not None
assert SPEC.loader is not None
gpu_check = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gpu_check)


def test_without_a_card_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main(["--out", str(tmp_path / "o.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "o.json").exists()


@pytest.mark.slow
def test_every_part_runs_on_a_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out, run = tmp_path / "o.json", tmp_path / "run"
    assert gpu_check.main(["--small", "--out", str(out), "--run", str(run), "--seconds", "2"]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["part"] for row in rows] == ["equality", *["speed", "trainer"] * 2, "large", "paper"]
    assert 0 <= rows[0]["largest_relative_difference"] < 1e-4
    assert all(row["rows_per_second"] > 0 for row in rows[1:])
    assert load_run(run).state == "interrupted"
