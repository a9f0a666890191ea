"""The page of a report: one page of summary first, a table of contents, then methods and full tables."""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence

from cwr_mech.activations.reader import IDENTITY
from cwr_mech.config import EARTH_UNIT
from cwr_mech.errors import CorruptArtifact
from cwr_mech.findings import show
from cwr_mech.findings.questions import asked
from cwr_mech.render.markdown import escaped, markdown_table, notes, source_line
from cwr_mech.render.units import in_unit, unit_of
from cwr_mech.report.contents import all_shows, show_of
from cwr_mech.report.figures import figure_names
from cwr_mech.results import Result, Row

MOST_ROWS = 30
"""Rows of a table that are shown; the whole of a longer one lies in tables/ as CSV."""


def report_text(
    name: str,
    results: Mapping[str, Result],
    captions: Mapping[str, str] | None = None,
    *,
    most_rows: int | None = MOST_ROWS,
) -> tuple[str, dict[str, str]]:
    """The Markdown of a report called `name`, and the CSV of its long tables by file name.

    captions: figure file -> caption, as text beside the figure. `most_rows`: rows of a table that are shown,
    all when None.
    """
    order = {kind: place for place, kind in enumerate(all_shows())}
    ranked = dict(sorted(results.items(), key=lambda item: (order.get(item[1].kind, len(order)), item[0])))
    page = _Page(captions or {}, most_rows)
    found = next((result for result in results.values() if result.kind == "findings"), None)
    chapters = page.sections(ranked, "##") if found is None else page.questions(ranked, found)
    summary = page.overview(ranked) if found is None else page.answers(ranked, found)
    units = {unit_of(result) for result in results.values()}
    unit = units.pop() if len(units) == 1 else EARTH_UNIT
    head = [
        f"# Report: {name}",
        f"Written by `cwr-mech report {name}` from the files in [results](results); `cwr-mech report --check "
        f"{name}` rebuilds it and compares. Layers are counted from 0: L3 is the residual stream after block "
        "3 (`blocks.3.hook_resid_post`), embed before the first block, final after the last norm. "
        + in_unit("Coordinates and distances are in tenths of a degree on a plane.", unit),
    ]
    tail = _origin(results, page)
    parts = [*head, "## Summary", *summary, "## Contents", _contents([*chapters, *tail]), *chapters, *tail]
    return "\n\n".join(part for part in parts if part) + "\n", page.tables


class _Page:
    """Parts of a page; long tables are set aside in `tables`."""

    def __init__(self, captions: Mapping[str, str], most_rows: int | None) -> None:
        self.captions = captions
        self.most_rows = most_rows
        self.tables: dict[str, str] = {}

    def overview(self, results: Mapping[str, Result]) -> list[str]:
        """The summary of a report without claims: what each result found, or its section's first words.

        Single models are left out where a result over models, whose name theirs go on from, stands for them.
        """
        told = {
            name: result
            for name, result in results.items()
            if not any(
                name.startswith(f"{other}-") and results[other].kind == result.kind for other in results
            )
        }
        kinds = [result.kind for result in told.values()]
        lines = []
        for name, result in told.items():
            title = show_of(result).title
            where = show.anchor(title if kinds.count(result.kind) == 1 else name)
            lines.append(f"- **[{title}]({where})** ({name}): {_found(name, result)}")
        return ["\n".join(lines)]

    def answers(self, results: Mapping[str, Result], found: Result) -> list[str]:
        """The summary of a report with claims: table of questions and answers, figure, limits, methods."""
        name = next(key for key, result in results.items() if result is found)
        figure = self.figures({name: found})[:1]
        zoo = next((result for result in results.values() if result.kind == "zoo"), None)
        limits = (
            ["**What this scale cannot say**", show.limits(zoo)] if zoo and "n_cities" in zoo.values else []
        )
        return [show.summary(found), *figure, *limits]

    def questions(self, results: Mapping[str, Result], found: Result) -> list[str]:
        """A chapter for each question: its claims, then the results they rest on; other results come last."""
        parts: list[str] = []
        left = {name: result for name, result in results.items() if result is not found}
        for question in asked(found):
            parts += [
                f"## {question.title}",
                self.short(show.claims(found, question.id), f"claims-{question.id}"),
            ]
            mine = {name: result for name, result in left.items() if result.kind in question.shows}
            parts += self.sections(mine, "###")
            left = {name: result for name, result in left.items() if name not in mine}
        name = next(key for key, result in results.items() if result is found)
        parts += ["## All findings", *self.figures({name: found})[1:], source_line(name, found)]
        agreement = show.agreement(found)
        parts += ["## Published tables beside ours", agreement] if agreement else []
        return [*parts, *self.sections(left, "##")]

    def sections(self, results: Mapping[str, Result], level: str) -> list[str]:
        """Results in the order of the report, each kind under one heading."""
        parts, last = [], ""
        for name, result in results.items():
            if result.kind != last:
                parts += [f"{level} {show_of(result).title}", show_of(result).opening]
                last = result.kind
            text = self.short(_body(name, result), name)
            parts += [f"{level}# {name}", *self.figures({name: result}), text]
            parts.append(in_unit(notes(result), unit_of(result)))
            parts.append(source_line(name, result))
        return parts

    def figures(self, results: Mapping[str, Result]) -> list[str]:
        """Each figure with its alternative text, and its caption as text."""
        found = []
        for name, result in results.items():
            for plot, file in figure_names(result, name):
                caption = self.captions.get(file, "")
                alt = f"{plot.title}. {_sentences(caption)}".strip().replace("[", "(").replace("]", ")")
                found.append(
                    f"![{alt}](figures/{file})" + (f"\n\n*{plot.title}.* {caption}" if caption else "")
                )
        return found

    def short(self, text: str, name: str) -> str:
        """`text` with its long tables cut to `most_rows` rows; the whole tables are set aside as CSV."""
        most = self.most_rows
        if most is None:
            return text
        kept: list[str] = []
        for block in re.split(r"\n\n", text):
            lines = block.split("\n")
            if not block.startswith("| ") or len(lines) - 2 <= most:
                kept.append(block)
                continue
            file = f"{name}-{1 + sum(one.startswith(f'{name}-') for one in self.tables)}.csv"
            self.tables[file] = _csv([lines[0], *lines[2:]])
            whole = f"{most} of {len(lines) - 2:,} rows; all: [tables/{file}](tables/{file})"
            kept += ["\n".join(lines[: most + 2]), whole]
        return "\n\n".join(kept)


def _body(name: str, result: Result) -> str:
    return _said(name, result, show_of(result).body)


def _found(name: str, result: Result) -> str:
    """What a result found: its own sentence, else the first words of its section that are no heading."""
    section = show_of(result)
    if section.finding:
        return _said(name, result, section.finding)
    parts = _body(name, result).split("\n\n")
    plain = [part for part in parts if part and part[0] not in "|*#-!" and part[-1] != ":"]
    return _sentences(plain[0] if plain else section.opening)


def _said(name: str, result: Result, words: Callable[[Result], str]) -> str:
    try:
        return in_unit(words(result), unit_of(result))
    except KeyError as error:
        raise CorruptArtifact(
            f"the {result.kind} result '{name}' lacks {error}, which its section needs",
            f"make it anew with: {result.command}",
        ) from error


def _sentences(text: str) -> str:
    """The first sentences of a text, as many as fit into 220 letters, at least one."""
    kept = ""
    for sentence in re.split(r"(?<=[.?!]) (?=[A-Z])", text.replace("\n", " ").strip()):
        if kept and len(kept) + len(sentence) >= 220:
            break
        kept = f"{kept} {sentence}".strip()
    return kept


def _csv(lines: Sequence[str]) -> str:
    """Rows of a Markdown table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for line in lines:
        cells = re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|"))
        writer.writerow([cell.strip().replace("\\|", "|") for cell in cells])
    return text.getvalue()


def _contents(parts: Sequence[str]) -> str:
    """Links to the headings of the two upper levels."""
    lines = []
    for part in parts:
        match = re.fullmatch(r"(##|###) (.+)", part)
        if match:
            lines.append(f"{'  ' * (len(match[1]) - 2)}- [{escaped(match[2])}]({show.anchor(match[2])})")
    return "\n".join(lines)


def _origin(results: Mapping[str, Result], page: _Page) -> list[str]:
    """What the results were computed from and with."""
    inputs: list[Row] = [
        {"result": name, "input": source, "sha256": f"`{digest[:16]}`"}
        for name, result in sorted(results.items())
        for source, digest in sorted(result.inputs.items())
        if not source.endswith(IDENTITY)
    ]
    versions = sorted({f"{key} {value}" for one in results.values() for key, value in one.provenance.items()})
    heads = {"result": "result", "input": "made from", "sha256": "sha256 begins"}
    return [
        "## Where this comes from",
        page.short(markdown_table(inputs, heads), "made-from"),
        "Computed with " + ", ".join(versions) + ".",
    ]
