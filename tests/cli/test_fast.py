"""What must answer at once: mistakes, lists and dry runs. They do not import torch, which takes seconds.

How long they take is printed by tests/benchmarks/bench_cli.py; no test has a time limit.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cwr_mech_cli.quick import check_words
from paths import ROOT

from cwr_mech.errors import MissingArtifact
from cwr_mech.training.folders import HOME

PLAN = '[[run]]\ntasks = ["distance"]\n[[run]]\nbase = "small-distance"\ntasks = ["angle"]\n'
# Command line, exit code, words of the answer.
ANSWERS: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("train --preset tny", 2, ("unknown preset 'tny'", "did you mean 'tiny'?")),
    ("train --tasks dist", 2, ("unknown task 'dist'", "did you mean 'distance'?")),
    ("train --set learning_rate=1", 2, ("unknown setting 'learning_rate'", "train.lr", "--show-settings")),
    ("train --set warmpu=1", 2, ("did you mean train.warmup?",)),
    ("train --set n_layers=none", 2, ("setting 'model.n_layers' cannot be None",)),
    ("train --out taken", 2, ("taken holds a run already",)),
    ("train --out mine", 2, ("mine exists and is not a run",)),
    ("train --out 'runs/a b'", 2, ("'a b' cannot name a run", "letters, digits")),
    ("train --out .", 2, ("'.' cannot name a run",)),
    ("finetune zoo:small --out runs/naïve --dry-run", 2, ("'naïve' cannot name a run",)),
    ("train --world nowhere.csv", 2, ("nowhere.csv",)),
    ("train --world noname.csv", 2, ("noname.csv", "name")),
    ("train --config nowhere.toml", 2, ("no such file: nowhere.toml",)),
    ("train --protocol lax", 2, ("unknown protocol 'lax'",)),
    ("train --resume --out nothing", 2, ("no such run: 'nothing'",)),
    ("train --dry-run", 0, ("would train runs/quick", "compass alone for the first 1,000 steps")),
    ("train --preset tiny --show-settings", 0, ("train.lr", "peak learning rate", "0.001")),
    ("finetune small", 2, ("no such run: 'small'", "did you mean 'zoo:small'?")),
    ("finetune zoo:small --tasks dist", 2, ("unknown task 'dist'",)),
    ("finetune zoo:small --replay some", 2, ("unknown replay 'some'",)),
    ("finetune zoo:small --route no", 2, ("unknown route 'no'",)),
    ("finetune zoo:small --new mars", 2, ("mars",)),
    ("finetune zoo:small --out taken", 2, ("taken holds a run already",)),
    ("finetune zoo:small --dry-run", 0, ("set of small-ft-distance", "120,000 rows")),
    ("sweep nope", 2, ("unknown plan 'nope'", "zoo")),
    ("sweep trial --preset tny", 2, ("unknown preset 'tny'",)),
    (
        "sweep trial --dry-run",
        0,
        ("7 runs", "tiny-ft-angle", "failed: tiny: runs/tiny was trained"),
    ),
    ("sweep plan.toml --dry-run", 0, ("2 runs", "small-distance-ft-angle", "when zoo:small was trained")),
    ("sweep bent.toml --dry-run", 2, ("bent.toml: setting 'seeds' cannot be 3",)),
    ("sweep trial --emit flow --together 2", 2, ("--emit and --together exclude each other",)),
    ("sweep trial --engine snakemake --together 2", 2, ("--together and --engine snakemake exclude",)),
    ("sweep trial --only tiny --together 2", 2, ("--only and --together",)),
    ("sweep trial --device cuda", 2, ("--device cuda goes with --together",)),
    ("runs", 0, ("taken", "done")),
    ("zoo list", 0, ("zoo:small", "zoo:small-ft-compass", "models")),
    ("zoo feed", 2, ("unknown action 'feed'",)),
    ("zoo check zoo:smal", 2, ("did you mean 'zoo:small'?",)),
    ("zoo check smal", 2, ("did you mean 'zoo:small'?",)),
    ("zoo add nothing", 2, ("no such run: 'nothing'",)),
    ("data --task dist", 2, ("unknown task 'dist'",)),
    ("report nothing", 2, ("there are no results",)),
    ("eval zoo:smal", 2, ("did you mean 'zoo:small'?",)),
    ("eval zoo:small --tasks dist", 2, ("unknown task 'dist'",)),
    ("plot nothing", 2, ("no such run: 'nothing'",)),
    ("cache-acts nothing", 2, ("no such run: 'nothing'",)),
    ("cache-acts zoo:small --tasks dist", 2, ("unknown task 'dist'",)),
    ("cache-acts zoo:small --n-cities 9", 2, ("--n-cities is about --template without --prompts",)),
    ("cache-acts zoo:small --template '{name}' --tasks angle", 2, ("--tasks is about questions",)),
    ("probe smal", 2, ("did you mean 'zoo:small'?",)),
    ("patch zoo:smal", 2, ("did you mean 'zoo:small'?",)),
    ("similarity zoo:smal", 2, ("did you mean 'zoo:small'?",)),
)
SERVER = """
import json, os, shlex, sys
from cwr_mech_cli import main  # what every command imports; each line runs in a fork of this
for number, line in enumerate(sys.stdin.read().splitlines()):
    if os.fork():
        os.wait()
        continue
    out = os.open(f"answer{number}", os.O_WRONLY | os.O_CREAT)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.argv = ["cwr-mech", *shlex.split(line)]
    try:
        code = main.main()
    except SystemExit as end:
        code = end.code
    heavy = [name for name in ("torch", "transformers", "sklearn", "matplotlib") if name in sys.modules]
    print("\\n" + json.dumps([code or 0, heavy]), flush=True)
    os._exit(0)
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, a folder that is none, a plan, and the zoo of this repository in reach."""
    folder = tmp_path_factory.mktemp("here")
    model = json.loads((ROOT / "zoo/small/manifest.json").read_text())
    for place in (folder / "taken", folder / "runs" / "taken", folder / "runs" / "tiny"):
        place.mkdir(parents=True)
        (place / "manifest.json").write_text(json.dumps(model | {"zoo": {}} | {"state": "done"}))
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("not yours")
    (folder / "plan.toml").write_text(PLAN)
    (folder / "bent.toml").write_text("seeds = 3\n" + PLAN)
    (folder / "noname.csv").write_text("lon,lat\n1,2\n")
    return folder


@pytest.fixture(scope="module")
def answers(here: Path) -> dict[str, str]:
    """Command line -> all it printed in a process of its own; the last line is what it imported."""
    environment = os.environ | {"COLUMNS": "120", HOME: str(ROOT)}
    lines = [line for line, _, _ in ANSWERS]
    subprocess.run(
        [sys.executable, "-c", SERVER],
        input="\n".join(lines),
        cwd=here,
        env=environment,
        text=True,
        check=True,
    )
    return {line: (here / f"answer{number}").read_text() for number, line in enumerate(lines)}


@pytest.mark.parametrize(("line", "code", "words"), ANSWERS, ids=[line for line, _, _ in ANSWERS])
def test_answers_without_torch(answers: dict[str, str], line: str, code: int, words: tuple[str, ...]) -> None:
    said = answers[line].splitlines()
    exit_code, heavy = json.loads(said[-1])
    text = " ".join(" ".join(said[:-1]).split())
    assert exit_code == code, text
    for word in words:
        assert word in text, text
    assert heavy == []


@pytest.mark.parametrize("name", ["small", "zoo:small"])
def test_models_to_check_are_found_with_or_without_their_prefix(name: str) -> None:
    check_words(["zoo", "check", name])
    with pytest.raises(MissingArtifact):
        check_words(["zoo", "check", f"{name}er"])


def test_a_command_that_needs_torch_is_seen_to(here: Path) -> None:
    """Control: the list of what was imported is not always empty."""
    line = "cache-acts zoo:small --layers 9"
    environment = os.environ | {"COLUMNS": "120", HOME: str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", SERVER], input=line, cwd=here, env=environment, text=True, check=True
    )
    assert "torch" in json.loads((here / "answer0").read_text().splitlines()[-1])[1]
