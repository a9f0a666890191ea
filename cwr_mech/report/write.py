"""Reports: reports/NAME/report.md, figures and tables, written from reports/NAME/results and nothing else.

A report can therefore be rebuilt anywhere. `check_report` does so and compares: text and tables must be
equal, every figure must carry the digest of its result, and where the same matplotlib drew it, it must
look the same (other versions place text a pixel apart, so there the digest decides). Results that were
changed after they were written are refused by `load_result`. Inputs of the results that lie beside
reports/ are hashed anew; activations of the same model and world that another processor computed are told
apart from other activations (`other_floats`).
"""

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from cwr_mech.activations.reader import IDENTITY, ActivationStore, identity
from cwr_mech.artifacts import atomic_file, sha256_file
from cwr_mech.errors import ArtifactError, MissingArtifact
from cwr_mech.report.figures import CAPTION, SOURCE, draw
from cwr_mech.report.page import report_text
from cwr_mech.results import Result, load_results

PIXEL_TOLERANCE = 0.5
"""Mean absolute difference of two drawings, of 255 levels, that still counts as equal."""


def write_report(folder: Path | str) -> Path:
    """Draw the figures and write report.md and tables/ from `folder`/results; returns the path of report.md.

    Figures and tables of an earlier report that this one does not show are removed. Raises MissingArtifact
    when there are no results, and what `load_result` raises for broken ones.
    """
    folder = Path(folder)
    results = saved_results(folder)
    drawn = _draw_all(results, folder / "figures")
    text, tables = report_text(folder.name, results, captions(drawn))
    for file, content in {
        **{f"tables/{name}": text for name, text in tables.items()},
        "report.md": text,
    }.items():
        with atomic_file(folder / file) as part:
            part.write_text(content, encoding="utf-8")
    for path in (folder / "figures").glob("*.png"):
        if path not in drawn and _source(path):
            path.unlink()
    for path in (folder / "tables").glob("*.csv"):
        if path.name not in tables:
            path.unlink()
    return folder / "report.md"


def check_report(folder: Path | str) -> list[str]:
    """Rebuild the report of `folder` aside and compare; returns a line for each difference.

    Raises MissingArtifact without results or report.md, CorruptArtifact for results that were changed.
    """
    folder = Path(folder)
    results = saved_results(folder)
    path = folder / "report.md"
    if not path.is_file():
        raise MissingArtifact(f"no such file: {path}", f"write it with: cwr-mech report {folder.name}")
    with TemporaryDirectory() as fresh:
        drawn = _draw_all(results, Path(fresh))
        text, tables = report_text(folder.name, results, captions(drawn))
        problems = _compare_text(path, text)
        for name, content in tables.items():
            problems += _compare_text(folder / "tables" / name, content)
        for one in drawn:
            problems += _compare_figure(folder / "figures" / one.name, one)
    return problems + [line for line, same in _changed_inputs(results, _root(folder)) if not same]


def other_floats(folder: Path | str) -> list[str]:
    """Activations of the same model and world whose bytes differ from those a result was computed from:
    another processor adds in another order. No reason to doubt the report.
    """
    folder = Path(folder)
    changed = _changed_inputs(saved_results(folder), _root(folder))
    return [line for line, same in changed if same]


def captions(drawn: list[Path]) -> dict[str, str]:
    """File -> the caption that the figure was drawn with."""
    found = {}
    for path in drawn:
        with Image.open(path) as image:
            found[path.name] = str(image.info.get(CAPTION, ""))
    return found


def _draw_all(results: Mapping[str, Result], folder: Path) -> list[Path]:
    return [path for name, result in results.items() for path in draw(result, folder, name)]


def saved_results(folder: Path) -> dict[str, Result]:
    """The results of a report. Raises MissingArtifact when there are none, and what `load_result` raises."""
    results = load_results(folder / "results")
    if not results:
        raise MissingArtifact(
            f"there are no results in {folder / 'results'}",
            "analyses save them there: cwr-mech eval, probe, cka, patch",
        )
    return results


def _compare_text(path: Path, fresh: str) -> list[str]:
    if not path.is_file():
        return [f"{path} is missing"]
    there = path.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = fresh.splitlines()
    for number, (old, new) in enumerate(zip(there, lines, strict=False), start=1):
        if old != new:
            return [f"{path} line {number} says '{old[:80]}', its results say '{new[:80]}'"]
    if len(there) != len(lines):
        return [f"{path} has {len(there)} lines, its results give {len(lines)}"]
    return []


def _source(path: Path) -> str | None:
    """The digest of the result that a figure was drawn from; None for other pictures."""
    try:
        with Image.open(path) as image:
            found = image.info.get(SOURCE)
    except OSError:
        return None
    return str(found) if found else None


def _compare_figure(path: Path, fresh: Path) -> list[str]:
    if not path.is_file():
        return [f"{path} is missing"]
    try:
        with Image.open(path) as old, Image.open(fresh) as new:
            if old.info.get(SOURCE) != new.info.get(SOURCE):
                return [f"{path} was drawn from other results"]
            if old.info.get("Software") != new.info.get("Software"):
                return []
            pixels = [np.asarray(image.convert("RGB"), dtype=np.float64) for image in (old, new)]
    except OSError:
        return [f"{path} is not a readable PNG"]
    if pixels[0].shape != pixels[1].shape or np.abs(pixels[0] - pixels[1]).mean() > PIXEL_TOLERANCE:
        return [f"{path} does not look like what its result gives"]
    return []


def _root(report: Path) -> Path:
    """What a result's inputs are relative to: the folder that holds reports/, be that a link or not."""
    return Path(os.path.abspath(report)).parent.parent


def _changed_inputs(results: Mapping[str, Result], root: Path) -> list[tuple[str, bool]]:
    """Inputs under `root` that are no longer what a result was computed from, and whether they are of the
    same model and world all the same; absent ones are passed over.
    """
    found = []
    for name, result in results.items():
        for source, digest in result.inputs.items():
            path = root / source
            if source.endswith(IDENTITY):
                continue
            weights = path / "model.safetensors"
            file = weights if weights.is_file() else path
            if file.is_file() and sha256_file(file) != digest:
                of_same = result.inputs.get(source + IDENTITY)
                mine = _identity(file)
                if of_same is None and mine is not None:  # results older than the recording of identities
                    told, same = "was made anew, and which model is not recorded with", True
                elif of_same == mine is not None:
                    told, same = "holds other floating point of the same model and world than", True
                else:
                    told, same = "is not", False
                found.append((f"{source} {told} what results/{name}.json was computed from", same))
    return found


def _identity(file: Path) -> str | None:
    """Of which model and world an activation file is; None for a file that is none."""
    try:
        return identity(ActivationStore(file))
    except ArtifactError:
        return None
