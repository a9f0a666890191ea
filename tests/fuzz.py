"""Feed mutated files and odd command lines to the program: it works, or says one line. It never does more.

    python tests/fuzz.py --kind all --n 5000 --seed 0

Kinds: h5 (activation files), result (JSON and npz), run (run folders), zoo (models of the zoo), hf
(checkpoint folders), csv (cities of a user), plan (of
a user) and cli (command lines). Input number i of a kind and seed is
always the same one; --only I runs it alone and shows what it raised. Inputs run in a child process whose
memory and time are bounded, so that a crash of a library ends that child only. The exit code is 1 after any
traceback, hang (20 s of processor time, or a minute without any), use of more than 2 GB, file written
outside, or half-written file.

Every 100 inputs a line on stderr says how far it is. Ctrl-C, a termination and the end of --minutes print the
tables for what has been tried until then and exit with 130. With --log FILE each outcome is a line of that
file at once, and a run with the same file goes on where the last one ended, however it ended.

The last table says which changed inputs were accepted. These are accepted knowingly:

kind    what                                            why
h5      values and unused attributes, once another      the digest is the file's last line, which HDF5 drops
        program has opened the file for writing         when it writes; structure and world are still checked
result  the same content written otherwise; a change    the digest is of the content, and no secret: it tells
        with its digest made anew                       of accidents, not of forgery
run     tokenizer and generation files, earlier         only what is asked for is read; the weights in use are
        checkpoints, a broken state beside a whole one  checked, the older state is taken
run     metrics lines lost, doubled or with extras      a log without a digest; what is no number is left out
hf      weights, settings left to their default,        a Hugging Face folder records no digest
        tokenizer and generation files
csv     any other table of cities                       it is another world, with another digest
plan    any other plan                                  it is what was asked for
cli     odd words that make a command after all         it is what was asked for
"""

import argparse
import faulthandler
import io
import json
import math
import os
import random
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from itertools import pairwise
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}

import torch
from fuzzing.lines import listing, odd_line, run_line
from fuzzing.mutations import mutate
from fuzzing.plain import content_of
from fuzzing.seen import FAULTS, Log, Seen
from fuzzing.uses import USES
from fuzzing.whole import Base

from cwr_mech.errors import CwrError, UserError

CPU_SECONDS, WALL_SECONDS, MEMORY = 20, 60, 2_000_000_000
IDLE_SECONDS = 0.2
"""A child that computes less than this in WALL_SECONDS waits for something."""
KINDS = ("h5", "result", "run", "zoo", "hf", "csv", "plan", "cli")


def try_line(rng: random.Random, base: Base, scratch: Path) -> Seen:
    """Run an odd command line in a folder with one run, beside a file that it must leave alone."""
    work = scratch / "work"
    shutil.copytree(base.place / "cli", work)
    (scratch / "outside.txt").write_text("precious")
    words = odd_line(rng)
    os.chdir(work)
    before, around = listing(work), listing(scratch)
    said = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(said):
        import cwr_mech_cli.common as common

        common.console.file, common.err_console.file = sys.stdout, sys.stderr
        code = run_line(words)
    text, name = said.getvalue(), f"cwr-mech {words[0][:20] if words else ''}"
    about = f"{words} -> {code} {text[-1500:]}"
    # Where a line says itself that its file is to go (--out ../x), the file is no stray.
    asked = [os.path.normpath(f"work/{value}") for flag, value in pairwise(words) if flag == "--out"]
    strange = [
        path
        for path in listing(scratch)
        if path not in around and not any(Path(path).is_relative_to(one) for one in ("work", *asked))
    ]
    if strange or (scratch / "outside.txt").read_text() != "precious":
        return Seen("outside", name, f"{about} {strange}")
    after = listing(work)
    parts = [path for path in after if ".part-" in path or ".next.npz" in path]
    # Whole activation files are a cache that the next command reads, whatever became of this one.
    left = [
        path
        for path in after
        if path not in before and not (work / path).is_dir() and not path.startswith("activations/")
    ]
    if parts or (code == 2 and left):
        return Seen("half-written", name, f"{about} {parts or left}")
    if "Traceback" in text or "bug in cwr-mech" in text:
        return Seen("traceback", name, about)
    return Seen("refused" if code else "accepted", name, about)


def try_file(kind: str, rng: random.Random, base: Base, scratch: Path) -> Seen:
    """Mutate a copy of the whole files and use it; reading must leave it as it is."""
    folder = scratch / kind
    shutil.copytree(base.place / kind, folder)
    whole = content_of(folder)
    name = "none" if rng.random() < 0.02 else mutate(kind, folder, rng)
    if content_of(folder) == whole:  # zeros in place of zeros, say
        name = "none"
    before = listing(scratch)
    try:
        with redirect_stdout(io.StringIO()):
            USES[kind](folder)
        outcome, said = "same" if name == "none" else "accepted", ""
    except UserError as error:
        said = str(error)
        outcome = "refused" if "\n" not in said and len(said) < 2000 else "unclear"
    except CwrError as error:
        outcome, said = "unclear", str(error)
    if listing(scratch) != before:
        return Seen("half-written", name, said)
    return (
        Seen("traceback", name, f"refused as it is: {said}")
        if (name, outcome) == ("none", "refused")
        else Seen(outcome, name, said)
    )


def try_input(kind: str, seed: int, number: int, base: Base) -> Seen:
    """Make input `number` of a kind and see what becomes of it."""
    rng = random.Random(f"{seed} {kind} {number}")
    with tempfile.TemporaryDirectory(dir=base.place) as scratch:
        try:
            if kind == "cli":
                return try_line(rng, base, Path(scratch))
            return try_file(kind, rng, base, Path(scratch))
        except MemoryError as error:
            return Seen("memory", "?", repr(error))
        except Exception as error:
            import traceback

            return Seen("traceback", type(error).__name__, traceback.format_exc()[-2500:])
        finally:
            os.chdir(base.place)


def child(kind: str, seed: int, numbers: list[int], base: Base, pipe: int) -> None:
    """Try inputs one after the other, each within its time, all within the memory; report through a pipe."""
    used = int(re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers, and ends its child
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.disable()
    devnull = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 2):
        os.dup2(devnull, stream)
    for number in numbers:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # SIGPROF ends the process
        seen = try_input(kind, seed, number, base)
        seen = seen._replace(said=seen.said[:8000])
        os.write(pipe, json.dumps({"number": number, **seen._asdict()}).encode() + b"\n")
    os._exit(0)


def lines_of(process: int, pipe: int) -> Iterator[bytes]:
    """What a child says; one that neither speaks nor computes for WALL_SECONDS gets SIGALRM, which ends it.

    Time alone would not do: on a busy machine every input takes long.
    """
    rest, spent = b"", -math.inf
    while True:
        if select.select([pipe], [], [], WALL_SECONDS)[0]:
            if not (piece := os.read(pipe, 1 << 16)):
                return
            *lines, rest = (rest + piece).split(b"\n")
            yield from lines
        elif (now := processor_seconds(process)) - spent < IDLE_SECONDS:
            os.kill(process, signal.SIGALRM)
        else:
            spent = now


def processor_seconds(process: int) -> float:
    """What a process has computed so far (proc(5): fields 14 and 15 of its stat, in ticks)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def try_all(kind: str, seed: int, numbers: list[int], base: Base) -> Iterator[tuple[int, Seen]]:
    """Every one of these inputs; a child that dies is followed by another, from the next input on."""
    while numbers:
        some, tried = numbers[:400], 0
        read, write = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(read)
            child(kind, seed, some, base, write)
        os.close(write)
        whole = False
        try:
            for line in lines_of(process, read):
                about = json.loads(line)
                tried += 1
                yield about["number"], Seen(about["outcome"], about["mutation"], about["said"])
            whole = True
        finally:
            os.close(read)
            if not whole:  # the caller stopped early
                os.kill(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
        if status:
            number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            hung = number in (signal.SIGPROF, signal.SIGALRM)
            yield some[tried], Seen("hang" if hung else "crash", "?", f"signal {number}, status {status}")
            tried += 1
        numbers = numbers[tried:]


def work(kinds: tuple[str, ...], n: int, log: Log, base: Base, minutes: float) -> bool:
    """Try the inputs that the log does not hold yet; whether all have been tried when this ends."""
    begin = time.monotonic()
    for kind in kinds:
        known = log.found.setdefault(kind, {})
        missing = [number for number in range(n) if number not in known]
        tries = try_all(kind, log.seed, missing, base)
        try:
            for number, seen in tries:
                log.add(kind, number, seen)
                if len(known) % 100 == 0:
                    faults = sum(seen.outcome in FAULTS for seen in known.values())
                    spent = time.monotonic() - begin
                    print(f"{kind} {len(known)} of {n}, {faults} faults, {spent:.0f} s", file=sys.stderr)
                if time.monotonic() - begin > 60 * minutes:
                    return False
        except KeyboardInterrupt:
            return False
        finally:
            tries.close()
    return True


def main(arguments: list[str] | None = None) -> int:
    """Try, count, show; 1 where there is a fault, 130 where it was stopped before the end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kind", choices=("all", *KINDS), default="all")
    parser.add_argument(
        "--n", type=int, default=1000, help="inputs of each kind; of all kinds together for 'all'"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this input alone, in this process, with what it raised")
    parser.add_argument("--log", type=Path, help="file of outcomes, from which the next run goes on")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this time")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    kinds = KINDS if options.kind == "all" else (options.kind,)
    log = Log(options.seed, options.log)
    with tempfile.TemporaryDirectory() as place:
        base = Base(Path(place))
        if options.only is not None:
            print(*try_input(kinds[0], options.seed, options.only, base), sep="\n")
            return 0
        whole = work(kinds, -(-options.n // len(kinds)), log, base, options.minutes)
    return show({kind: sorted(log.found.get(kind, {}).items()) for kind in kinds}) or (0 if whole else 130)


def show(found: dict[str, list[tuple[int, Seen]]]) -> int:
    """Print the tables; 1 where there is a fault."""
    columns = ("same", "accepted", "refused", *FAULTS)
    print("kind    inputs " + " ".join(f"{name:>12}" for name in columns))
    for kind, results in found.items():
        counts = Counter(seen.outcome for _, seen in results)
        print(f"{kind:7} {len(results):6} " + " ".join(f"{counts[name]:12}" for name in columns))
    print("\naccepted although changed (nothing records what these should be):")
    accepted = Counter(
        (kind, s.mutation) for kind, results in found.items() for _, s in results if s.outcome == "accepted"
    )
    for (kind, mutation), count in sorted(accepted.items()):
        print(f"  {kind:7} {count:6}  {mutation}")
    faults = [
        (kind, number, seen)
        for kind, results in found.items()
        for number, seen in results
        if seen.outcome in FAULTS
    ]
    for kind, number, seen in faults[:40]:
        print(f"\n{kind} {number}: {seen.outcome}, {seen.mutation}\n{seen.said}")
    print(f"\n{sum(map(len, found.values()))} inputs, {len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
