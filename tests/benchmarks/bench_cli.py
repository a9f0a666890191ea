"""Process seconds of what must answer at once: mistakes, help, lists and dry runs; `runs` with 500 runs.

Seconds are those of the processor (user and system), the median of REPEATS starts of the command, so that a
busy machine does not matter. Nothing is compared: the case says what the time should stay under.

    python tests/benchmarks/bench_cli.py
"""

import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
REPEATS = 3
MANY = 500
MISTAKE, LIST = 0.6, 1.0
# Command line, seconds that it should stay under.
CASES = (
    ("--help", MISTAKE),
    ("train --help", MISTAKE),
    ("tarin", MISTAKE),
    ("train --preset tny", MISTAKE),
    ("train --tasks dist", MISTAKE),
    ("train --set learning_rate=1", MISTAKE),
    ("train --out runs/run-000", MISTAKE),
    ("train --world nowhere.csv", MISTAKE),
    ("probe smal", MISTAKE),
    ("patch zoo:small --task dist", MISTAKE),
    ("finetune zoo:small --tasks dist", MISTAKE),
    ("zoo check zoo:smal", MISTAKE),
    ("zoo list", LIST),
    ("runs", LIST),
    ("train --dry-run", LIST),
    ("train --show-settings", LIST),
    ("finetune zoo:small --dry-run", LIST),
    ("sweep zoo --dry-run", LIST),
)


def main(argv: list[str]) -> list[dict[str, object]]:
    """A row for each case."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        make_runs(folder, MANY)
        return [timed(line, limit, folder) for line, limit in CASES]


def make_runs(folder: Path, n: int) -> None:
    """`n` finished runs with the settings and the learning curve of zoo:small, without weights."""
    zoo = ROOT / "zoo" / "small"
    manifest = json.loads((zoo / "manifest.json").read_text(encoding="utf-8"))
    del manifest["zoo"]
    curve = (zoo / "metrics.jsonl").read_text(encoding="utf-8")
    for index in range(n):
        run = folder / "runs" / f"run-{index:03d}"
        (run / "checkpoints" / "step-0008000").mkdir(parents=True)
        (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        (run / "metrics.jsonl").write_text(curve, encoding="utf-8")


def timed(line: str, limit: float, folder: Path) -> dict[str, object]:
    """Median processor seconds of a command line, and its peak memory."""
    seconds = []
    for _ in range(REPEATS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "cwr_mech_cli.main", *shlex.split(line)],
            cwd=folder,
            env=os.environ | {"CWR_MECH_HOME": str(ROOT)},
            capture_output=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    median = statistics.median(seconds)
    note = f"under {limit:g}" if median < limit else f"over {limit:g}"
    return {"case": line, "seconds": round(median, 2), "note": note}


if __name__ == "__main__":
    for row in main(sys.argv[1:]):
        print(f"{row['seconds']:>6} s  {row['note']:<10} cwr-mech {row['case']}")
