"""Has a change of the code changed a number? Record everything before, compare after.

    python tools/freeze.py record FILE     run a small pipeline and write what came out of it
    python tools/freeze.py compare FILE    run it again and print what differs; exit status 1 if anything does

The pipeline trains and fine-tunes tiny models and runs every analysis through the command line, in a
temporary folder. Kept are the weights of every checkpoint, the cached activations, the values, tables and
arrays of every result, digests of generated data for all tasks, groups, splits and protocols, digests of
worlds, and the results committed under reports/. Not kept are provenance, command lines, notes and times.

A step that only renames is proved, too: put the old and the new name into RENAMED. What is added (a column,
a result) is listed but is no difference. Equal to the last bit can only be what ran on the same machine with
the same libraries: record the reference from a worktree of the old code, with a copy of this script if the
old code has none (some 100 seconds of one core).
"""

import argparse
import hashlib
import io
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from importlib.metadata import entry_points
from itertools import product
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

import numpy as np

ROOT = Path(__file__).resolve().parents[1]

RENAMED: dict[str, str] = {
    "ci_lo": "lo",
    "ci_hi": "hi",
    "*_low": "*_lo",
    "*_high": "*_hi",
    "small-ft-distance-manifold": "small-ft-distance-on-manifold",
    "small-ft-distance+angle-pull": "small-ft-distance+angle-penalty",
    "follow": "iia",
    "stay": "unchanged",
    "error_to_donor": "error_to_source",
    "expected_to_donor": "expected_to_source",
    "swapped_donor": "swapped_source",
    "interchange/donor": "source",
    "subspaces/donor": "source",
    "controls/donor": "source",
    "arm": "condition",
    "arms": "conditions",
    "route=none": "unprojected",
    "route=manifold": "on-manifold",
    "route=complement": "off-manifold",
    "route=pull": "penalty",
}
"""Old name -> new name, since the code before the packages. "NAME" renames a result, table, column or array
wherever it occurs, "*END" the end of a name, "TABLE/COLUMN" a column of one table only, and "COLUMN=WORD" a
word in the cells of a column (COLUMN by its old name; a renamed kind of result is "kind=WORD")."""

TIMES = {"seconds", "rows_per_second", "per_second"}

TINY = "--set n_cities=64 --set n_new=8"
PARTS = "--subspace manifold,random --das 1"
OTHER = "--set train.seed=2 --set optimizer=muon"
ANATOMY = "zoo:small-ft-distance"
STEPS: tuple[tuple[str, ...], ...] = (
    (f"train --preset tiny {TINY}",),
    (f"train --preset tiny {TINY} --tasks distance,compass {OTHER} --out runs/two",),
    ("eval tiny two -n 16 --report r",),
    ("cache-acts tiny",),
    ("cache-acts two",),
    ("cka tiny two --draws 4 --report r",),
    ("probe tiny --layers 0,1 --prompts distance,angle --draws 2 --report r",),
    ("readout tiny --layers 0,1 --prompts distance,angle --report r", "runs"),  # once a part of probe
    ("similarity tiny two --draws 20 --report r",),
    ("surfacing tiny two --report r",),
    ("manifold tiny --report r",),
    (
        "erase tiny --layers 1 --tasks distance,compass --rows 20 --fit 50 --report r",
        "erase tiny --layers 1 --tasks distance,compass -n 20 --fit 50 --report r",
    ),
    ("timeline tiny --draws 2 --report r",),
    ("subspace tiny --tasks distance,angle --rows 128 --rank 3 --layers 0 --report r",),
    ("conflict tiny --tasks distance,angle --batch 5 --report r", "runs"),  # once a part of subspace
    ("finetune tiny --tasks angle --steps 8 --rows 200 --replay-rows 100",),
    ("finetune tiny --tasks distance --steps 8 --rows 200 --replay-rows 100",),
    ("finetune zoo:small --tasks distance --steps 3 --rows 200 --replay-rows 100 --route manifold",),
    ("finetune zoo:small --tasks distance,angle --steps 3 --rows 200 --replay-rows 100 --route pull",),
    ("transfer tiny -n 8 --report r",),
    ("trajectory tiny --prompts distance,angle --report r",),
    ("predict tiny --layer 0 --rows 600 --report r",),
    (f"patch zoo:small --task distance --pairs 8 --spans equals,swapped_last {PARTS} --report r",),
    (
        "patch-parts zoo:small --tasks angle --pairs 8 --report r",
        "patch zoo:small --task angle --pairs 8 --only-subspace --report r",
    ),
    ("sites zoo:small --tasks distance,compass --pairs 16 --report r",),
    ("patch-tasks zoo:small --tasks distance,compass --pairs 8 --report r",),
    ("locate tiny --tasks distance,angle --questions 8 --draws 20 --report r",),
    (f"anatomy {ANATOMY} --tasks distance,angle --rows 8 --report r",),
    ("report r --claims", "report r --routing", "report r"),
    ("report r --check",),
)
"""The commands of the pipeline. A step whose spelling changes keeps the old one: of a step's spellings the
first is run that the program accepts (a command line that it cannot read exits with 2)."""

Record = dict[str, Any]


def command(line: str) -> tuple[int, str]:
    """Run `cwr-mech LINE` in this process; returns the exit code and all it printed."""
    script = next(iter(entry_points(group="console_scripts", name="cwr-mech")))
    said = io.StringIO()
    sys.argv = ["cwr-mech", *shlex.split(line)]
    with redirect_stdout(said), redirect_stderr(said):
        try:
            script.load()()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, said.getvalue()


def pipeline() -> list[str]:
    """Run every step in the current folder; returns what the steps said of which all spellings failed."""
    failed = []
    for spellings in STEPS:
        started = time.process_time()
        for line in spellings:
            code, said = command(line)
            if code != 2:
                break
        if code:
            failed.append(f"failed   cwr-mech {line} exited with {code}: {said.strip()[-2000:]}")
        print(f"{time.process_time() - started:5.1f} s  cwr-mech {line}", file=sys.stderr)
    return failed


def digest(array: np.ndarray) -> str:
    """Kind, shape and content of an array, without its name."""
    array = np.ascontiguousarray(array)
    head = f"{array.dtype.str} {array.shape} "
    return head + hashlib.sha256(array.tobytes()).hexdigest()


def flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The leaves of nested dictionaries, by their path; what is a time is left out."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in TIMES:
                yield from flat(item, f"{path}/{key}")
    else:
        yield path, value


def result(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    """Kind, values, columns of tables and digests of arrays of one saved result; text arrays as they are."""
    content = json.loads(path.read_text(encoding="utf-8"))
    yield f"{name}/kind", content["kind"]
    yield from flat(content["values"], f"{name}/values")
    for table, rows in content["tables"].items():
        columns = {key: [row[key] for row in rows] for key in rows[0]} if rows else {"rows": 0}
        yield from flat(columns, f"{name}/{table}")
    if content["arrays"]:
        with np.load(path.with_suffix(".npz")) as arrays:
            for key in set(arrays.files) - TIMES:
                array = arrays[key]
                yield f"{name}/arrays/{key}", array.tolist() if array.dtype.kind == "U" else digest(array)


def weights(folder: Path) -> Iterator[tuple[str, str]]:
    """One digest a checkpoint, over its tensors by name."""
    from safetensors.numpy import load_file

    for path in sorted(folder.glob("*/checkpoints/*/model.safetensors")):
        tensors = load_file(path)
        text = "".join(f"{name} {digest(tensors[name])}\n" for name in sorted(tensors))
        yield f"weights/{path.parts[-4]}/{path.parts[-2]}", hashlib.sha256(text.encode()).hexdigest()


def activations(folder: Path) -> Iterator[tuple[str, Any]]:
    """One digest a data set of every HDF5 file; texts as they are."""
    import h5py

    for path in sorted(folder.glob("*.h5")):
        with h5py.File(path) as file:
            names: list[str] = []
            file.visit(names.append)
            for name in names:
                if isinstance(file[name], h5py.Dataset):
                    array = np.asarray(file[name])
                    text = array.dtype.hasobject  # an array of pointers
                    value = array.astype("U").tolist() if text else digest(array)
                    yield f"activations/{path.stem}/{name}", value


STREAMS = (("old", "train"), ("new", "train"), ("all", "train"), ("old", "val"), ("old", "test"))


def data() -> Iterator[tuple[str, str]]:
    """Digests of worlds, and of 300 generated rows for every task, protocol, group and split."""
    from cwr_mech import TASKS, generate, load_world
    from cwr_mech.config import PROTOCOLS

    for source in ("cities", "uniform", "grid", "clusters", "ring"):
        yield f"worlds/{source}", load_world(source=source, n_cities=200).sha256
    for new in ("atlantis", "scattered", "holdout:Japan"):
        yield f"worlds/{new}", load_world(n_cities=500, new=new, n_new=20).sha256
    world = load_world(n_cities=200, new="atlantis", n_new=20)
    for task, (name, protocol), (group, split) in product(TASKS, PROTOCOLS.items(), STREAMS):
        rows = generate(world, task, 300, group=group, split=split, protocol=protocol)
        yield f"data/{task}/{name}/{group}/{split}", rows_digest(rows)
    for task in TASKS:
        yield f"data/{task}/noise", rows_digest(generate(world, task, 300, label_noise=0.3))


def rows_digest(rows: Any) -> str:
    parts = (rows.tokens, rows.lengths, rows.answer_start, rows.task, rows.cities, rows.values)
    return hashlib.sha256(" ".join(map(digest, parts)).encode()).hexdigest()


def record() -> tuple[Record, list[str]]:
    """Everything of this tree by path, and the steps that failed."""
    kept: Record = {}
    for path in sorted((ROOT / "reports").glob("*/results/*.json")):
        kept |= dict(result(path, f"reports/{path.parts[-3]}/{path.stem}"))
    kept |= dict(data())
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        Path("zoo").symlink_to(ROOT / "zoo")
        failed = pipeline()
        for path in sorted(Path("reports").glob("*/results/*.json")):
            kept |= dict(result(path, f"results/{path.stem}"))
        kept |= dict(weights(Path("runs"))) | dict(activations(Path("activations")))
    return json.loads(json.dumps(kept)), failed


def new_name(name: str) -> str:
    """The name of today for a name of the reference."""
    for old, new in RENAMED.items():
        if old.startswith("*") and name.endswith(old[1:]):
            return name.removesuffix(old[1:]) + new[1:]
    return RENAMED.get(name, name)


def renamed(path: str, value: Any) -> tuple[str, Any]:
    """`path` and `value` of the reference in the words of today."""
    *_, parent, name = path.split("/")
    parts = [new_name(part) for part in path.split("/")]
    parts[-1] = RENAMED.get(f"{parent}/{name}", parts[-1])
    if isinstance(value, list):
        value = [RENAMED.get(f"{name}={cell}", cell) for cell in value]
    elif isinstance(value, str):
        value = RENAMED.get(f"{name}={value}", value)
    return "/".join(parts), value


def difference(before: Any, after: Any) -> str:
    """How two leaves differ, in a few words."""
    if isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            return f"{len(before)} rows before, {len(after)} now"
        pairs = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
        numbers = [abs(a - b) for a, b in pairs if isinstance(a, int | float) and isinstance(b, int | float)]
        largest = f", by {max(numbers):.3g} at most" if numbers else ""
        return f"{len(pairs)} of {len(before)} rows, first {pairs[0][0]!r} -> {pairs[0][1]!r}{largest}"
    return f"{before!r} -> {after!r}"


def compare(before: Record, after: Record) -> tuple[list[str], list[str]]:
    """Lines about what changed or is gone, and lines about what was added."""
    # What still has its old name, such as committed results, is compared under it.
    old = dict(
        (path, value) if after.get(path) == value else renamed(path, value) for path, value in before.items()
    )
    changed = [f"gone     {path}" for path in old if path not in after]
    both = [path for path in old if path in after and old[path] != after[path]]
    changed += [f"changed  {path}: {difference(old[path], after[path])}" for path in both]
    return changed, [f"added    {path}" for path in after if path not in old]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("file", type=Path, help="the reference, JSON")
    wanted = parser.parse_args()
    before = json.loads(wanted.file.read_text(encoding="utf-8")) if wanted.action == "compare" else {}
    after, failed = record()
    if wanted.action == "record":
        if failed:
            sys.exit("\n".join(failed))
        wanted.file.write_text(json.dumps(after), encoding="utf-8")
        print(f"{len(after)} leaves written to {wanted.file}")
        return
    changed, added = compare(before, after)
    changed += failed
    print("\n".join([*added, *changed, f"{len(before)} leaves, {len(changed)} changed, {len(added)} added"]))
    sys.exit(bool(changed))


if __name__ == "__main__":
    main()
