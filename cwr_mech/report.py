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
from typing import NamedTuple

import numpy as np
from PIL import Image

from cwr_mech import report_patching, report_routing, report_sections, report_similarity, report_zoo
from cwr_mech.artifacts import atomic_file, sha256_file
from cwr_mech.errors import CorruptArtifact, MissingArtifact
from cwr_mech.figures import SOURCE, draw, figure_names
from cwr_mech.report_text import markdown_table, notes, source_line
from cwr_mech.results import Result, Row, load_results

PIXEL_TOLERANCE = 0.5
"""Mean absolute difference of two drawings, of 255 levels, that still counts as equal."""


class Section(NamedTuple):
    """A part of the report: the kind of result it shows, its heading, its opening line and its text."""

    kind: str
    title: str
    opening: str
    text: Callable[[Result], str]


SECTIONS = (
    Section(
        "routing",
        "Do divergent tasks route updates off the map?",
        "The claim, what it predicts, what came, and a verdict.",
        report_routing.routing,
    ),
    Section(
        "zoo",
        "The models",
        "Everything below is about these models; each can be loaded as zoo:NAME.",
        report_zoo.models,
    ),
    Section(
        "maps",
        "Maps, model by model",
        "A linear probe for the place of a city in each model, at its best layer; new cities are decoded by "
        "a probe fitted on the others.",
        report_zoo.maps,
    ),
    Section(
        "probe",
        "The world as the model sees it",
        "A linear probe reads x and y of a city from the residual stream. If cities it was not fitted on "
        "land near their true places, the model holds a map.",
        report_sections.probes,
    ),
    Section(
        "readout",
        "What one probe score hides",
        "Other prompts, whole regions, few cities, a nonlinear probe, the length of a code for the places.",
        report_similarity.readout,
    ),
    Section(
        "timeline",
        "When the map forms",
        "The same probe at every checkpoint.",
        report_similarity.timeline,
    ),
    Section(
        "manifold",
        "On the map, along it, off it",
        "A smooth map from places to activations. How much of a layer is a function of place, and where new "
        "cities stand: misplaced on the map, or off the map.",
        report_similarity.manifold,
    ),
    Section(
        "surfacing",
        "Does the map surface?",
        "What the first principal components carry of the map, by number of tasks.",
        report_similarity.surfacing,
    ),
    Section(
        "erasure",
        "Is the map used?",
        "What a probe can decode need not be used. Here the places are erased inside the model.",
        report_similarity.erasure,
    ),
    Section(
        "eval",
        "Answers by task",
        "Fresh test questions, answered greedily, beside the best answer that never looks at the cities.",
        report_sections.evaluation,
    ),
    Section(
        "train",
        "Learning curves",
        "Loss and validation scores on the way.",
        report_sections.training,
    ),
    Section(
        "curves",
        "Learning curves side by side",
        "Loss and validation scores of several runs against the examples they have seen.",
        report_sections.curves,
    ),
    Section(
        "cka",
        "Similarity of representations",
        "How alike layers and models arrange the same cities, up to rotation and scale.",
        report_similarity.matrix,
    ),
    Section(
        "similarity",
        "Models beside models",
        "Several measures between models, with their nulls and their ceiling. Claims are over models.",
        report_similarity.models,
    ),
    Section(
        "patch",
        "Where a city is carried to the answer",
        "One city is swapped for another inside the model, one place at a time. Where that moves the answer, "
        "the place carries the city.",
        report_patching.patching,
    ),
    Section(
        "patch_tasks",
        "Patching, task beside task",
        "Up to which layer the city can be exchanged where it is named, and from which layer the answer does "
        "not need it any more.",
        report_patching.tasks,
    ),
    Section(
        "patch_parts",
        "Through which part of a city's state do answers run?",
        "The first city's state is replaced by a donor's inside the map's subspace only, or outside of it "
        "only. New cities are those that a model met in fine-tuning.",
        report_patching.parts,
    ),
    Section(
        "transfer",
        "What fine-tuning teaches",
        "Models that were shown new cities through some tasks, asked about them through all; and what they "
        "still know of the old ones.",
        report_sections.transfer,
    ),
    Section(
        "subspace",
        "Where updates go",
        "The change of a city's activation that a task asks for or makes: how much of it lies in the few "
        "directions in which ordinary cities differ because of their place, and where it moves the city.",
        report_routing.subspace,
    ),
    Section(
        "conflict",
        "Do tasks pull the weights the same way?",
        "Gradients of every weight matrix, task by task.",
        report_routing.conflict,
    ),
    Section(
        "trajectory",
        "Where fine-tuning puts new cities",
        "In the wrong place on the map, or off the map: beside ordinary cities.",
        report_routing.trajectory,
    ),
    Section(
        "prediction",
        "Can divergence be told before training?",
        "Similarity of the tasks' gradients before and early in training, and of the tasks themselves, "
        "against what became of them.",
        report_routing.prediction,
    ),
    Section(
        "stretch",
        "A stretch of the paper's training",
        "The same weights, batches and rates here and under transformers' Trainer.",
        report_zoo.stretch,
    ),
    Section(
        "relation",
        "Similarity and transfer",
        "Pairs of tasks: how alike models of the one and the other are, and what one teaches the other.",
        report_zoo.relation,
    ),
    Section(
        "findings",
        "The paper's values beside ours",
        "Levels differ with the scale; the direction is what can be compared.",
        report_zoo.findings,
    ),
)
"""Kinds of results in the order of the report. Kinds without a row come last, shown as they are."""

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
