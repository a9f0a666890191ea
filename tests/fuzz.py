"""Feed mutated files and odd command lines to the program: it works, or says one line. It never does more.

    python tests/fuzz.py --kind all --n 5000 --seed 0

Kinds: h5 (activation files), result (JSON and npz), run (run folders), hf (checkpoint folders), csv (cities
of a user) and cli (command lines). Input number i of a kind and seed is always the same one; --only I runs
it alone and shows what it raised. Inputs run in a child process whose memory and time are bounded, so that
a crash of a library ends that child only. The exit code is 1 after any traceback, hang (20 s of processor
time, or a minute of waiting), use of more than 2 GB, file written outside, or half-written file.

The last table says which changed inputs were accepted: those that hold nothing to check them by.
"""

import argparse
import faulthandler
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}

import h5py
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from cwr_mech.activations.reader import ActivationStore
from cwr_mech.activations.writer import write_store
from cwr_mech.config import ModelConfig, RunConfig, TrainConfig, WorldConfig
from cwr_mech.errors import CwrError, UserError
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.results import Result, load_result
from cwr_mech.training.loop import train
from cwr_mech.training.runs import load_run
from cwr_mech.training.state import find_state
from cwr_mech.world.cities import load_world

CPU_SECONDS, WALL_SECONDS, MEMORY = 20, 60, 2_000_000_000
FAULTS = ("traceback", "hang", "memory", "crash", "outside", "half-written", "unclear")
KINDS = ("h5", "result", "run", "hf", "csv", "cli")
MODEL = ModelConfig(n_layers=1, d_model=16, n_heads=2, d_mlp=16)
WEIRD: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**63, 10**30, 1e400, float("nan"), 0.5, "", "x", "a\nb", "a\0b", "\ud800",
    "../x",
    "/etc/passwd", "\u202e\u0301", "x" * 10_000, [], [1], [[]], {}, {"a": 1}, [None] * 50,
)  # fmt: skip


class Seen(NamedTuple):
    """What became of an input: `outcome` is "same" (unchanged), "accepted", "refused" or one of FAULTS."""

    outcome: str
    mutation: str
    said: str


@dataclass
class Base:
    """Whole files to start from, made once."""

    place: Path
    world: Any = field(init=False)

    def __post_init__(self) -> None:
        self.world = load_world(WorldConfig(source="uniform", n_cities=30))
        rng = np.random.default_rng(0)
        keys = [(hook, "distance", site) for hook in ("hook_embed", "unembed.hook_in") for site in ("a", "b")]
        arrays = {key: rng.normal(size=(30, 6)) for key in keys}
        write_store(self.place / "h5" / "a.h5", self.world, arrays, attrs={"run": "tiny", "step": 4})
        table = {"t": [{"x": 1.5, "y": "a"}, {"x": None, "y": "b"}]}
        saved = {
            "m": rng.normal(size=(4, 5)),
            "names": np.array(["one", "three"]),
            "ok": np.array([True, False]),
        }
        result = Result(
            "cka", "cwr-mech cka", {"a": "0" * 64}, {"runs": ["a"]}, {"n": 3}, table, saved, ["note"]
        )
        result.save(self.place / "result", "r")
        config = RunConfig(name="tiny", world=WorldConfig(n_cities=30), model=MODEL)
        short = TrainConfig(
            steps=4, batch_size=7, warmup=1, save_every=2, eval_every=4, eval_rows=2, checkpoints=1
        )
        train(config.model_copy(update={"train": short}), self.place / "run" / "tiny")
        HookedQwen2(MODEL, seed=0).save_pretrained(self.place / "hf" / "m")
        lines = ["id,name,x,y,region"] + [
            f"{1000 + i},C{i},{i * 7 % 90},{i * 13 % 80},R{i % 3}" for i in range(30)
        ]
        (self.place / "csv").mkdir()
        (self.place / "csv" / "w.csv").write_text("\n".join(lines) + "\n")
        (self.place / "cli" / "runs").mkdir(parents=True)
        shutil.copytree(self.place / "run" / "tiny", self.place / "cli" / "runs" / "tiny")
        shutil.copy(self.place / "csv" / "w.csv", self.place / "cli" / "w.csv")


# ----------------------------------------------------------------------------------------------------
# Mutations: each changes files below a folder and returns its name


def change_bytes(path: Path, rng: random.Random) -> str:
    """Flip, cut, insert, zero or double bytes of a file."""
    content = bytearray(path.read_bytes())
    way, size = rng.choice(("flip", "cut", "insert", "zeros", "double", "empty")), len(content)
    at = rng.randrange(size) if size else 0
    length = rng.choice((1, 4, 64, 4096))
    if way == "flip":
        for _ in range(rng.choice((1, 1, 3, 20))):
            content[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif way == "cut":
        del content[at:]
    elif way == "insert":
        content[at:at] = rng.randbytes(length)
    elif way == "zeros":
        content[at : at + length] = bytes(len(content[at : at + length]))
    elif way == "double":
        content[at:at] = content[at : at + length]
    else:
        content.clear()
    path.write_bytes(content)
    return f"{path.suffix or path.name}: bytes, {way}"


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [pair for key, item in items for pair in ((value, key), *places(item))]


def change_json(path: Path, rng: random.Random) -> str:
    """Delete, replace or rename a value somewhere in a JSON file."""
    content = json.loads(path.read_text())
    container, key = rng.choice(places(content))
    way = rng.choice(("delete", "replace", "replace", "nudge", "extra"))
    if way == "delete":
        del container[key]
    elif way == "replace":
        container[key] = rng.choice(WEIRD)
    elif way == "nudge":
        old = container[key]
        number = isinstance(old, int | float) and not isinstance(old, bool)
        container[key] = (
            old + rng.choice((1, -1, 0.5)) if number else [old] if rng.random() < 0.5 else f"{old}x"
        )
    elif isinstance(container, dict):
        container[f"extra{rng.random()}"] = rng.choice(WEIRD)
    path.write_text(json.dumps(content), encoding="utf-8", errors="surrogatepass")
    return f"{path.name}: value, {way}"


def change_text(path: Path, rng: random.Random) -> str:
    """Other encodings and line ends, odd letters, lines lost, doubled and swapped."""
    text = path.read_text(encoding="utf-8", errors="replace")
    way = rng.choice(("encoding", "line ends", "letters", "lines", "long"))
    if way == "encoding":
        path.write_bytes(
            text.encode(rng.choice(("utf-16", "utf-8-sig", "latin-1", "utf-32", "cp037")), "replace")
        )
    elif way == "line ends":
        path.write_bytes(text.replace("\n", rng.choice(("\r", "\r\n", "\n\n", "\0", "\u2028", ""))).encode())
    elif way == "letters":
        at = rng.randrange(len(text) + 1)
        odd = rng.choice(
            ("\0", '"', ",", ";", "\x1b[31m", "é", "\u202e", "nan", "1e999", "-", "9" * 400, "'", "\t")
        )
        path.write_bytes((text[:at] + odd + text[at:]).encode())
    elif way == "lines":
        lines = text.split("\n")
        rng.shuffle(lines)
        path.write_text("\n".join(lines[: rng.randrange(len(lines) + 1)]))
    else:
        path.write_text(text + ",".join("x" for _ in range(rng.choice((10, 200_000)))))
    return f"{path.suffix}: text, {way}"


def change_names(folder: Path, rng: random.Random) -> str:
    """Remove a file, or put a folder, a pipe, a link, an empty or another file in its place."""
    path = rng.choice(sorted(file for file in folder.rglob("*") if file.is_file()))
    others = sorted(file for file in folder.rglob("*") if file.is_file())
    way = rng.choice(("missing", "folder", "pipe", "loop", "nowhere", "another file", "unreadable"))
    other = rng.choice(others).read_bytes()
    path.unlink()
    if way == "folder":
        path.mkdir()
    elif way == "pipe":
        os.mkfifo(path)
    elif way == "loop":
        path.symlink_to(path.name)
    elif way == "nowhere":
        path.symlink_to("/nowhere/at/all")
    elif way == "another file":
        path.write_bytes(other)
    elif way == "unreadable":
        path.touch(mode=0)
    return f"{path.suffix or path.name}: {way}"


def h5_nodes(file: h5py.File) -> list[str]:
    """Names of all groups and datasets."""
    found: list[str] = []
    file.visit(found.append)
    return found


def change_h5(path: Path, rng: random.Random) -> str:
    """Change an HDF5 file through the library, as another program might."""
    with h5py.File(path, "a") as file:
        name = rng.choice(h5_nodes(file))
        attribute = rng.choice(sorted(file.attrs))
        ways = (
            "delete",
            "attribute gone",
            "attribute",
            "data",
            "type",
            "link",
            "huge",
            "value",
            "odd attribute",
        )
        way = rng.choice(ways)
        if way == "delete":
            del file[name]
        elif way == "attribute gone":
            del file.attrs[attribute]
        elif way == "attribute":
            odd = (
                "",
                "x",
                "[]",
                '["a", "a"]',
                "[1]",
                "{}",
                3,
                1.5,
                b"\xff",
                [1, 2],
                np.int16(3),
                "x" * 60_000,
            )
            file.attrs[attribute] = rng.choice(odd)
        elif way == "odd attribute":
            kinds = ("S5", ">i8", ">f4", "V7", "c16", [("a", "i4")])
            file.attrs[attribute] = np.zeros(rng.choice(((), (1,), (3, 2))), dtype=rng.choice(kinds))
        elif way == "data":
            del file[name]
            shape = rng.choice(((), (0,), (30,), (29,), (30, 0), (30, 6), (30, 6, 2)))
            file[name] = np.ones(shape, dtype=rng.choice(("f4", ">f8", "i8", "S3", "?", "f2", "c8", "u8")))
        elif way == "type":
            del file[name]
            odd = (
                h5py.Empty("f4"),
                np.dtype("i4"),
                np.array([(1, 2.0)], dtype="i4,f4"),
                b"text",
                "text",
                [b"a"] * 30,
            )
            file[name] = rng.choice(odd)
        elif way == "link":
            del file[name]
            links = (h5py.SoftLink("/" + name), h5py.SoftLink("/cities/id"), h5py.SoftLink("/none"))
            outside = (h5py.ExternalLink("other.h5", "/x"), h5py.ExternalLink("/etc/passwd", "/"))
            file[name] = rng.choice((*links, *outside, h5py.ExternalLink(path.name, "/" + name)))
        elif way == "huge":
            del file[name]
            shape = rng.choice(((30, 2**40), (2**40,), (30, 2**20), (2**62, 2)))
            chunks = tuple(min(n, rng.choice((1, 1024))) for n in shape)
            file.create_dataset(name, shape, rng.choice(("f4", "i8")), chunks=chunks, compression="gzip")
        elif isinstance(file[name], h5py.Dataset) and file[name].dtype.kind in "fiu":
            data = file[name][()]
            data.reshape(-1)[rng.randrange(data.size)] = rng.choice(
                (0, 1, 7) if data.dtype.kind != "f" else (np.nan, 1)
            )
            file[name][...] = data
    return f".h5: library, {way}"


def change_weights(path: Path, rng: random.Random) -> str:
    """Other types, shapes, names and values in a safetensors file, or another header."""
    way = rng.choice(("type", "shape", "name", "value", "not finite", "header", "header length"))
    if way == "header length":
        content = path.read_bytes()
        path.write_bytes(
            struct.pack("<Q", rng.choice((0, 1, 2**63, 100_000_001, len(content)))) + content[8:]
        )
        return f".safetensors: {way}"
    if way == "header":
        content = path.read_bytes()
        size = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + size])
        container, key = rng.choice(places(header))
        container[key] = rng.choice((0, 1, -1, 2**62, "F16", "I8", "x", [], [2**40], None))
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])
        return f".safetensors: {way}"
    tensors = load_file(path)
    name = rng.choice(sorted(tensors))
    value = tensors[name]
    if way == "type":
        kinds = (
            torch.float16,
            torch.bfloat16,
            torch.float64,
            torch.int8,
            torch.int64,
            torch.bool,
            torch.float8_e5m2,
        )
        tensors[name] = value.to(rng.choice(kinds))
    elif way == "shape":
        tensors[name] = rng.choice((value[:-1], value.reshape(-1), value[None], value[:0])).clone()
    elif way == "name":
        tensors[rng.choice(("x", name.upper(), "model.layers.99.x", "rotary_emb.inv_freq"))] = tensors.pop(
            name
        )
    elif way == "value":
        tensors[name] = value + 1
    else:
        value.reshape(-1)[0] = rng.choice((torch.nan, torch.inf))
    save_file({key: item.contiguous() for key, item in tensors.items()}, path)
    return f".safetensors: {way}"


def mutate(kind: str, folder: Path, rng: random.Random) -> str:
    """Change something below `folder`; the name of what was done."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    path = rng.choice(files)
    general: list[Callable[[], str]] = [partial(change_bytes, path, rng), partial(change_names, folder, rng)]
    by_suffix: dict[str, tuple[Callable[[Path, random.Random], str], ...]] = {
        ".h5": (change_h5, change_h5, unsealed),
        ".json": (change_json, change_json, change_text),
        ".safetensors": (change_weights,),
        ".csv": (change_text, change_text),
        ".jsonl": (change_text,),
    }
    special = [partial(change, path, rng) for change in by_suffix.get(path.suffix, ())]
    if kind == "result" and path.suffix == ".json":
        special.append(partial(forged, path, rng))
    return rng.choice([*general, *special, *special])()


def unsealed(path: Path, rng: random.Random) -> str:
    """Take the digest away as another program does, then change bytes: only the structure can tell."""
    with h5py.File(path, "a"):
        pass
    return f"{change_bytes(path, rng)}, no digest"


def forged(path: Path, rng: random.Random) -> str:
    """Change a result and give it the digest it ought to have."""
    from cwr_mech.results import _digest

    said = change_json(path, rng)
    content = json.loads(path.read_text(encoding="utf-8", errors="surrogatepass"))
    if isinstance(content, dict):
        content.pop("sha256", None)
        with suppress(ValueError):
            path.write_text(json.dumps(content | {"sha256": _digest(content)}))
    return f"{said}, digest forged"


# ----------------------------------------------------------------------------------------------------
# Uses: what a command does with such an input


def use_h5(folder: Path) -> None:
    """Open a file, read all it holds, print what is inside."""
    from cwr_mech_cli.cache_acts import describe

    store = ActivationStore(folder / "a.h5")
    for hook in store.hooks:
        for task in store.tasks:
            store.get(hook, task, "+".join(store.sites))
    describe(store)


def use_result(folder: Path) -> None:
    """Load a result."""
    load_result(folder / "r.json").sha256  # noqa: B018


def use_run(folder: Path) -> None:
    """Everything that a command asks of a run."""
    from cwr_mech_cli.runs import row

    row(folder / "tiny")
    run = load_run(folder / "tiny")
    run.metrics()
    run.world()
    find_state(run.folder)
    run.model()


def use_hf(folder: Path) -> None:
    """Load a checkpoint and run it."""
    HookedQwen2.from_pretrained(folder / "m")(torch.arange(4, 30)[None])


def use_csv(folder: Path) -> None:
    """Make a world of a user's cities."""
    load_world(WorldConfig(source=str(folder / "w.csv"))).sha256  # noqa: B018


USES = {"h5": use_h5, "result": use_result, "run": use_run, "hf": use_hf, "csv": use_csv}

SHORT = "--preset tiny --set steps=2 --set warmup=0 --set eval_every=2 --set eval_rows=2 --set n_cities=30"
LINES = (
    """
runs
data --task distance -n 2
data --task inside -n 1 --split val
eval tiny -n 4 --tasks distance
train SHORT --out runs/new
plot tiny
cache-acts tiny --tasks distance
zoo list
transfer
cache-acts tiny --tasks angle --layers 0 --sites last_digit --out a.h5
cache-acts --show a.h5
train SHORT --set source=w.csv --out runs/csv
train --resume --out runs/tiny
zoo check x
report tiny
report --check tiny
finetune tiny --tasks angle --steps 1 --rows 10
cka tiny --draws 1
probe tiny --folds 2
similarity tiny
predict tiny
""".replace("SHORT", SHORT)
    .strip()
    .split("\n")
)
ODD_WORDS = [
    "",
    "tiny tiny",
    "a\nb",
    "\x1b[31m",
    "\u202e",
    "x" * 300,
    *"""
- -- nothing ../x / . .. ~ --help -n nan -1 1e400 0 0x10 ٣ a,b , = x=y lr=nan steps=-1 lr=1e999
d_model=3 n_heads=0 name=../x new=holdout:x zoo: zoo:../runs/tiny runs/tiny/manifest.json w.csv
--out --set --report distance,distance all %s $HOME --force --resume --seed tiny@4
""".split(),  # noqa: SIM905
]


def odd_line(rng: random.Random) -> list[str]:
    """A command line with a few words lost, doubled, swapped or replaced."""
    words = rng.choice(LINES).split()
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        at = rng.randrange(len(words))
        way = rng.choice(("replace", "replace", "insert", "delete", "swap"))
        if way == "replace" and at:
            words[at] = rng.choice(ODD_WORDS)
        elif way == "insert":
            words.insert(at + 1, rng.choice(ODD_WORDS))
        elif way == "delete" and len(words) > 1:
            del words[at]
        else:
            other = rng.randrange(len(words))
            words[at], words[other] = words[other], words[at]
    return words


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Path -> size and time of change of everything below a folder; locks do not count."""
    found = {}
    for path in folder.rglob("*"):
        if path.name != ".lock":
            state = path.lstat()
            found[path.relative_to(folder).as_posix()] = (state.st_size, state.st_mtime_ns)
    return found


def run_line(words: list[str]) -> int:
    """Exit code of the program, run in this process."""
    from cwr_mech_cli import main as cli

    cli.answer_signals = lambda command: None
    sys.argv = ["cwr-mech", *words]
    try:
        cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


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
    strange = [path for path in listing(scratch) if path not in around and not path.startswith("work")]
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
    name = "none" if rng.random() < 0.02 else mutate(kind, folder, rng)
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


# ----------------------------------------------------------------------------------------------------
# Child processes


def child(kind: str, seed: int, numbers: range, base: Base, pipe: int) -> None:
    """Try inputs one after the other, each within its time, all within the memory; report through a pipe."""
    used = int(re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.disable()
    devnull = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 2):
        os.dup2(devnull, stream)
    for number in numbers:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # SIGPROF and SIGALRM end the process
        signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
        seen = try_input(kind, seed, number, base)
        line = json.dumps({"number": number, **seen._asdict()}).encode() + b"\n"
        os.write(pipe, line[:60_000] if len(line) < 60_000 else line[:59_998] + b"\n")
    os._exit(0)


def try_all(kind: str, seed: int, n: int, base: Base) -> list[tuple[int, Seen]]:
    """Every input of a kind; a child that dies is followed by another, from the next input on."""
    found: list[tuple[int, Seen]] = []
    at = 0
    while at < n:
        numbers = range(at, min(at + 400, n))
        read, write = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(read)
            child(kind, seed, numbers, base, write)
        os.close(write)
        with os.fdopen(read, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                about = json.loads(line)
                found.append((about["number"], Seen(about["outcome"], about["mutation"], about["said"])))
        _, status = os.waitpid(process, 0)
        at = found[-1][0] + 1 if found else 0
        if os.WIFSIGNALED(status) or os.WEXITSTATUS(status):
            number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            hung = number in (signal.SIGPROF, signal.SIGALRM)
            found.append((at, Seen("hang" if hung else "crash", "?", f"signal {number}, status {status}")))
            at += 1
    return found


def main(arguments: list[str] | None = None) -> int:
    """Try, count, show; 1 where there is a fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kind", choices=("all", *KINDS), default="all")
    parser.add_argument(
        "--n", type=int, default=1000, help="inputs of each kind; of all kinds together for 'all'"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this input alone, in this process, with what it raised")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    kinds = KINDS if options.kind == "all" else (options.kind,)
    with tempfile.TemporaryDirectory() as place:
        base = Base(Path(place))
        if options.only is not None:
            print(*try_input(kinds[0], options.seed, options.only, base), sep="\n")
            return 0
        return show({kind: try_all(kind, options.seed, options.n // len(kinds), base) for kind in kinds})


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
