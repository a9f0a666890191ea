"""The tasks: how a question is written, what its answer is, how an answer is read. One row a task.

A row of text is `prefix(arguments)=answer`. Arguments are `c_` and the zero-padded id of a city, separated by
`,`, after the query city of `inside` and between the segments of `crossing` by `;`. Definitions, prefixes and
formats are the reference implementation's; `cwr_mech.tasks.geometry` says how degenerate cases are decided.

`register_task` adds a task; everything else (data, training, analyses, figures) takes it from the table.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from jaxtyping import Int

from cwr_mech.errors import ConfigError, UnknownName, WorldError
from cwr_mech.tasks import geometry, symmetry
from cwr_mech.tasks.plugins import Registry

BOOLEANS = ("FALSE", "TRUE")
COMPASS = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")

MAX_CITIES = 6
"""Cities that a question may name at most."""
BLOCK_ROWS = 3072
"""Rows drawn together (`cwr_mech.data.sampling`); a multiple of every task's number of strata."""

Ids = Int[np.ndarray, "query k"]
Points = Int[np.ndarray, "query k 2"]
Sizes = Int[np.ndarray, " query"] | None


@dataclass(frozen=True)
class Stratum:
    """One kind of question: its numbers of cities, its label (any when None), and how often a draw fits.

    The rate only sets how many queries are drawn at once; for the paper's tasks it was measured on the
    shipped world.
    """

    sizes: tuple[int, ...]
    label: int | None = None
    rate: float = 1.0


@dataclass(frozen=True)
class Task:
    """One task. `n_min`..`n_max` cities a query; the character after city i is `separators[i]`.

    formula: answers to queries `xy` [query k 2], whole units of the world (tenths of a degree on the earth),
    of which row r uses its first `sizes[r]` points (all k when None): int64 [query], labels as indices.
    symmetry: the one way to write a query [query k] among all orders of its cities that ask the same
    (`cwr_mech.tasks.symmetry`); by default every order asks something else.
    `max_digits` bounds a number answer over the whole legal rectangle (3600 by 1800 tenths of a degree).
    `failure_value` is the score of an answer that cannot be read: an error in `unit` for numbers (the
    reference's), accuracy 0 for labels.
    strata: kinds of questions that share the rows equally; by default each number of cities is one.
    invariances: generators of the affine maps of the plane that change no answer. letter: the paper's.
    The last three are choices of the reference (`cwr_mech.config.Protocol`): other strata, whether it
    shuffles the cities of a drawn query, whether its splits are dealt from one deck.

    Raises ConfigError for fields that cannot make a task.
    """

    name: str
    prefix: str
    separators: str
    n_min: int
    n_max: int
    formula: Callable[..., np.ndarray]
    symmetry: Callable[..., np.ndarray] = symmetry.ordered
    unit: str = ""
    max_digits: int = 0
    labels: tuple[str, ...] = ()
    failure_value: float = 0.0
    strata: tuple[Stratum, ...] = ()
    invariances: frozenset[str] = frozenset()
    letter: str = ""
    reference_strata: tuple[Stratum, ...] = ()
    reference_shuffles: bool = False
    reference_one_deck: bool = False

    def __post_init__(self) -> None:
        for kind, text, pattern in (
            ("name", self.name, r"[a-z][a-z0-9_]{0,31}"),
            ("prefix", self.prefix, r"[a-z][a-z0-9_]{0,15}"),
            ("separators", self.separators, f"[,;]{{{self.n_max}}}"),
        ):
            if not re.fullmatch(pattern, text):
                raise ConfigError(f"a task's {kind} cannot be '{text}'", f"it must match {pattern}")
        if self.name in ("all", "none"):
            raise ConfigError(f"a task cannot be called '{self.name}': commands use the word")
        if not 1 <= self.n_min <= self.n_max <= MAX_CITIES:
            raise ConfigError(f"task {self.name} cannot name {self._arity} cities, only 1 to {MAX_CITIES}")
        if bool(self.labels) == bool(self.max_digits):
            raise ConfigError(
                f"task {self.name} needs labels, for answers in words, or max_digits, for numbers; not both"
            )
        if len({*self.labels}) < len(self.labels) or not all(
            re.fullmatch("[A-Za-z0-9]{1,16}", x) for x in self.labels
        ):
            raise ConfigError(f"task {self.name}: labels are different words of letters and digits")
        if not self.strata:
            each = tuple(Stratum((size,)) for size in range(self.n_min, self.n_max + 1))
            object.__setattr__(self, "strata", each)
        if BLOCK_ROWS % len(self.strata):
            raise ConfigError(
                f"task {self.name} has {len(self.strata)} strata", f"their number must divide {BLOCK_ROWS}"
            )

    @property
    def key(self) -> int:
        """The number that stands for the task in hashes and seeds: its place in the paper, or of its name."""
        if self.name in PAPER_TASKS:
            return PAPER_TASKS.index(self.name)
        return int.from_bytes(sha256(self.name.encode()).digest()[:4], "big") | 1 << 32

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
        return self.formula(xy, sizes)

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


def checked(task: Task) -> Task:
    """The task, if its formula gives 256 random queries answers that it can write. Raises ConfigError."""
    rng = np.random.default_rng(0)
    limit = len(task.labels) or 10**task.max_digits
    for size in range(task.n_min, task.n_max + 1):
        xy = np.stack([rng.integers(-b, b + 1, (256, size)) for b in (1800, 900)], axis=-1)
        try:
            values = np.asarray(task.formula(xy, np.full(256, size)))
        except Exception as error:  # whatever a user's formula raises
            raise ConfigError(f"the formula of {task.name} fails for {size} cities: {error!r}") from error
        if values.shape != (256,) or not np.issubdtype(values.dtype, np.integer):
            raise ConfigError(
                f"for 256 queries the formula of task {task.name} gives {values.dtype} {values.shape}",
                "it must give one whole number a query: np.rint(...).astype(np.int64)",
            )
        if values.min() < 0 or values.max() >= limit:
            what = f"labels 0 to {limit - 1}" if task.labels else f"numbers of up to {task.max_digits} digits"
            raise ConfigError(
                f"the formula of task {task.name} gives {values.min()} to {values.max()}, not {what}"
            )
    return task


_SHIFTS = frozenset({"move east", "move north"})
_RIGID = _SHIFTS | {"turn"}
_AFFINE = _RIGID | {"shear", "squeeze"}

_TASKS = (
    Task(
        "distance", "dist", ",,", 2, 2, geometry.distance, symmetry.unordered, letter="D",
        unit="tenths of a degree", max_digits=4, failure_value=float(np.hypot(3600, 1800)),
        invariances=_RIGID, reference_one_deck=True,
    ),
    Task(
        "trianglearea", "triarea", ",,,", 3, 3, geometry.triangle_area, symmetry.unordered, letter="T",
        unit="square tenths of a degree", max_digits=7, failure_value=3_240_000.0, invariances=_AFFINE,
    ),
    Task(
        "angle", "angle", ",,,", 3, 3, geometry.angle, symmetry.ends_unordered, letter="A",
        unit="degrees", max_digits=3, failure_value=180.0, invariances=_RIGID | {"scale"},
    ),
    Task(
        "compass", "compass", ",,", 2, 2, geometry.compass, symmetry.unordered, letter="Co",
        labels=COMPASS, invariances=_SHIFTS | {"scale"},
    ),
    # TRUE and FALSE for every number of hull points; in the reference TRUE and FALSE only, with the number of
    # hull points drawn first, so that large hulls are over-represented among TRUE.
    Task(
        "inside", "inside", ";,,,,,", 4, 6, geometry.inside, symmetry.hull_unordered, letter="I",
        labels=BOOLEANS, invariances=_AFFINE | {"scale"},
        strata=(
            Stratum((4,), 0, 0.91), Stratum((4,), 1, 0.09), Stratum((5,), 0, 0.83),
            Stratum((5,), 1, 0.17), Stratum((6,), 0, 0.75), Stratum((6,), 1, 0.25),
        ),
        reference_strata=(Stratum((4, 5, 6), 0, 0.83), Stratum((4, 5, 6), 1, 0.17)),
    ),
    Task(
        "perimeter", "perimeter", ",,,,,", 2, 5, geometry.perimeter, symmetry.cyclic, letter="P",
        unit="tenths of a degree", max_digits=5, failure_value=20_000.0, invariances=_RIGID,
    ),
    Task(
        "crossing", "cross", ",;,,", 4, 4, geometry.crossing, symmetry.segments_unordered, letter="Cr",
        labels=BOOLEANS, invariances=_AFFINE | {"scale"},
        strata=(Stratum((4,), 0, 0.77), Stratum((4,), 1, 0.23)), reference_shuffles=True,
    ),
)  # fmt: skip

PAPER_TASKS = tuple(task.name for task in _TASKS if task.letter)
"""Names of the paper's seven tasks in its order: what presets train on and published values are about."""


def _read(name: str, found: Any) -> Mapping[str, Task]:
    """Tasks of an entry point: a Task, or several of them."""
    tasks = [found] if isinstance(found, Task) else list(found)
    return {task.name: _free(checked(task)) for task in tasks}


def _free(task: Task) -> Task:
    """The task, if no other has its prefix. Raises ConfigError."""
    other = next((one for one in TASKS.values() if one.prefix == task.prefix and one.name != task.name), None)
    if other is not None:
        raise ConfigError(f"the prefix '{task.prefix}' is that of task {other.name}", "take another")
    return task


TASKS: Registry[Task] = Registry("task", "cwr_mech.tasks", {task.name: task for task in _TASKS}, _read)
"""All tasks by name: the paper's seven in its order, then registered ones and those of plug-ins."""


def register_task(task: Task, *, replace: bool = False) -> Task:
    """Add a task for this process; `replace` lets it take the place of one that was added before.

    A task for every process comes from an installed package with an entry point of the group
    `cwr_mech.tasks`. Returns the task. Raises ConfigError when its name or prefix is taken or its formula
    gives answers that it cannot write.
    """
    TASKS.add(task.name, _free(checked(task)), replace=replace)
    return task


PLUGIN_HINT = "a task of your own needs its package installed, or cwr_mech.register_task"


class UnknownTask(UnknownName):
    """A task that is not in the table here, though a plug-in may have brought it elsewhere."""

    def __init__(self, name: object) -> None:
        super().__init__("task", name, TASKS)
        self.name = str(name)
        self.hint = f"{self.hint}; {PLUGIN_HINT}"


def get_task(name: str) -> Task:
    """The task of that name. Raises UnknownTask."""
    if name not in TASKS:
        raise UnknownTask(name)
    return TASKS[name]


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Names of tasks in the order used everywhere, each once; what is no task here comes last."""
    given = dict.fromkeys(names)
    return (*(name for name in TASKS if name in given), *(name for name in given if name not in TASKS))
