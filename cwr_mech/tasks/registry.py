"""The seven geometric tasks: how a question is written, what its answer is, how an answer is read.

A row of text is `prefix(arguments)=answer`. Arguments are `c_` and the zero-padded id of a city, separated by
`,`, after the query city of `inside` and between the segments of `crossing` by `;`. Definitions, prefixes and
formats are the reference implementation's; `cwr_mech.tasks.geometry` says how degenerate cases are decided.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Int

from cwr_mech.errors import UnknownName, WorldError
from cwr_mech.tasks import geometry, symmetry

BOOLEANS = ("FALSE", "TRUE")
COMPASS = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")

Ids = Int[np.ndarray, "query k"]
Points = Int[np.ndarray, "query k 2"]
Sizes = Int[np.ndarray, " query"] | None


@dataclass(frozen=True)
class Task:
    """One task. `n_min`..`n_max` cities a query; the character after city i is `separators[i]`.

    `max_digits` bounds a number answer over the whole legal rectangle (3600 by 1800 tenths of a degree).
    `failure_value` is the score of an answer that cannot be read: an error in `unit` for numbers (the
    reference's), accuracy 0 for labels.
    """

    name: str
    prefix: str
    separators: str
    n_min: int
    n_max: int
    measure: Callable[..., np.ndarray]
    symmetry: Callable[..., np.ndarray]
    unit: str = ""
    max_digits: int = 0
    labels: tuple[str, ...] = ()
    failure_value: float = 0.0

    @property
    def kind(self) -> str:
        """ "number" (judged by absolute error) or "label" (judged by exact match)."""
        return "label" if self.labels else "number"

    @property
    def max_answer_tokens(self) -> int:
        """Tokens of the longest answer, its `<eos>` included: how many steps a decoder needs."""
        return 1 + (max(map(len, self.labels)) if self.labels else self.max_digits)

    def max_tokens(self, id_digits: int = 4) -> int:
        """Tokens of the longest row, `<bos>` and `<eos>` included."""
        return 1 + len(self.prefix) + 1 + self.n_max * (2 + id_digits + 1) + 1 + self.max_answer_tokens

    def prompt(self, city_ids: Ids, id_digits: int = 4) -> list[str]:
        """Questions up to and including '='. A row of `city_ids` [query k] may end in -1 for unused places.

        Raises WorldError when a row has too few or too many cities.
        """
        texts = []
        for row in np.asarray(city_ids).tolist():
            ids = [city for city in row if city >= 0]
            if not self.n_min <= len(ids) <= self.n_max:
                raise WorldError(f"{self.name} takes {self._arity} cities, got {len(ids)}")
            parts = [f"c_{city:0{id_digits}d}{self.separators[i]}" for i, city in enumerate(ids)]
            texts.append(f"{self.prefix}({''.join(parts)[:-1]})=")
        return texts

    def city_prompt(self, city_ids: Int[np.ndarray, " city"], id_digits: int = 4) -> list[str]:
        """The beginning of a question about each city: prefix, first city and the delimiter after it."""
        ids = np.asarray(city_ids).tolist()
        return [f"{self.prefix}(c_{city:0{id_digits}d}{self.separators[0]}" for city in ids]

    def answer_value(self, xy: Points, sizes: Sizes = None) -> Int[np.ndarray, " query"]:
        """Answers to queries at coordinates `xy` [query k 2] in tenths of a degree, as int64.

        Numbers in `unit`; labels as indices into `labels`. Row r uses its first `sizes[r]` points (all k
        when None). Raises WorldError when k is not a number of cities this task takes.
        """
        xy = np.asarray(xy, dtype=np.int64)
        if not self.n_min <= xy.shape[1] <= self.n_max:
            raise WorldError(f"{self.name} takes {self._arity} cities, got {xy.shape[1]}")
        return self.measure(xy, sizes)

    def answer(self, xy: Points, sizes: Sizes = None) -> list[str]:
        """Answers as text. Same arguments as `answer_value`."""
        return [self.format(value) for value in self.answer_value(xy, sizes).tolist()]

    def format(self, value: int) -> str:
        """The text of an answer value."""
        return self.labels[value] if self.labels else str(value)

    def parse(self, text: str) -> int | None:
        """The value of an answer, or of what follows the first '=' of a row; None when it is not an answer.

        A number for number tasks, the index into `labels` for label tasks. Unlike the reference, which reads
        leading digits and ignores the rest, the whole text must be an answer.
        """
        text = text.partition("=")[2] if "=" in text else text
        if self.labels:
            return self.labels.index(text) if text in self.labels else None
        return int(text) if re.fullmatch(r"[0-9]{1,12}", text) else None

    def canonical(self, city_ids: Ids) -> Ids:
        """The one way to write each query [query k] among all orders of its cities that ask the same."""
        return self.symmetry(np.asarray(city_ids))

    @property
    def _arity(self) -> str:
        return str(self.n_max) if self.n_min == self.n_max else f"{self.n_min} to {self.n_max}"


_DISTANCE = Task(
    "distance", "dist", ",,", 2, 2, geometry.distance, symmetry.unordered,
    unit="tenths of a degree", max_digits=4, failure_value=float(np.hypot(3600, 1800)),
)  # fmt: skip
_TRIANGLE_AREA = Task(
    "trianglearea", "triarea", ",,,", 3, 3, geometry.triangle_area, symmetry.unordered,
    unit="square tenths of a degree", max_digits=7, failure_value=3_240_000.0,
)  # fmt: skip
_ANGLE = Task(
    "angle", "angle", ",,,", 3, 3, geometry.angle, symmetry.ends_unordered,
    unit="degrees", max_digits=3, failure_value=180.0,
)  # fmt: skip
_COMPASS = Task("compass", "compass", ",,", 2, 2, geometry.compass, symmetry.unordered, labels=COMPASS)
_INSIDE = Task("inside", "inside", ";,,,,,", 4, 6, geometry.inside, symmetry.hull_unordered, labels=BOOLEANS)
_PERIMETER = Task(
    "perimeter", "perimeter", ",,,,,", 2, 5, geometry.perimeter, symmetry.cyclic,
    unit="tenths of a degree", max_digits=5, failure_value=20_000.0,
)  # fmt: skip
_CROSSING = Task(
    "crossing", "cross", ",;,,", 4, 4, geometry.crossing, symmetry.segments_unordered, labels=BOOLEANS
)

TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (_DISTANCE, _TRIANGLE_AREA, _ANGLE, _COMPASS, _INSIDE, _PERIMETER, _CROSSING)
    }
)
"""The seven tasks by name, in the order used everywhere."""


def get_task(name: str) -> Task:
    """The task of that name. Raises UnknownName."""
    if name not in TASKS:
        raise UnknownName("task", name, TASKS)
    return TASKS[name]
