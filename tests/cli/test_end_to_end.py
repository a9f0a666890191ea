"""The command line from an empty folder to a checked report, on the tiny preset, in one process."""

import json
import re
from pathlib import Path

from command_line import Cli
from paths import ROOT

from cwr_mech.report.contents import all_shows
from cwr_mech.results import load_result

README = ROOT / "README.md"


def test_from_nothing_to_a_checked_report(cli: Cli, tmp_path: Path) -> None:
    # Nothing is there yet: every command says what to do first.
    for command in ("eval", "cache-acts", "cka", "probe", "patch", "report"):
        code, _, err = cli(command)
        assert (code, "cwr-mech train" in err) == (2, True), (command, err)
    assert "no runs in runs/ yet" in cli("runs")[1]

    code, out, err = cli("train", "--preset", "tiny")
    assert code == 0, err
    assert "run     runs/tiny" in out
    code, _, err = cli("train", "--preset", "tiny")
    assert code == 2
    assert "runs/tiny holds a run already" in err
    assert "tiny" in cli("runs")[1]

    for command in (
        ("eval", "-n", "8", "--cities", "old"),
        ("cache-acts",),
        ("cka", "--draws", "2"),
        ("probe", "--layers", "1", "--prompts", "distance,angle", "--draws", "2"),
    ):
        code, out, err = cli(*command)
        assert code == 0, (command, err)
    assert Path("activations/tiny-step60.h5").is_file()

    # The toy model answers nothing: patching says so instead of drawing an empty figure.
    code, _, err = cli("patch", "--pairs", "8")
    assert code == 2
    assert re.search("0 usable distance pairs", err)

    code, out, err = cli("report")
    assert code == 0, err
    assert "reports/tiny/report.md" in out
    text = Path("reports/tiny/report.md").read_text()
    shown = [all_shows()[kind].title for kind in ("probe", "eval", "train", "cka")]
    assert [title for title in shown if f"## {title}" not in text] == []

    curves = load_result("reports/tiny/results/train-tiny.json")
    metrics = [json.loads(line) for line in Path("runs/tiny/metrics.jsonl").read_text().splitlines()]
    losses = [line for line in metrics if "loss" in line]
    assert curves.arrays["loss"].tolist() == [line["loss"] for line in losses]
    assert curves.values["rows"] == 60 * 28
    assert {row["task"] for row in curves.tables["tasks"]} == set(losses[0]["losses"])

    code, out, _ = cli("report", "--check")
    assert (code, "follows from its results" in out) == (0, True)
    page = Path("reports/tiny/report.md")
    page.write_text(page.read_text().replace("0.", "9.", 1))
    code, out, err = cli("report", "--check", "tiny")
    assert code == 2
    assert "report.md line" in out
    assert "cwr-mech report tiny" in err

    # The library example of the README runs as it stands.
    example = README.read_text().split("```python\n")[1].split("```")[0]
    scope: dict[str, object] = {}
    exec(example.replace('"zoo:small"', '"tiny"'), scope)
    assert scope["result"].kind == "probe"  # type: ignore[attr-defined]
    assert scope["model"].cfg.n_layers == 2  # type: ignore[attr-defined]


def test_readme_names_every_command() -> None:
    from cwr_mech_cli.main import COMMANDS

    text = README.read_text()
    named = set(re.findall(r"^\| `cwr-mech ([a-z-]+)", text, flags=re.MULTILINE))
    assert named == {row.name for row in COMMANDS}
