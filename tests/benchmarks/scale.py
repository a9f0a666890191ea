"""How seconds and memory grow with what a user may have much of: places, activations, checkpoints, runs.

Each measurement is a process of its own: processor seconds (user and system) and peak memory beyond what was
taken before the work. Of three sizes the exponent is the slope of log seconds on log size: 1 is linear, 2
quadratic, near 0 a cost that is all start. Not part of `make bench`: it writes up to 0.6 GB (`--full`: 5 GB).
`--keep` writes what it finds to scale.json.

    python tests/benchmarks/scale.py [--full] [--keep] [places activations checkpoints runs]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from bench_cli import make_runs
from rich.console import Console
from rich.table import Table
from run import keep

ROOT = Path(__file__).parents[2]
FIGURES = Path(__file__).with_name("scale.json")
CITIES, WIDTH = 5120, 256
"""Of an activation file: each hook has 5 MB of them in float32."""


def places(n: int) -> Callable[[], object]:
    """A world of `n` places from a CSV, and ten thousand distance questions about it."""
    rng = np.random.default_rng(0)
    xy = rng.integers((-1800, -900), (1801, 901), size=(n, 2))
    lines = (f"place {i},{x},{y}" for i, (x, y) in enumerate(xy.tolist()))
    Path("places.csv").write_text("\n".join(["name,x,y", *lines]) + "\n", encoding="utf-8")
    from cwr_mech.data.rows import generate
    from cwr_mech.world.cities import load_world

    return lambda: generate(load_world(source="places.csv", id_digits=6), "distance", 10_000)


def activations(mb: int) -> Callable[[], object]:
    """A file of `mb` megabytes, written; then opened, checked, and probed at one place."""
    from cwr_mech.activations.reader import ActivationStore
    from cwr_mech.activations.writer import store_writer
    from cwr_mech.analysis.probing.probe import TrainingCities, cross_decode, score
    from cwr_mech.world.cities import load_world

    world = load_world(source="uniform", n_cities=CITIES)
    hooks = [f"blocks.{layer}.hook_resid_post" for layer in range(mb // 5)]

    def work() -> float:
        with store_writer("big.h5", world, hooks, ["distance"], ["last_digit"], n_bytes=mb * 2**20) as writer:
            for layer, hook in enumerate(hooks):
                values = np.random.default_rng(layer).standard_normal((CITIES, WIDTH), "f4")
                values[:, :2] += world.xy / 500
                writer.put((hook, "distance", "last_digit"), 0, values)
        store = ActivationStore("big.h5", world=world)
        known = TrainingCities.of([store])
        decoded = cross_decode(store.get(0, "distance", "last_digit"), known.xy[None], known.fold)[0]
        return score(decoded, known.xy).r2

    return work


def checkpoints(n: int) -> Callable[[], object]:
    """A run of `n` checkpoints: opened, listed, and the learning curve read."""
    make_runs(Path(), 1)
    run = Path("runs/run-000")
    weights = ROOT / "zoo" / "small" / "checkpoints" / "step-0008000"
    for step in range(n):
        folder = run / "checkpoints" / f"step-{step:07d}"
        folder.mkdir()
        for file in weights.iterdir():
            os.link(file, folder / file.name) if same_disk(file) else (folder / file.name).symlink_to(file)
    line = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    (run / "metrics.jsonl").write_text(f"{line}\n" * n, encoding="utf-8")
    from cwr_mech.training.runs import load_run

    def work() -> object:
        found = load_run("run-000")
        return found.steps, found.last_step, found.metrics()

    return work


def same_disk(file: Path) -> bool:
    """Whether a hard link to `file` can be made here."""
    return file.stat().st_dev == Path().stat().st_dev


def runs(n: int) -> Callable[[], object]:
    """The table of `n` runs."""
    make_runs(Path(), n)
    command = [sys.executable, "-m", "cwr_mech_cli.main", "runs"]
    return partial(subprocess.run, command, capture_output=True, check=True)


CASES: dict[str, tuple[Callable[[int], Callable[[], object]], str, tuple[int, ...], tuple[int, ...]]] = {
    "places": (places, "places", (20_000, 63_000, 200_000), (20_000, 63_000, 200_000)),
    "activations": (activations, "MB", (50, 160, 500), (500, 1600, 5000)),
    "checkpoints": (checkpoints, "checkpoints", (10, 100, 1000), (10, 100, 1000)),
    "runs": (runs, "runs", (50, 160, 500), (50, 160, 500)),
}
"""What is made and done, the unit of a size, and the sizes: usual ones, and those of --full."""


def measure(name: str, size: int) -> dict[str, float]:
    """Seconds and memory of one size, in this process and its children, in the current folder."""
    work = CASES[name][0](size)
    before, start = peak(), cpu()
    work()
    return {"seconds": cpu() - start, "memory_mb": peak() - before}


def cpu() -> float:
    """Processor seconds of this process and of children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak() -> float:
    """Peak memory of this process and of its largest child, in megabytes."""
    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return sum(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1024


def exponent(sizes: tuple[int, ...], values: list[float]) -> float:
    """Slope of log value on log size."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-3)), 1)[0])


def rows_of(name: str, *, full: bool) -> list[dict[str, object]]:
    """A row for each size, the last with the exponents."""
    unit, sizes = CASES[name][1], CASES[name][3 if full else 2]
    rows: list[dict[str, object]] = []
    for size in sizes:
        with TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
            done = subprocess.run(
                [sys.executable, __file__, "--one", name, str(size)],
                cwd=folder,
                env=os.environ | {"OMP_NUM_THREADS": "1", "CWR_MECH_HOME": folder},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
        rows.append({"case": f"{size:,} {unit}", **json.loads(done.stdout.splitlines()[-1]), "note": ""})
    seconds, memory = ([float(str(row[key])) for row in rows] for key in ("seconds", "memory_mb"))
    slopes = exponent(sizes, seconds), exponent(sizes, memory)
    rows[-1]["note"] = "seconds ~ size^{:.2f}, memory ~ size^{:.2f}".format(*slopes)
    return rows


def main(argv: list[str]) -> None:
    """Print the table of the cases named, all by default."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("cases", nargs="*", choices=[[], *CASES])
    options.add_argument("--full", action="store_true")
    options.add_argument("--keep", action="store_true")
    given = options.parse_args(argv)
    table = Table(box=None, header_style="dim")
    for column in ("case", "seconds", "memory_mb", "note"):
        table.add_column(column, justify="left" if column in ("case", "note") else "right")
    found = {name: rows_of(name, full=given.full) for name in given.cases or CASES}
    for rows in found.values():
        for row in rows:
            table.add_row(row["case"], f"{row['seconds']:.2f}", f"{row['memory_mb']:.0f}", row["note"])
    Console(width=110).print(table)
    if given.keep:
        keep(found, FIGURES)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]))))
    else:
        main(sys.argv[1:])
