"""Odd command lines, and the program run on one in this process."""

import random
import sys
from pathlib import Path

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

    from cwr_mech.training import folders

    cli.answer_signals = lambda command: None
    folders.PACKAGE = Path("nowhere")  # `zoo check` of the whole zoo is work of minutes, not a hang
    sys.argv = ["cwr-mech", *words]
    try:
        cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0
