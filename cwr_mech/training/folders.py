"""Where runs and the models of the zoo are found: the one place that turns a name into a folder.

A run is given as a path, as NAME for runs/NAME, or as `zoo:NAME`; the path of a Hugging Face folder stands
for one, too. A model of the zoo is looked for in

1. the package itself: a wheel carries the models of SHIPPED (pyproject.toml, package-data),
2. $CWR_MECH_HOME/zoo, the one environment variable that this library reads,
3. zoo/ in the current folder and in every folder above it, which finds that of a clone,
4. zoo/ of the checkout that the package was imported from (an editable install).

The first folder that holds the name wins. Nothing here reads more than file names.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from cwr_mech.artifacts import PART
from cwr_mech.errors import MissingArtifact

RUNS, ZOO = Path("runs"), Path("zoo")
HOME = "CWR_MECH_HOME"
SHIPPED = ("small", "small-ft-distance", "small-ft-compass", "ripe-seed2")
"""Models of the zoo that a wheel carries: one that was trained on all tasks, and it taught new cities through
a task whose answers are numbers and through one whose answers are labels; and one trained for longer."""
PACKAGE = Path(__file__).parents[1]
PREFIX = "zoo:"
OTHER_MODELS = (
    f"the other models come with the repository: work inside a clone of it, or set {HOME} to the clone's "
    "folder"
)
MOST_NAMED = 12


def zoo_folders() -> list[Path]:
    """Existing folders of models, in the order in which they are searched; each place once."""
    found: dict[Path, Path] = {}
    for folder in _zoo_candidates():
        if folder.is_dir():
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _zoo_candidates() -> Iterator[Path]:
    yield PACKAGE / "zoo"
    if home := os.environ.get(HOME):
        yield Path(home) / "zoo"
    yield from _zoos_here()
    if (PACKAGE.parent / "pyproject.toml").is_file():
        yield PACKAGE.parent / "zoo"


def _zoos_here() -> Iterator[Path]:
    yield ZOO
    yield from (above / "zoo" for above in Path.cwd().parents)


def own_zoo() -> Path:
    """The zoo that models are added to: $CWR_MECH_HOME/zoo, or that of the clone one is in, or zoo/ here."""
    if home := os.environ.get(HOME):
        return Path(home) / "zoo"
    return next((folder for folder in _zoos_here() if folder.is_dir()), ZOO)


def zoo_models() -> dict[str, Path]:
    """Name -> folder of every model of the zoo that is found, those that are being written left out."""
    found: dict[str, Path] = {}
    for root in zoo_folders():
        for folder in run_folders(root):
            found.setdefault(folder.name, folder)
    return found


def run_folders(root: Path | str) -> list[Path]:
    """Folders below `root` that hold a run, by name; those that are being written left out."""
    paths = sorted(Path(root).glob("*/manifest.json"))
    return [path.parent for path in paths if PART not in path.parent.name]


def find_run(name: Path | str | None = None) -> Path:
    """The folder of the run `name`, or the checkpoint folder at that path; the latest run in runs/ when it is
    None.

    Raises MissingArtifact, with the nearest name or the names there are in the hint.
    """
    if name is None:
        return latest_run()
    text = str(name)
    short = text.removeprefix(PREFIX)
    if text != short:
        candidates = [root / short for root in zoo_folders()] if short else []
    else:
        candidates = [Path(text), RUNS / text]
    for holds in (holds_run, holds_model):
        for folder in candidates:
            if holds(folder):
                return folder if folder.name not in ("", "..") else folder.resolve()
    raise MissingArtifact(f"no such run: '{text}'", _known(text))


def holds_run(folder: Path) -> bool:
    """Whether there is a manifest; a name that no file system takes holds none."""
    try:
        return (folder / "manifest.json").is_file()
    except (OSError, ValueError):
        return False


def holds_model(folder: Path) -> bool:
    """Whether there are settings and weights as transformers saves them."""
    weights = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
    try:
        return (folder / "config.json").is_file() and any((folder / name).exists() for name in weights)
    except (OSError, ValueError):
        return False


def latest_run(root: Path | str = RUNS) -> Path:
    """Folder of the run whose manifest changed last. Raises MissingArtifact when there is none."""
    found = newest_first(root)
    if not found:
        raise MissingArtifact(
            f"there is no run in {root}/", "train one with: cwr-mech train, or name a model such as zoo:small"
        )
    return found[0]


def newest_first(root: Path | str) -> list[Path]:
    """Folders below `root` that hold a run, the one whose manifest changed last first."""
    found = []
    for folder in run_folders(root):
        with suppress(OSError):  # a link to nowhere
            found.append(((folder / "manifest.json").stat().st_mtime, folder))
    return [folder for _, folder in sorted(found, reverse=True)]


def _known(text: str) -> str:
    """What to say when no run is called `text`: the nearest run or model, or how to come by one."""
    runs = {folder.name: folder.name for folder in run_folders(RUNS)}
    models = {name: PREFIX + name for name in zoo_models()}
    short = text.removeprefix(PREFIX)
    for known in (models, runs) if text != short else (runs, models):
        near = get_close_matches(short, known, n=1)
        if near:
            return f"did you mean '{known[near[0]]}'?"
    if text != short:
        return f"models here: {_first([*models.values()])}; {OTHER_MODELS}" if models else OTHER_MODELS
    if runs:
        return f"runs in {RUNS}/: {_first([*runs])}; cwr-mech zoo list names trained models"
    return f"{RUNS}/ holds no run; train one with: cwr-mech train, or name a model such as zoo:small"


def _first(names: list[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
