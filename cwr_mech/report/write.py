"""Reports: reports/NAME/report.md and figures, written from reports/NAME/results and nothing else.

A report can therefore be rebuilt anywhere. `check_report` does so and compares: the text must be equal, every
figure must carry the digest of its result, and where the same matplotlib drew it, it must look the same
(other versions place text a pixel apart, so there the digest decides). Results that were changed after they
were written are refused by `load_result`. Inputs of the results that lie beside reports/
are hashed anew.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import numpy as np
from PIL import Image

from cwr_mech.artifacts import atomic_file, sha256_file
from cwr_mech.errors import CorruptArtifact, MissingArtifact
from cwr_mech.findings import show as report_zoo
from cwr_mech.render.markdown import markdown_table, notes, source_line
from cwr_mech.render.shown import Section
from cwr_mech.report import sections as report_sections
from cwr_mech.report.contents import SECTIONS
from cwr_mech.report.figures import SOURCE, draw, figure_names
from cwr_mech.results import Result, Row, load_results

PIXEL_TOLERANCE = 0.5
"""Mean absolute difference of two drawings, of 255 levels, that still counts as equal."""


_BY_KIND: Mapping[str, Section] = MappingProxyType({section.kind: section for section in SECTIONS})


def write_report(folder: Path | str) -> Path:
    """Draw the figures and write report.md from `folder`/results; returns the path of report.md.

    Raises MissingArtifact when there are no results, and what `load_result` raises for broken ones.
    """
    folder = Path(folder)
    results = _results(folder)
    for name, result in results.items():
        draw(result, folder / "figures", name)
    path = folder / "report.md"
    with atomic_file(path) as part:
        part.write_text(report_text(folder.name, results), encoding="utf-8")
    return path


def check_report(folder: Path | str) -> list[str]:
    """Rebuild the report of `folder` aside and compare; returns a line for each difference.

    Raises MissingArtifact without results or report.md, CorruptArtifact for results that were changed.
    """
    folder = Path(folder)
    results = _results(folder)
    path = folder / "report.md"
    if not path.is_file():
        raise MissingArtifact(f"no such file: {path}", f"write it with: cwr-mech report {folder.name}")
    problems = _compare_text(path, report_text(folder.name, results))
    with TemporaryDirectory() as fresh:
        for name, result in results.items():
            for drawn in draw(result, fresh, name):
                problems += _compare_figure(folder / "figures" / drawn.name, drawn)
    return problems + _changed_inputs(results, folder.resolve().parents[1])


def report_text(name: str, results: Mapping[str, Result]) -> str:
    """The Markdown of a report called `name`."""
    order = {section.kind: index for index, section in enumerate(SECTIONS)}
    ranked = sorted(results.items(), key=lambda item: (order.get(item[1].kind, len(order)), item[0]))
    parts = [
        f"# Report: {name}",
        f"Written by `cwr-mech report {name}` from the files in [results](results); "
        f"`cwr-mech report --check {name}` rebuilds it and compares. Layers are counted from 0: L3 is the "
        "residual stream after block 3 (`blocks.3.hook_resid_post`), embed before the first block, final "
        "after the last norm. Coordinates and distances are in tenths of a degree on a plane.",
    ]
    found = next((result for result in results.values() if result.kind == "findings"), None)
    parts += _by_kind(dict(ranked), "##") if found is None else _chapters(dict(ranked), found)
    parts += _origin(results)
    return "\n\n".join(part for part in parts if part) + "\n"


def _chapters(results: Mapping[str, Result], found: Result) -> list[str]:
    """Chapters with their claims, then the results they rest on; other results come last."""
    parts = ["## Claims", report_zoo.summary(found)]
    left = dict(results)
    for chapter in report_zoo.CHAPTERS:
        mine = {name: result for name, result in results.items() if result.kind in chapter.kinds}
        parts += [f"## {chapter.title}", chapter.question, report_zoo.claims(found, chapter.section)]
        parts += _by_kind(mine, "###") if mine else ["No results yet."]
        left = {name: result for name, result in left.items() if name not in mine}
    return [*parts, *_by_kind(left, "##")]


def _by_kind(results: Mapping[str, Result], level: str) -> list[str]:
    """Sections of results that are in the order of the report, each kind under one heading."""
    parts, last = [], ""
    for name, result in results.items():
        section = _BY_KIND.get(result.kind)
        if result.kind != last:
            parts.append(f"{level} {section.title if section else result.kind}")
            parts += [section.opening] if section else []
            last = result.kind
        text = section.text if section else report_sections.plain
        parts += _result_parts(name, result, text, f"{level}#")
    return parts


def _result_parts(name: str, result: Result, text: Callable[[Result], str], level: str) -> list[str]:
    figures = [f"![{plot.title}](figures/{file})" for plot, file in figure_names(result, name)]
    try:
        body = text(result)
    except KeyError as error:
        raise CorruptArtifact(
            f"the {result.kind} result '{name}' lacks {error}, which its section needs",
            f"make it anew with: {result.command}",
        ) from error
    return [f"{level} {name}", *figures, body, notes(result), source_line(name, result)]


def _origin(results: Mapping[str, Result]) -> list[str]:
    """What the results were computed from and with."""
    inputs: list[Row] = [
        {"result": name, "input": source, "sha256": f"`{digest[:16]}`"}
        for name, result in sorted(results.items())
        for source, digest in sorted(result.inputs.items())
    ]
    versions = sorted(
        {f"{key} {value}" for result in results.values() for key, value in result.provenance.items()}
    )
    heads = {"result": "result", "input": "made from", "sha256": "sha256 begins"}
    return [
        "## Where this comes from",
        markdown_table(inputs, heads),
        "Computed with " + ", ".join(versions) + ".",
    ]


def _results(folder: Path) -> dict[str, Result]:
    results = load_results(folder / "results")
    if not results:
        raise MissingArtifact(
            f"there are no results in {folder / 'results'}",
            "analyses save them there: cwr-mech eval, probe, cka, patch",
        )
    return results


def _compare_text(path: Path, fresh: str) -> list[str]:
    there = path.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = fresh.splitlines()
    for number, (old, new) in enumerate(zip(there, lines, strict=False), start=1):
        if old != new:
            return [f"{path} line {number} says '{old[:80]}', its results say '{new[:80]}'"]
    if len(there) != len(lines):
        return [f"{path} has {len(there)} lines, its results give {len(lines)}"]
    return []


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


def _changed_inputs(results: Mapping[str, Result], root: Path) -> list[str]:
    """Inputs under `root` that are no longer what a result was computed from; absent ones are passed over."""
    problems = []
    for name, result in results.items():
        for source, digest in result.inputs.items():
            path = root / source
            weights = path / "model.safetensors"
            file = weights if weights.is_file() else path
            if file.is_file() and sha256_file(file) != digest:
                problems.append(f"results/{name}.json was computed from another {source}")
    return problems
