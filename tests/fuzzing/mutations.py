"""The mutations of each kind of input: which one is applied to which file."""

import json
import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from fuzzing.arrays import change_h5, change_weights, unsealed
from fuzzing.plain import change_bytes, change_json, change_names, change_text


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
