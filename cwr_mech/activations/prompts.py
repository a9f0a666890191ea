"""Texts about entities with coordinates, for a model that reads text: from a CSV file, or from templates.

An entity is what has a place: a city, a colour, a year. Each prompt (a template, or the value of a column
`prompt`) is one text about each entity, and a span of characters in it, whose last token is read. Entities
take the place of cities in the files that `cwr_mech.activations.texts` writes: their ids are their line
numbers, counted from 0, and no text shows them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cwr_mech.config import WorldConfig
from cwr_mech.errors import AnalysisError, WorldError
from cwr_mech.model.text import quoted
from cwr_mech.world.cities import World
from cwr_mech.world.csv_file import NUMBER, decimals, read_table
from cwr_mech.world.places import tenths
from cwr_mech.world.sources import shipped

NAME = "{name}"
COLUMNS_HINT = (
    "the first line must name the columns entity and lon,lat (degrees) or x,y (whole numbers), and text "
    "unless a template makes it; span, group, prompt and answer may be there, too"
)
RANGE = re.compile(r"([0-9]{1,9}):([0-9]{1,9})")
MOST_ENTITIES = 10**6
MOST = 2**31

Span = tuple[int, int]
"""First character and the one after the last."""


@dataclass(frozen=True)
class Prompts:
    """For each prompt a text about each entity, the characters read there, its answer where known."""

    entities: World
    texts: Mapping[str, tuple[str, ...]]
    spans: Mapping[str, tuple[Span, ...]]
    answers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def from_templates(cls, entities: World, templates: Sequence[str]) -> "Prompts":
        """`template1`, `template2`, ...: each template with every entity's name in the place of {name}.

        Raises AnalysisError for a template without {name}, or with several.
        """
        texts: dict[str, tuple[str, ...]] = {}
        spans: dict[str, tuple[Span, ...]] = {}
        for number, template in enumerate(templates, 1):
            if template.count(NAME) != 1:
                raise AnalysisError(
                    f"the template {quoted(template)} must hold {NAME} once",
                    f"as in 'The city of {NAME} is in'",
                )
            start = template.index(NAME)
            texts[f"template{number}"] = tuple(template.replace(NAME, name) for name in entities.names)
            spans[f"template{number}"] = tuple((start, start + len(name)) for name in entities.names)
        return cls(entities, texts, spans)


def city_prompts(templates: Sequence[str], n: int | None = None) -> Prompts:
    """Templates over the world's most populous cities by name, all that ship by default; of cities of one
    name the most populous alone, since a text names them alike.

    Raises AnalysisError for fewer than 3 or more than there are.
    """
    cities = shipped()
    first = list({name: row for row, name in reversed(list(enumerate(cities.names)))}.values())[::-1]
    if n is not None and not 3 <= n <= len(first):
        raise AnalysisError(f"{n} cities were asked for; there are {len(first):,} with different names")
    rows = sorted(first)[:n]
    entities = _entities(
        [cities.names[row] for row in rows], cities.xy[rows], [cities.region[row] for row in rows], "cities"
    )
    return Prompts.from_templates(entities, templates)


def read_prompts(path: Path, templates: Sequence[str] = ()) -> Prompts:
    """Texts from a CSV file, a line each; the first line names the columns, in any order, others are ignored.

    entity (or name)  what the text is about
    lon, lat          degrees, kept as tenths; or x, y: whole numbers in any unit, which win
    text              the text; with `templates` it is not needed
    span              which characters are read: a part of the text that occurs once, or FIRST:AFTER_LAST,
                      counted from 0; the entity's name by default
    group             a word for colouring, and for holding out whole groups
    prompt            which of several texts of an entity this is; each entity has each prompt then
    answer            how the text goes on, its first space included; the score of `cwr-mech patch`

    Raises MissingArtifact, or WorldError naming the file, the line and the fault.
    """
    lines = read_table(path, "file of prompts")
    if len(lines) < 2:
        raise WorldError(f"{path} holds no text", COLUMNS_HINT)
    header = [name.strip().lower() for name in lines[0][1]]
    about = "entity" if "entity" in header else "name"
    columns = ("x", "y") if {"x", "y"} <= set(header) else ("lon", "lat")
    for column in (about, *columns, *(() if templates else ("text",))):
        if header.count(column) != 1:
            fault = "twice" if column in header else "not at all"
            raise WorldError(f"{path} names the column '{column}' {fault}", COLUMNS_HINT)
    places: dict[str, tuple[float, float, str]] = {}
    found: dict[str, dict[str, tuple[str, Span, str]]] = {}
    for line, fields in lines[1:]:
        where = f"{path}, line {line}"
        if len(fields) != len(header):
            raise WorldError(f"{where}: {len(fields)} fields, but the first line names {len(header)} columns")
        row = dict(zip(header, fields, strict=True))
        entity = row[about].strip()
        if not entity:
            raise WorldError(f"{where}: the {about} is empty")
        x, y = (_number(where, column, row[column].strip()) for column in columns)
        place = (x, y, row.get("group", "").strip() or "no group")
        if places.setdefault(entity, place) != place:
            raise WorldError(f"{where}: {quoted(entity)} has other coordinates or another group further up")
        if templates:
            continue
        prompt = row.get("prompt", "").strip() or "text"
        if not re.fullmatch(r"[\w .+-]+", prompt) or prompt in (".", ".."):
            raise WorldError(f"{where}: prompt {quoted(prompt)} must be a word of letters and digits")
        if entity in found.setdefault(prompt, {}):
            raise WorldError(
                f"{where}: a second text about {quoted(entity)}",
                "a column 'prompt' tells the texts of an entity apart",
            )
        span = _span(where, row["text"], row.get("span", "").strip(), entity)
        found[prompt][entity] = row["text"], span, row.get("answer", "")
    for prompt, texts in found.items():
        if missing := [entity for entity in places if entity not in texts]:
            raise WorldError(f"{path}: {quoted(missing[0])} has no text for the prompt '{prompt}'")
    given = np.array([place[:2] for place in places.values()])
    xy = tenths(given) if columns == ("lon", "lat") else given.astype(np.int64)
    entities = _entities(list(places), xy, [place[2] for place in places.values()], path.as_posix())
    if templates:
        return Prompts.from_templates(entities, templates)

    def each(part: int) -> dict[str, tuple[Any, ...]]:
        return {prompt: tuple(about[name][part] for name in places) for prompt, about in found.items()}

    return Prompts(entities, each(0), each(1), each(2) if "answer" in header else {})


def _entities(names: Sequence[str], xy: np.ndarray, groups: Sequence[str], source: str) -> World:
    if len(names) > MOST_ENTITIES:
        raise WorldError(f"{source} names {len(names):,} entities; at most {MOST_ENTITIES:,} are supported")
    digits = len(str(max(len(names) - 1, 0)))
    return World(
        np.arange(len(names)),
        tuple(names),
        np.array(xy),
        np.array(groups),
        np.zeros(len(names), dtype=bool),
        WorldConfig(source=source, n_cities="all", id_digits=digits, id_min=0),
    )


def _number(where: str, column: str, text: str) -> float:
    """A coordinate. Raises WorldError where it is no number, out of range, or a broken x or y."""
    if not NUMBER.fullmatch(text) or abs(float(text)) >= MOST:
        raise WorldError(f"{where}: {column} {quoted(text)} is not a number", decimals(text))
    value = float(text)
    limit = {"lon": 180, "lat": 90}.get(column)
    if limit is not None and abs(value) > limit:
        raise WorldError(f"{where}: {column} {quoted(text)} is outside -{limit}..{limit} degrees")
    if limit is None and not value.is_integer():
        raise WorldError(f"{where}: {column} {quoted(text)} is not a whole number", "multiply by 1000, say")
    return value


def _span(where: str, text: str, given: str, entity: str) -> Span:
    """Characters of `text` that are read. Raises WorldError."""
    if bounds := RANGE.fullmatch(given):
        start, stop = int(bounds[1]), int(bounds[2])
        if not start < stop <= len(text):
            raise WorldError(f"{where}: the span {given} is not in a text of {len(text)} characters")
        return start, stop
    wanted = given or entity
    times = text.count(wanted)
    if times != 1:
        raise WorldError(
            f"{where}: {quoted(wanted)} occurs {times} times in {quoted(text)}",
            "a column 'span' says which characters are read, as 12:17",
        )
    start = text.index(wanted)
    return start, start + len(wanted)
