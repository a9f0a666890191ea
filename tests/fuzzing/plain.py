"""Mutations of any file, of JSON and of text, and of which files there are. Each returns its own name."""

import json
import os
import random
from pathlib import Path
from typing import Any

WEIRD: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**63, 10**30, 1e400, float("nan"), 0.5, "", "x", "a\nb", "a\0b", "\ud800",
    "../x",
    "/etc/passwd", "\u202e\u0301", "x" * 10_000, [], [1], [[]], {}, {"a": 1}, [None] * 50,
)  # fmt: skip


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


def content_of(folder: Path) -> dict[str, bytes | None]:
    """What the files below a folder hold; None for what is no file."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def change_json(path: Path, rng: random.Random) -> str:
    """Delete, replace or rename a value somewhere in a JSON object; the name says below which of its keys."""
    content = json.loads(path.read_text())
    tops = list(content) if isinstance(content, dict) else []
    top, container, key = rng.choice(
        [(top, content, top) for top in tops]
        + [(top, *pair) for top in tops for pair in places(content[top])]
    )
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
        top, container[f"extra{rng.random()}"] = "one more", rng.choice(WEIRD)
    path.write_text(json.dumps(content), encoding="utf-8", errors="surrogatepass")
    return f"{path.name}: {top}"


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
