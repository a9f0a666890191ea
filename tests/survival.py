"""Kill commands with SIGKILL wherever it may hurt, run them again, and compare what they leave behind.

Every stage that writes is first run unbroken, which gives the digests of its files. Then it is run again and
again from the same start; each time it is killed at some point, looked at (nothing half-written may be
visible), possibly killed again, and at last run to its end, whose files must be the same to the bit, with no
temporary file left beside them.

Two kinds of points: just before or after the k-th rename or flush (where files become visible), and after a
random time between the first file and the end. A kill that came before the first file or after the last is
told apart from those in the middle of the work. A kill hits the command alone; what it started must end by
itself, or that is a fault. Processes are forked from a server that has imported everything: a kill costs
little.

    python tests/survival.py --kills 200   200 kills over all stages
    python tests/survival.py --kills 8     a short form; tests/training/test_survival.py runs one like it

The stage "snakemake" is there where the command `snakemake` is; its files must be those of "sweep".
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PRELOAD = [
    "cwr_mech.training.loop",
    "cwr_mech.activations.extract",
    "cwr_mech.report.write",
    "cwr_mech_cli.main",
    "transformers",
]
TINY = ("--set", "steps=12", "--set", "save_every=3", "--set", "eval_every=6", "--set", "eval_rows=2")
TINY_SET = ("--rows", "60", "--replay-rows", "20", "--steps", "8", "--set", "save_every=3")


@dataclass(frozen=True)
class Stage:
    """A command that writes. `before` are the commands whose output it starts from; `again` is what a user
    types after it was stopped, when that is not the same command; `made` are patterns of the files and
    folders it makes, `like` another stage that makes the same ones; `timed`: other processes do the work, so
    only kills after a time can hit it."""

    name: str
    before: tuple[tuple[str, ...], ...]
    command: tuple[str, ...]
    made: tuple[str, ...]
    again: Callable[[Path], tuple[str, ...]] | None = None
    like: str = ""
    timed: bool = False


def resumed(command: tuple[str, ...], run: str) -> Callable[[Path], tuple[str, ...]]:
    """`command`, with --resume once the run has begun."""

    def again(folder: Path) -> tuple[str, ...]:
        begun = (folder / "runs" / run / "manifest.json").exists()
        return (*command, "--resume") if begun else command

    return again


TRAIN = ("train", "--preset", "tiny", *TINY, "--out", "runs/a")
RESUME = ("train", "--resume", "--out", "runs/a")
TUNE = ("finetune", "a", "--tasks", "distance,compass", *TINY_SET, "--out", "runs/b")
EVAL = ("eval", "a", "-n", "8", "--cities", "old", "--tasks", "distance", "--report", "r")
WRITERS = ("--tasks", "compass", "--set", "steps=400", "--set", "lr=3e-3", "--set", "n_cities=16")
PATCH = ("patch", "p", "--task", "compass", "--pairs", "8", "--components", "resid_post", "--report", "r")
SWEEP = ("sweep", "trial", *TINY, "--jobs", "2")
SNAKE = (*SWEEP, "--engine", "snakemake")
CACHE = ("cache-acts", "a", "--tasks", "distance")
CKA = ("cka", "a", "--draws", "1", "--report", "r")
OTHER = ("train", "--preset", "tiny", *TINY, "--set", "train.seed=7", "--out", "runs/o")
ADD = ("zoo", "add", "a", "--name", "m")
REPLACE = ("zoo", "add", "o", "--name", "m", "--force")
SWEPT = ("runs/*/checkpoints", "runs/*/metrics.jsonl")

STAGES = (
    Stage(
        "train",
        (),
        TRAIN,
        ("runs/a/checkpoints", "runs/a/metrics.jsonl"),
        lambda folder: RESUME if (folder / "runs/a/manifest.json").exists() else TRAIN,
    ),
    Stage("finetune", (TRAIN,), TUNE, ("runs/b/checkpoints", "runs/b/metrics.jsonl"), resumed(TUNE, "b")),
    Stage("cache-acts", (TRAIN,), CACHE, ("activations",)),
    Stage("cka", (TRAIN, CACHE), CKA, ("reports",)),
    Stage("cka again", (TRAIN, CACHE, (*CKA, "--draws", "2")), CKA, ("reports",)),
    Stage(
        "zoo add",
        (TRAIN,),
        ADD,
        ("zoo",),
        lambda folder: (*ADD, "--force") if (folder / "zoo/m/manifest.json").exists() else ADD,
    ),
    Stage("zoo add --force", (TRAIN, OTHER, ADD), REPLACE, ("zoo",)),
    Stage("eval", (TRAIN,), EVAL, ("reports",)),
    Stage("report", (TRAIN, EVAL), ("report", "r"), ("reports",)),
    Stage(
        "patch",
        (("train", "--preset", "tiny", *TINY, *WRITERS, "--out", "runs/p"),),
        PATCH,
        ("reports",),
        lambda folder: (*PATCH, "--resume"),
    ),
    Stage("sweep", (), SWEEP, SWEPT, timed=True),
    *([Stage("snakemake", (), SNAKE, SWEPT, like="sweep", timed=True)] if shutil.which("snakemake") else []),
)


@dataclass
class Tally:
    """What happened: kills that hit, those of them amid the work, kills that came too late, and faults."""

    kills: int = 0
    amid: int = 0
    late: int = 0
    trials: int = 0
    faults: list[str] = field(default_factory=list)


END_SECONDS = 120.0
"""What a killed command has started must have ended after this time."""

STEADY = ("step", "loss", "losses", "grad_norm", "scores", "scores_new")
"""What a metrics line says that does not depend on the clock."""


def digests(folder: Path, made: tuple[str, ...]) -> dict[str, str]:
    """sha256 of every file that a stage made, without what killed processes may leave beside them."""
    return {
        path.relative_to(folder).as_posix(): digest(path)
        for path in files(folder, made)
        if ".part-" not in path.as_posix() and not path.name.startswith(".")
    }


def files(folder: Path, made: tuple[str, ...]) -> list[Path]:
    """Every file that a stage made, whole or not."""
    places = [place for pattern in made for place in sorted(folder.glob(pattern))]
    below = [path for place in places for path in (sorted(place.rglob("*")) if place.is_dir() else [place])]
    return [path for path in below if path.is_file()]


def digest(path: Path) -> str:
    """sha256 of a file's content; of metrics without rates and times."""
    content = path.read_bytes()
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in content.decode().split("\n")[:-1]]
        content = json.dumps([{key: line.get(key) for key in STEADY} for line in lines]).encode()
    return hashlib.sha256(content).hexdigest()


def left_over(folder: Path) -> list[str]:
    """Temporary files that are still there."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return sorted(name for name in names if ".part-" in name or name.endswith(".next.npz"))


def half_files(folder: Path, expected: dict[str, str], before: dict[str, str]) -> Iterator[str]:
    """Files that are visible under their final name and are neither as in the end nor as they were before."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if ".part-" in name or not path.is_file():
            continue
        if path.suffix == ".json":
            try:
                json.loads(path.read_text())
            except ValueError:
                yield f"{name} is no JSON"
        whole = (expected.get(name), before.get(name))
        if name in expected and path.suffix != ".jsonl" and digest(path) not in whole:
            yield f"{name} has other content than in the end"
        if path.name == "model.safetensors" and not (path.parent / "config.json").exists():
            yield f"{path.parent} is half a checkpoint"


def living_in(folder: Path) -> list[int]:
    """Processes whose current folder this is; those that only wait to be noticed (zombies) have none."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):  # it has ended, or is another user's
            found += [int(place.parent.name)] if os.readlink(place) == str(folder.resolve()) else []
    return found


def _child(folder: str, command: tuple[str, ...], kill_at: int | None, report: str) -> None:
    """Run a command in a process of its own; with `kill_at`, die at that rename or flush."""
    os.chdir(folder)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    seen = 0

    def counted(function: Callable) -> Callable:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal seen
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **kwargs)
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    os.replace, os.fsync = counted(os.replace), counted(os.fsync)
    sys.argv = ["cwr-mech", *command]
    import torch
    from cwr_mech_cli.main import main

    torch.set_num_threads(1)
    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    sys.stdout.flush()
    Path(report).write_text(str(seen))
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


class Lab:
    """Runs commands in folders of their own and kills them."""

    def __init__(
        self, place: Path, rng: random.Random, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self.place, self.rng, self.say = place, rng, say
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOAD)
        self.expected: dict[str, dict[str, str]] = {}
        """Stage -> digests of what it makes when nobody kills it."""
        self.starts: dict[tuple[tuple[str, ...], ...], Path] = {}

    def start(
        self, folder: Path, command: tuple[str, ...], kill_at: int | None = None
    ) -> multiprocessing.process.BaseProcess:
        """Begin a command in a process of its own."""
        (self.place / "seen.txt").unlink(missing_ok=True)
        arguments = (str(folder), command, kill_at, str(self.place / "seen.txt"))
        process = self.context.Process(target=_child, args=arguments)
        process.start()
        return process

    def run(
        self, folder: Path, command: tuple[str, ...], kill_at: int | None = None, after: float | None = None
    ) -> int:
        """Exit code of a command, killed at a point, or `after` some seconds."""
        process = self.start(folder, command, kill_at)
        process.join(after)
        process.kill()  # if it has not ended
        process.join()
        until = time.monotonic() + END_SECONDS
        while living := living_in(folder):  # what it started may save its state before it ends
            if time.monotonic() > until:
                raise RuntimeError(f"{' '.join(command)} was killed, and {living} live on in {folder}")
            time.sleep(0.02)
        return process.exitcode or 0

    def whole(self, stage: Stage, start: Path) -> tuple[dict[str, str], float, float, int]:
        """Run `stage` unbroken: digests, seconds to the first file and to the end, renames and flushes."""
        folder = self.place / f"{stage.name}-whole"
        shutil.copytree(start, folder)
        before, begin = files(folder, stage.made), time.monotonic()
        process, first = self.start(folder, stage.command), 0.0
        while process.is_alive():
            process.join(0.02)
            if not first and files(folder, stage.made) != before:
                first = time.monotonic() - begin
        end = time.monotonic() - begin
        found = digests(folder, stage.made)
        if process.exitcode or not found:
            raise RuntimeError(f"{stage.name}: exit {process.exitcode}\n{(folder / 'log.txt').read_text()}")
        return found, first, end, int((self.place / "seen.txt").read_text())

    def prepared(self, commands: tuple[tuple[str, ...], ...]) -> Path:
        """A folder in which these commands have been run, each beginning of them once; to be copied."""
        if commands not in self.starts:
            folder = self.place / f"start-{len(self.starts)}"
            self.starts[commands] = folder
            if not commands:
                folder.mkdir()
                return folder
            shutil.copytree(self.prepared(commands[:-1]), folder)
            if code := self.run(folder, commands[-1]):
                said = (folder / "log.txt").read_text()
                raise RuntimeError(f"{' '.join(commands[-1])}: exit {code}\n{said}")
        return self.starts[commands]

    def trials(self, stage: Stage, kills: int, tally: Tally) -> None:
        """Kill `stage` until `kills` more have hit, some at a point, some after a time."""
        start = self.prepared(stage.before)
        expected, first, end, points = self.whole(stage, start)
        self.expected[stage.name] = expected
        if stage.like in self.expected and self.expected[stage.like] != expected:
            tally.faults.append(f"{stage.name} makes other files than {stage.like}")
        before = digests(start, stage.made)
        goal, kills_before, amid_before = tally.kills + kills, tally.kills, tally.amid
        while tally.kills < goal:
            folder = self.place / "trial"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(start, folder)
            tally.trials += 1
            known, n_faults = files(folder, stage.made), len(tally.faults)
            command = stage.command
            for _ in range(min(self.rng.choice((1, 1, 2, 3)), goal - tally.kills)):
                by_point = not stage.timed and self.rng.random() < 0.6
                place = self.rng.randint(1, points) if by_point else None
                code = self.run(folder, command, place, None if by_point else self.rng.uniform(first, end))
                killed = code == -signal.SIGKILL
                tally.kills += killed
                tally.late += not killed
                begun = files(folder, stage.made) != known
                tally.amid += killed and begun and digests(folder, stage.made) != expected
                tally.faults += [f"{stage.name}: {fault}" for fault in half_files(folder, expected, before)]
                command = stage.again(folder) if stage.again else stage.command
            if code := self.run(folder, command):
                said = (folder / "log.txt").read_text()[-600:]
                tally.faults.append(f"{stage.name}: exit {code}: {said}")
            tally.faults += [f"{stage.name}: {name} is left over" for name in left_over(folder)]
            if (found := digests(folder, stage.made)) != expected:
                differ = sorted({name for name, _ in set(found.items()) ^ set(expected.items())})
                tally.faults.append(f"{stage.name}: {differ} differ")
            if len(tally.faults) > n_faults:
                shutil.copytree(folder, self.place / f"fault-{len(tally.faults)}")
        self.say(
            f"{stage.name}: {tally.kills - kills_before} kills, {tally.amid - amid_before} of them amid the "
            f"work; {len(expected)} files the same every time; {len(tally.faults)} faults so far"
        )


def main() -> None:
    """Kill, compare, count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=56, help="kills that must hit, over all stages")
    parser.add_argument("--stages", default=",".join(stage.name for stage in STAGES))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    stages = [stage for stage in STAGES if stage.name in options.stages.split(",")]
    tally = Tally()
    with tempfile.TemporaryDirectory() as place:
        lab = Lab(Path(place), random.Random(options.seed), print)
        for index, stage in enumerate(stages):
            lab.trials(stage, (options.kills * (index + 1)) // len(stages) - tally.kills, tally)
    print(
        f"{tally.kills} kills in {tally.trials} trials, {tally.amid} of them amid the work; {tally.late} "
        f"more came too late; {len(tally.faults)} faults"
    )
    for fault in tally.faults:
        print(f"  {fault}")
    sys.exit(1 if tally.faults else 0)


if __name__ == "__main__":
    main()
