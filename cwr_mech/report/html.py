"""A report as one page to explore: reports/NAME/report.html, readable without a network.

Words and tables are those of report.md, with every row; figures are redrawn as interactive panels
(`cwr_mech.render.panels`), and what a `show.py` lists under `explore` gets controls to choose what it shows.
"""

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cwr_mech.artifacts import atomic_file
from cwr_mech.findings import show
from cwr_mech.render.panels import panels
from cwr_mech.render.shown import Explorer
from cwr_mech.report.contents import show_of
from cwr_mech.report.figures import caption_of, drawn
from cwr_mech.report.maps import map_data
from cwr_mech.report.page import report_text
from cwr_mech.report.write import saved_results
from cwr_mech.results import Result

if TYPE_CHECKING:
    from markdown_it.token import Token

TEMPLATES = Path(__file__).parent / "templates"
FILE = "report.html"
MAP = "The map in motion"
"""Heading of the map, where the results hold places."""


def write_html(folder: Path | str) -> Path:
    """Write `folder`/report.html from `folder`/results and nothing else; returns its path.

    Raises what `cwr_mech.report.write.write_report` raises.
    """
    folder = Path(folder)
    page = html_page(folder.name, saved_results(folder))
    with atomic_file(folder / FILE) as part:
        part.write_text(page, encoding="utf-8")
    return folder / FILE


def html_page(name: str, results: Mapping[str, Result]) -> str:
    """The whole page of a report called `name`: plotly's program, styles and data are inside."""
    from jinja2 import Environment, FileSystemLoader
    from plotly.offline import get_plotlyjs

    figures: dict[str, list[Any]] = {}
    captions: dict[str, str] = {}
    for key, result in results.items():
        for file, figure in drawn(result, key):
            captions[file] = caption_of(figure)
            figures[file] = [json.loads(panel.to_json()) for panel in panels(figure)]
    explorers = {
        key: _plain(found)
        for key, result in results.items()
        if (explore := show_of(result).explore) and (found := explore(result))
    }
    text, _ = report_text(name, results, captions, most_rows=None)
    places = map_data(results)
    beside = r"^## Contents\n\n(?: *- .*\n)+\n"  # the page has its contents beside the text
    head, mark, rest = re.sub(beside, "", text, flags=re.MULTILINE).partition("## Summary\n")
    moving = f"\n## {MAP}\n\n" if places else ""
    summary, line, chapters = rest.partition("\n## ")
    text = f"{head}{mark}{summary}{moving}{line}{chapters}"
    body, headings = _as_html(text, figures, explorers)
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
    return environment.get_template("page.html").render(
        name=name,
        body=body,
        headings=headings,
        data=_json({"figures": figures, "explorers": explorers, "map": places}),
        plotly=_script(get_plotlyjs()),
        style=(TEMPLATES / "page.css").read_text(encoding="utf-8"),
        programs=[_script((TEMPLATES / file).read_text(encoding="utf-8")) for file in ("map.js", "page.js")],
    )


def _plain(explorer: Explorer) -> dict[str, Any]:
    """An explorer as the page's program reads it."""
    panels = {"|".join(map(str, place)): panel for place, panel in explorer.panels.items()}
    return explorer._asdict() | {"panels": panels}


def _json(data: object) -> str:
    """JSON that can stand inside a script element."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("</", "<\\/")


def _script(text: str) -> str:
    return text.replace("</script", "<\\/script")


def _as_html(
    text: str, figures: Mapping[str, Sequence[Any]], explorers: Mapping[str, Any]
) -> tuple[str, list[dict[str, object]]]:
    """The report's Markdown as HTML, and its headings {level, title, anchor} of the upper three levels.

    Headings get the anchors that links in the text name; a picture becomes the place of its panels, whose
    description is the picture's alternative text.
    """
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(text)
    headings: list[dict[str, object]] = []
    taken: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            title = _words(tokens[index + 1])
            anchor = show.anchor(title)[1:]
            taken[anchor] = taken.get(anchor, 0) + 1
            anchor += f"-{taken[anchor] - 1}" if taken[anchor] > 1 else ""
            token.attrSet("id", anchor)
            if token.tag in ("h2", "h3"):
                headings.append({"level": int(token.tag[1]), "title": title, "anchor": anchor})

    def image(tokens: Sequence["Token"], index: int, *_: object) -> str:
        source = str(tokens[index].attrs["src"]).removeprefix("figures/")
        described = escape(_words(tokens[index]))
        if source not in figures:
            return ""
        about = f'role="group" aria-label="{described}" data-figure="{escape(source)}"'
        return f'<span class="figure" {about}></span>'

    def heading_close(tokens: Sequence["Token"], index: int, *_: object) -> str:
        """The end of a heading; what can be explored stands right below it."""
        title, tag = _words(tokens[index - 1]), tokens[index].tag
        if title == MAP:
            return f'</{tag}><div class="explorer" id="map-in-motion"></div>'
        if title in explorers and tag != "h2":
            return f'</{tag}><div class="explorer" data-explorer="{escape(title)}"></div>'
        return f"</{tag}>"

    reader.renderer.rules |= {"image": image, "heading_close": heading_close}  # type: ignore[attr-defined]
    return reader.renderer.render(tokens, reader.options, {}), headings


def _words(token: "Token") -> str:
    """The text of an inline token without its marks."""
    return "".join(child.content for child in token.children or ())
