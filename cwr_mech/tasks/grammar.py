"""Where things stand in a question: named spans of token positions, by arithmetic alone.

One grammar covers all tasks, one token a character:

    <bos> prefix ( c_dddd delimiter c_dddd delimiter ... ) = answer <eos>

Positions count from 0 = `<bos>`. They depend only on the task, the number of cities and the digits of an id,
never on which cities, so questions of one shape can be stacked and edited at the same places. Patching and
the activation files both name places this way.
"""

from collections.abc import Mapping
from types import MappingProxyType

from cwr_mech.errors import AnalysisError, UnknownName
from cwr_mech.tasks.registry import get_task

SITES: Mapping[str, str] = MappingProxyType({"last_digit": "city1_last", "delimiter": "delimiter1"})
"""Short names of the two places where the paper reads a city -> span."""


def spans(task: str, n_cities: int, id_digits: int = 4) -> dict[str, slice]:
    """Span name -> token positions, in the order of the text, for questions with `n_cities` cities.

    `bos`; `task` (the prefix); `open`; for each city k from 1: `cityk` (all of `c_dddd`), `cityk_digits`,
    `cityk_last` (its last digit) and `delimiterk` (the character after it, `)` after the last city);
    `equals`; `answer1`, `answer2`, ... up to the longest answer with its `<eos>`.
    Raises UnknownName for the task, AnalysisError for a number of cities or digits it cannot have.
    """
    definition = get_task(task)
    if not definition.n_min <= n_cities <= definition.n_max:
        raise AnalysisError(
            f"{task} takes {definition.n_min} to {definition.n_max} cities, not {n_cities}"
            if definition.n_min < definition.n_max
            else f"{task} takes {definition.n_min} cities, not {n_cities}"
        )
    if id_digits < 1:
        raise AnalysisError(f"a city id has at least 1 digit, not {id_digits}")
    here = 1 + len(definition.prefix)
    found = {"bos": slice(0, 1), "task": slice(1, here), "open": slice(here, here + 1)}
    here += 1
    for city in range(1, n_cities + 1):
        end = here + len("c_") + id_digits
        found[f"city{city}"] = slice(here, end)
        found[f"city{city}_digits"] = slice(end - id_digits, end)
        found[f"city{city}_last"] = slice(end - 1, end)
        found[f"delimiter{city}"] = slice(end, end + 1)
        here = end + 1
    found["equals"] = slice(here, here + 1)
    for place in range(1, definition.max_answer_tokens + 1):
        found[f"answer{place}"] = slice(here + place, here + place + 1)
    return found


def find_span(task: str, name: str, n_cities: int, id_digits: int = 4) -> slice:
    """The positions of one span, or of one of the short names: those in SITES, and `digitN`, the N-th digit
    of the first city's id. Raises UnknownName.
    """
    found = spans(task, n_cities, id_digits)
    full = SITES.get(name, name)
    if name.startswith("digit") and name[5:].isdecimal() and 1 <= int(name[5:]) <= id_digits:
        start = found["city1_digits"].start + int(name[5:]) - 1
        return slice(start, start + 1)
    if full not in found:
        raise UnknownName(f"place in a {task} question of {n_cities} cities", name, [*SITES, *found])
    return found[full]


def city_prompt_length(task: str, id_digits: int = 4) -> int:
    """Tokens of `Task.city_prompt` with its `<bos>`: everything up to the delimiter after the first city."""
    return spans(task, get_task(task).n_min, id_digits)["delimiter1"].stop
