"""Kill commands with SIGKILL wherever it may hurt, run them again, and compare what they leave behind.

Every stage that writes is first run unbroken, which gives the digests of its files. Then it is run again and
again from the same start; each time it is killed at some point, looked at (nothing half-written may be
visible), possibly killed again, and at last run to its end, whose files must be the same to the bit.

Two kinds of points: just before or after the k-th rename or flush (where files become visible), and after a
random time. Processes are forked from a server that has imported everything, so that a kill costs little.

    python tests/survival.py               at least 50 kills over all stages
    python tests/survival.py --kills 8     a short form; tests/test_survival.py runs one like it
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
from dataclasses import dataclass, field
from pathlib import Path

PRELOAD = ["cwr_mech.training", "cwr_mech.extraction", "cwr_mech.report", "cwr_mech_cli.main", "transformers"]
TINY = ("--set", "steps=12", "--set", "save_every=3", "--set", "eval_every=6", "--set", "eval_rows=2")
TINY_SET = ("--rows", "60", "--replay-rows", "20", "--steps", "8", "--set", "save_every=3")


@dataclass(frozen=True)
class Stage:
    """A command that writes. `before` are the commands whose output it starts from; `again` is what a user
    types after it was stopped, when that is not the same command; `made` says where its files lie."""

    name: str
    before: tuple[tuple[str, ...], ...]
    command: tuple[str, ...]
    made: tuple[str, ...]
    again: Callable[[Path], tuple[str, ...]] | None = None


def resumed(command: tuple[str, ...], run: str) -> Callable[[Path], tuple[str, ...]]:
    """`command`, with --resume once the run has begun."""

    def again(folder: Path) -> tuple[str, ...]:
        begun = (folder / "runs" / run / "manifest.json").exists()
        return (*command, "--resume") if begun else command

    return again


TRAIN = ("train", "--preset", "tiny", *TINY, "--out", "runs/a")
RESUME = ("train", "--resume", "--out", "runs/a")
TUNE = ("finetune", "a", "--tasks", "distance,compass", *TINY_SET, "--out", "runs/b")
EVAL = ("eval", "a", "-n", "8", "--groups", "old", "--tasks", "distance", "--report", "r")
WRITERS = ("--tasks", "distance", "--set", "steps=300", "--set", "eval_every=300", "--set", "lr=3e-3")
PATCH = ("patch", "p", "--tolerance", "9", "--pairs", "8", "--components", "resid_post", "--report", "r")

STAGES = (
    Stage(
        "train",
        (),
        TRAIN,
        ("runs/a/checkpoints",),
        lambda folder: RESUME if (folder / "runs/a/manifest.json").exists() else TRAIN,
    ),
    Stage("finetune", (TRAIN,), TUNE, ("runs/b/checkpoints",), resumed(TUNE, "b")),
    Stage("cache-acts", (TRAIN,), ("cache-acts", "a", "--tasks", "distance"), ("activations",)),
    Stage("eval", (TRAIN,), EVAL, ("reports",)),
    Stage("report", (TRAIN, EVAL), ("report", "r"), ("reports",)),
    Stage(
        "patch",
        (("train", "--preset", "tiny", *TINY, *WRITERS, "--out", "runs/p"),),
        PATCH,
        ("reports",),
        lambda folder: (*PATCH, "--resume"),
    ),
    Stage(
        "sweep",
        (),
        ("sweep", "trial", *TINY, "--jobs", "2"),
        tuple(f"runs/tiny{name}/checkpoints" for name in ("", "-angle", "-ft-angle", "-ft-distance")),
    ),
)


@dataclass
class Tally:
    """What happened: kills that hit, kills that came too late, and what was wrong."""

    kills: int = 0
    late: int = 0
    trials: int = 0
    faults: list[str] = field(default_factory=list)


def digests(folder: Path, made: tuple[str, ...]) -> dict[str, str]:
    """sha256 of every file that a stage made, without what killed processes may leave beside them."""
    files = [path for place in made for path in sorted((folder / place).rglob("*")) if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if ".part-" not in path.as_posix() and not path.name.startswith(".")
    }


def half_files(folder: Path, expected: dict[str, str]) -> Iterator[str]:
    """Files that are visible under their final name and are not whole."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if ".part-" in name or not path.is_file():
            continue
        if path.suffix == ".json":
            try:
                json.loads(path.read_text())
            except ValueError:
                yield f"{name} is no JSON"
        if path.name == "model.safetensors" and name in expected:
            if hashlib.sha256(path.read_bytes()).hexdigest() != expected[name]:
                yield f"{name} holds other weights"
            if not (path.parent / "config.json").exists():
                yield f"{path.parent} is half a checkpoint"


def _child(folder: str, command: tuple[str, ...], kill_at: int | None, report: str) -> None:
    """Run a command in a process of its own; with `kill_at`, die at that rename or flush."""
    os.setpgid(0, 0)
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

    def run(
        self, folder: Path, command: tuple[str, ...], kill_at: int | None = None, after: float | None = None
    ) -> tuple[int, float, int]:
        """(exit code, seconds, renames and flushes). Killed at a point, or `after` some seconds."""
        report = self.place / "seen.txt"
        report.unlink(missing_ok=True)
        process = self.context.Process(target=_child, args=(str(folder), command, kill_at, str(report)))
        start = time.monotonic()
        process.start()
        process.join(after)
        if process.is_alive():
            try:
                os.killpg(process.pid or 0, signal.SIGKILL)
            except ProcessLookupError:  # it had not yet made its own group
                process.kill()
            process.join()
        seconds = time.monotonic() - start
        return process.exitcode or 0, seconds, int(report.read_text()) if report.exists() else 0

    def prepared(self, stage: Stage) -> Path:
        """A folder in which the commands before `stage` have been run."""
        folder = self.place / f"{stage.name}-start"
        folder.mkdir()
        for command in stage.before:
            code, _, _ = self.run(folder, command)
            if code:
                raise RuntimeError(f"{' '.join(command)}: exit {code}\n{(folder / 'log.txt').read_text()}")
        return folder

    def trials(self, stage: Stage, kills: int, tally: Tally) -> None:
        """Kill `stage` until `kills` more have hit, half of them at a point, half after a time."""
        start = self.prepared(stage)
        whole = self.place / f"{stage.name}-whole"
        shutil.copytree(start, whole)
        code, seconds, points = self.run(whole, stage.command)
        expected = digests(whole, stage.made)
        if code or not expected:
            raise RuntimeError(f"{stage.name}: exit {code}\n{(whole / 'log.txt').read_text()}")
        goal, hits = tally.kills + kills, 0
        while tally.kills < goal:
            folder = self.place / "trial"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(start, folder)
            tally.trials += 1
            wanted = min(self.rng.choice((1, 1, 2, 3)), goal - tally.kills)
            command, done = stage.command, False
            for _ in range(wanted):
                by_point = points > 0 and self.rng.random() < 0.6
                place = self.rng.randint(1, points) if by_point else None
                after = None if by_point else self.rng.uniform(0, seconds)
                code, _, _ = self.run(folder, command, place, after)
                if code == -signal.SIGKILL:
                    tally.kills += 1
                    hits += 1
                else:
                    tally.late += 1
                    done = code == 0
                tally.faults += [f"{stage.name}: {fault}" for fault in half_files(folder, expected)]
                if done:
                    break
                command = stage.again(folder) if stage.again else stage.command
            if not done:
                code, _, _ = self.run(folder, command)
                if code:
                    tally.faults.append(
                        f"{stage.name}: exit {code}: {(folder / 'log.txt').read_text()[-600:]}"
                    )
            if (found := digests(folder, stage.made)) != expected:
                differ = sorted(set(found.items()) ^ set(expected.items()))
                tally.faults.append(f"{stage.name}: {sorted({name for name, _ in differ})} differ")
            if tally.faults:
                shutil.copytree(folder, self.place / f"fault-{len(tally.faults)}", dirs_exist_ok=True)
        self.say(
            f"{stage.name}: {hits} kills, {points} points, {len(expected)} files, {len(tally.faults)} faults"
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
    print(f"{tally.kills} kills in {tally.trials} trials, {tally.late} too late; {len(tally.faults)} faults")
    for fault in tally.faults:
        print(f"  {fault}")
    sys.exit(1 if tally.faults else 0)


if __name__ == "__main__":
    main()
