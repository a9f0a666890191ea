"""Kill commands with SIGKILL wherever it may hurt, run them again, and compare what they leave behind.

Every stage that writes is first run unbroken, which gives the digests of its files. Then it is run again and
again from the same start; each time it is killed at some point, looked at (nothing half-written may be
visible), possibly killed again, and at last run to its end, whose files must be the same to the bit, with no
temporary file left beside them.

Two kinds of points: just before or after the k-th rename or flush (where files become visible), and after a
random part of the processor time between the first file and the end, which a busy machine does not move. A
kill that came before the first file or after the last is told apart from those in the middle of the work. A
kill hits the command alone; what it started must end by itself, or that is a fault. Processes are forked from
a server that has imported everything, those of a sweep too: a kill costs little.

    python tests/survival.py --kills 200   200 kills over all stages
    python tests/survival.py --kills 8     a short form; tests/training/test_survival.py runs one like it

Each stage is told when it is done; the table of all stands at the end, after Ctrl-C or a termination too.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import walk_packages

import cwr_mech_cli

import cwr_mech
from cwr_mech.experiments import processes

OURS = (cwr_mech, cwr_mech_cli)
PRELOAD = [
    *(module.name for ours in OURS for module in walk_packages(ours.__path__, f"{ours.__name__}.")),
    *(
        "transformers",
        "transformers.models.qwen2",
        "scipy.stats",
        "sklearn.linear_model",
        "PIL.PngImagePlugin",
    ),
]
"""What every command would import anew."""
Clock = Callable[[int], float]
"""Process -> seconds."""
TINY = ("--set", "steps=12", "--set", "save_every=3", "--set", "eval_every=6", "--set", "eval_rows=2")
TINY_SET = ("--rows", "60", "--replay-rows", "20", "--steps", "8", "--set", "save_every=3")


@dataclass(frozen=True)
class Stage:
    """A command that writes. `before` are the commands whose output it starts from; `again` is what a user
    types after it was stopped, when that is not the same command; `made` are patterns of the files and
    folders it makes, `like` another stage that makes the same ones; `timed`: other processes do the work, so
    only kills after a time on the clock can hit it."""

    name: str
    before: tuple[tuple[str, ...], ...]
    command: tuple[str, ...]
    made: tuple[str, ...]
    again: Callable[[Path], tuple[str, ...]] | None = None
    like: str = ""
    timed: bool = False

    @property
    def clock(self) -> "Clock":
        """Seconds by which kills are timed: the command's own processor time, or the clock on the wall."""
        return (lambda process: time.monotonic()) if self.timed else processor_seconds


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
SWEEP = ("sweep", "trial", "--set", "steps=6", "--set", "eval_every=6", "--set", "eval_rows=2", "--jobs", "2")
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
    """What happened to a stage: kills that hit, those amid the work, those that came too late; trials, files
    it makes, faults."""

    kills: int = 0
    amid: int = 0
    late: int = 0
    trials: int = 0
    files: int = 0
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


def processor_seconds(process: int) -> float:
    """What a process has computed so far (/proc/PID/schedstat: nanoseconds first); 0 when it has ended."""
    with suppress(OSError):
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9
    return 0.0


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
    processes.start = Forked  # type: ignore[assignment]
    code = _main(command)
    Path(report).write_text(str(seen))
    os._exit(code)


def _main(command: Sequence[str]) -> int:
    """Exit code of the program, run in this process."""
    import torch
    from cwr_mech_cli.main import main

    torch.set_num_threads(1)
    sys.argv = ["cwr-mech", *command]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    finally:
        sys.stdout.flush()
    return 0


class Forked:
    """What `cwr_mech.experiments.processes.start` gives, but forked from here, where all is imported."""

    def __init__(self, argv: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        begin, self.returncode = processes.ends_with_parent(), None
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            begin()
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            os._exit(_main(argv[argv.index("cwr_mech_cli.main") + 1 :]))

    def poll(self, flags: int = os.WNOHANG) -> int | None:
        if self.returncode is None and (ended := os.waitpid(self.pid, flags))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def wait(self, timeout: float = 0) -> int | None:
        return self.poll(0)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


class Lab:
    """Runs commands in folders of their own and kills them."""

    def __init__(self, place: Path, rng: random.Random) -> None:
        self.place, self.rng = place, rng
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
        self,
        folder: Path,
        command: tuple[str, ...],
        kill_at: int | None = None,
        after: float | None = None,
        clock: Clock = processor_seconds,
    ) -> int:
        """Exit code of a command, killed at a point, or `after` some seconds by the `clock`."""
        process = self.start(folder, command, kill_at)
        begin = clock(process.pid or 0)
        while after is not None and process.is_alive() and clock(process.pid or 0) - begin < after:
            process.join(0.005)
        process.join(0 if after is not None else None)
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
        before, first, end = files(folder, stage.made), 0.0, 0.0
        process = self.start(folder, stage.command)
        begin = stage.clock(process.pid or 0)
        while process.is_alive():
            process.join(0.005)
            end = max(end, stage.clock(process.pid or 0) - begin)
            if not first and files(folder, stage.made) != before:
                first = end
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
        """Kill `stage` until that many have hit, some at a point, some after a time; count into `tally`."""
        start = self.prepared(stage.before)
        expected, first, end, points = self.whole(stage, start)
        self.expected[stage.name] = expected
        tally.files = len(expected)
        if stage.like in self.expected and self.expected[stage.like] != expected:
            tally.faults.append(f"it makes other files than {stage.like}")
        before = digests(start, stage.made)
        while tally.kills < kills:
            folder = self.place / "trial"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(start, folder)
            tally.trials += 1
            known, n_faults = files(folder, stage.made), len(tally.faults)
            command = stage.command
            for _ in range(min(self.rng.choice((1, 1, 2, 3)), kills - tally.kills)):
                by_point = not stage.timed and self.rng.random() < 0.6
                place = self.rng.randint(1, points) if by_point else None
                after = None if by_point else self.rng.uniform(first, end)
                code = self.run(folder, command, place, after, stage.clock)
                killed = code == -signal.SIGKILL
                tally.kills += killed
                tally.late += not killed
                begun = files(folder, stage.made) != known
                tally.amid += killed and begun and digests(folder, stage.made) != expected
                tally.faults += half_files(folder, expected, before)
                command = stage.again(folder) if stage.again else stage.command
            if code := self.run(folder, command):
                tally.faults.append(f"exit {code}: {(folder / 'log.txt').read_text()[-600:]}")
            tally.faults += [f"{name} is left over" for name in left_over(folder)]
            if (found := digests(folder, stage.made)) != expected:
                differ = sorted({name for name, _ in set(found.items()) ^ set(expected.items())})
                tally.faults.append(f"{differ} differ")
            if len(tally.faults) > n_faults:
                shutil.copytree(folder, self.place / f"fault-{stage.name}-{len(tally.faults)}")


def shown(tallies: Mapping[str, Tally]) -> Iterator[str]:
    """A table, a line for each stage, and what was wrong."""
    columns = ("kills", "amid", "late", "trials", "files", "faults")
    yield f"{'stage':16}" + "".join(f"{name:>8}" for name in columns)
    rows = {
        name: (seen.kills, seen.amid, seen.late, seen.trials, seen.files, len(seen.faults))
        for name, seen in tallies.items()
    }
    for name, row in (*rows.items(), ("all", tuple(map(sum, zip(*rows.values(), strict=True))))):
        yield f"{name:16}" + "".join(f"{count:8}" for count in row)
    yield from (f"  {name}: {fault}" for name, seen in tallies.items() for fault in seen.faults)


def main() -> None:
    """Kill, compare, count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=56, help="kills that must hit, over all stages")
    parser.add_argument("--stages", default=",".join(stage.name for stage in STAGES))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    stages = [stage for stage in STAGES if stage.name in options.stages.split(",")]
    tallies: dict[str, Tally] = {}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as place, suppress(KeyboardInterrupt):
        lab = Lab(Path(place), random.Random(options.seed))
        for index, stage in enumerate(stages):
            begin, tally = time.monotonic(), tallies.setdefault(stage.name, Tally())
            part = range(options.kills * index // len(stages), options.kills * (index + 1) // len(stages))
            try:
                lab.trials(stage, len(part), tally)
            except RuntimeError as error:  # the other stages are still to be seen
                tally.faults.append(str(error))
            took = time.monotonic() - begin
            print(f"{stage.name}: {tally.kills} kills, {len(tally.faults)} faults, {took:.0f} s", flush=True)
    print(*shown(tallies), sep="\n")
    whole = len(tallies) == len(stages)
    sys.exit(1 if any(tally.faults for tally in tallies.values()) else 0 if whole else 130)


if __name__ == "__main__":
    main()
