"""Named spans against the text itself, read by a parser that knows nothing of the arithmetic."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwr_mech.errors import AnalysisError, UnknownName
from cwr_mech.tasks.grammar import city_prompt_length, find_span, spans
from cwr_mech.tasks.registry import TASKS

SHAPES = [(name, n) for name, task in TASKS.items() for n in range(task.n_min, task.n_max + 1)]

# The paper reads a city at these two positions (last digit, delimiter).
PAPER_POSITIONS = {
    "distance": (11, 12),
    "trianglearea": (14, 15),
    "angle": (12, 13),
    "compass": (14, 15),
    "inside": (13, 14),
    "perimeter": (16, 17),
    "crossing": (12, 13),
}


def parsed(text: str) -> dict[str, str]:
    """Span name -> the characters it should hold, found by regular expression."""
    prefix, arguments = re.fullmatch(r"([a-z]+)\((.*)\)=", text).groups()
    found = {"task": prefix, "open": "(", "equals": "="}
    for k, match in enumerate(re.finditer(r"c_(\d+)([,;)])", arguments + ")"), start=1):
        found[f"city{k}"] = f"c_{match[1]}"
        found[f"city{k}_digits"] = match[1]
        found[f"city{k}_last"] = match[1][-1]
        found[f"delimiter{k}"] = match[2]
    return found


@pytest.mark.parametrize(("task", "n"), SHAPES)
@given(data=st.data(), digits=st.integers(1, 6))
def test_spans_hold_what_the_text_says(task: str, n: int, data: st.DataObject, digits: int) -> None:
    ids = data.draw(st.lists(st.integers(0, 10**digits - 1), min_size=n, max_size=n))
    text = TASKS[task].prompt(np.array([ids]), digits)[0]
    tokens = ["<bos>", *text]
    found = {name: "".join(tokens[span]) for name, span in spans(task, n, digits).items()}
    answers = [name for name in found if name.startswith("answer")]
    assert found.pop("bos") == "<bos>"
    assert [found.pop(name) for name in answers] == [""] * TASKS[task].max_answer_tokens
    assert found == parsed(text)


@pytest.mark.parametrize(("task", "n"), SHAPES)
def test_spans_tile_the_question(task: str, n: int) -> None:
    found = spans(task, n)
    whole = [span for name, span in found.items() if not name.endswith(("_digits", "_last"))]
    assert [span.start for span in whole] == [0, *(span.stop for span in whole[:-1])]
    question = TASKS[task].prompt(np.full((1, n), 1000))[0]
    assert whole[-1].stop == 1 + len(question) + TASKS[task].max_answer_tokens


@pytest.mark.parametrize(("task", "n"), SHAPES)
def test_first_city_stands_where_the_paper_reads_it(task: str, n: int) -> None:
    places = tuple(find_span(task, site, n).start for site in ("last_digit", "delimiter"))
    assert places == PAPER_POSITIONS[task]
    assert city_prompt_length(task) == 1 + len(TASKS[task].city_prompt(np.array([1000]))[0])


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(AnalysisError, match="distance takes 2 cities, not 3"):
        spans("distance", 3)
    with pytest.raises(AnalysisError, match="perimeter takes 2 to 5 cities, not 6"):
        spans("perimeter", 6)
    with pytest.raises(AnalysisError, match="at least 1 digit"):
        spans("distance", 2, 0)
    with pytest.raises(UnknownName, match="did you mean 'city2_last'"):
        find_span("distance", "city3_last", 2)
    with pytest.raises(UnknownName, match="unknown task 'dist'"):
        spans("dist", 2)
