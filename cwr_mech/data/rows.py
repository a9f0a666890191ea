"""Rows of token arrays: a pure function of (world, task, split, seed, group, protocol, row range).

Nothing is stored. Rows are made in blocks (`cwr_mech.data.sampling`), so `generate(..., n=100, start=50)`
equals the last 100 rows of `generate(..., n=150)`, and a stream can be entered at any row.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict, Unpack

import numpy as np
from jaxtyping import Int, Int8, Int32, Int64, UInt8

from cwr_mech.config import STRICT, Protocol
from cwr_mech.data.entries import Entries
from cwr_mech.data.sampling import Source, draw_block
from cwr_mech.errors import ConfigError, one_of
from cwr_mech.tasks.grammar import spans
from cwr_mech.tasks.registry import BLOCK_ROWS, MAX_CITIES, TASKS, Task, get_task
from cwr_mech.tasks.tokenizer import CHAR_ID, Tokenizer
from cwr_mech.world.cities import World

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor
    from torch.utils.data import Dataset

NOISE_KINDS = ("uniform", "local")
MOST_ROWS = 10_000_000
"""Rows kept at once: about 1 GB."""
LOCAL_CHANGE = 0.05
"""Largest relative change of a number under local noise."""

Tokens = UInt8[np.ndarray, "row pos"]
"""Rows of tokens, padded on the right."""
Places = Int32[np.ndarray, " row"]
"""A position in each row: its length, or where something begins."""

_DIGITS = np.array([CHAR_ID[digit] for digit in "0123456789"], dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class Rows(Entries):
    """Token rows of one or several tasks.

    tokens: padded on the right with 0. lengths: tokens of each row, `<bos>` and `<eos>` included.
    answer_start: position of the first answer token; the one before it is '='. task: index into TASKS.
    cities: city ids, -1 in unused places. values: the answers as written, as `Task.answer_value` gives them.
    """

    tokens: UInt8[np.ndarray, "row pos"]
    lengths: Int32[np.ndarray, " row"]
    answer_start: Int32[np.ndarray, " row"]
    task: Int8[np.ndarray, " row"]
    cities: Int32[np.ndarray, "row 6"]
    values: Int64[np.ndarray, " row"]

    def __repr__(self) -> str:
        tasks = ", ".join(TASKS.at(number).name for number in np.unique(self.task).tolist())
        return f"Rows({len(self)} of {tasks or 'no task'}, {self.tokens.shape[1]} tokens wide)"

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts())

    def to_pandas(self) -> "pd.DataFrame":
        """A row a question: task, question, answer, value, city1, city2, ... (ids; none where not used)."""
        import pandas as pd

        parts = [text.partition("=") for text in self.texts()]
        columns = {
            "task": [TASKS.at(number).name for number in self.task.tolist()],
            "question": [question + equals for question, equals, _ in parts],
            "answer": [answer for _, _, answer in parts],
            "value": self.values,
        }
        ids = pd.DataFrame(self.cities, columns=[f"city{k + 1}" for k in range(self.cities.shape[1])])
        used = ids.loc[:, (ids >= 0).any()].astype("Int64")
        return pd.concat([pd.DataFrame(columns), used.where(used >= 0)], axis=1)

    def to_dataset(self) -> "Dataset[dict[str, Tensor]]":
        """A torch Dataset whose items a DataLoader, or transformers' Trainer, takes as they are.

        input_ids int64 [pos]; attention_mask int64 [pos], 0 at padding; labels int64 [pos], the tokens of the
        answer and its end, -100 elsewhere.
        """
        from cwr_mech.data.torch_rows import TorchRows

        return TorchRows(self)

    def text(self, row: int) -> str:
        """One row as text, without `<bos>` and `<eos>`."""
        return Tokenizer().decode(self.tokens[row, : self.lengths[row]].tolist())

    def texts(self) -> list[str]:
        """All rows as text."""
        return Tokenizer().decode_rows(self.tokens)

    def prompts(self) -> list[str]:
        """The questions, up to and including '='."""
        return [text.partition("=")[0] + "=" for text in self.texts()]


def concat(parts: Iterable[Rows]) -> Rows:
    """Rows one after another, padded to the widest. Raises ConfigError when there are none."""
    parts = list(parts)
    if not parts:
        raise ConfigError("no rows to join")
    width = max(part.tokens.shape[1] for part in parts)
    wide = [
        part.arrays() | {"tokens": np.pad(part.tokens, ((0, 0), (0, width - part.tokens.shape[1])))}
        for part in parts
    ]
    return Rows(**{name: np.concatenate([arrays[name] for arrays in wide]) for name in wide[0]})


class StreamOptions(TypedDict, total=False):
    """What may be chosen about a stream of rows; what is left out is as in `Stream`.

    group: "old" names no new city, "new" at least one (other places: any city), "all" any.
    protocol: which of the reference's choices to follow. label_noise: share of rows with a wrong answer.
    """

    split: str
    seed: int
    start: int
    group: str
    protocol: Protocol
    label_noise: float
    label_noise_kind: str


class Stream:
    """The endless rows of one task, read in order; each block is made once. Options: see `StreamOptions`.

    `position` is the row that `take` gives next and may be set, which is all a resumed training needs.
    """

    def __init__(
        self,
        world: World,
        task: str,
        *,
        split: str = "train",
        seed: int = 42,
        start: int = 0,
        group: str = "old",
        protocol: Protocol = STRICT,
        label_noise: float = 0.0,
        label_noise_kind: str = "uniform",
    ) -> None:
        """Raises UnknownName, ConfigError, or WorldError when the world is too small for the task."""
        one_of("kind of label noise", label_noise_kind, NOISE_KINDS)
        if not 0 <= label_noise <= 1:
            raise ConfigError(f"label noise must be a share between 0 and 1, got {label_noise}")
        if start < 0 or seed < 0:
            raise ConfigError(f"rows and seeds start at 0, got start={start}, seed={seed}")
        self.source = Source(world, get_task(task), split, seed, group, protocol)
        self.noise, self.noise_kind = label_noise, label_noise_kind
        self.position = start
        self._block: tuple[int, Rows] | None = None

    def take(self, n: int) -> Rows:
        """The next `n` rows. Under `refill_repeats=False` rows that name a city twice are missing.

        Raises ConfigError for fewer than one, and for more than MOST_ROWS.
        """
        if n < 1:
            raise ConfigError(f"at least one row must be asked for, got {n}")
        if n > MOST_ROWS:
            raise ConfigError(f"at most {MOST_ROWS:,} rows are kept at once, got {n:,}", "take fewer")
        stop = self.position + n
        parts = []
        while self.position < stop:
            block, first = divmod(self.position, BLOCK_ROWS)
            last = min(first + stop - self.position, BLOCK_ROWS)
            parts.append(self._rows(block).take(slice(first, last)))
            self.position += last - first
        rows = concat(parts) if len(parts) > 1 else parts[0]
        return rows.take(_all_distinct(rows.cities)) if self.source.drops_repeats else rows

    def _rows(self, block: int) -> Rows:
        if self._block is None or self._block[0] != block:
            self._block = (block, self._make(block))
        return self._block[1]

    def _make(self, block: int) -> Rows:
        source = self.source
        ids, values = draw_block(source, block)
        if self.noise:
            rng = source.generator(block, stream=1)
            values = with_noise(source.task, values, self.noise, self.noise_kind, rng)
        tokens, lengths, start = encode(source.task, ids, values, source.world.config.id_digits)
        cities = np.full((len(ids), MAX_CITIES), -1, dtype=np.int32)
        cities[:, : ids.shape[1]] = ids
        index = np.full(len(ids), TASKS.index(source.task.name), dtype=np.int8)
        return Rows(tokens, lengths, start, index, cities, values)


def generate(world: World, task: str, n: int, **options: Unpack[StreamOptions]) -> Rows:
    """Rows `start` to `start + n` of one task. Options, and what is raised, are those of `Stream`."""
    return Stream(world, task, **options).take(n)


def _all_distinct(cities: Int[np.ndarray, "row k"]) -> np.ndarray:
    ordered = np.sort(cities, axis=1)
    return ~((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1)


def with_noise(
    task: Task, values: Int64[np.ndarray, " row"], share: float, kind: str, rng: np.random.Generator
) -> Int64[np.ndarray, " row"]:
    """Answer values of which each was hit with probability `share`; both kinds hit the same rows.

    uniform: a number becomes the answer to another of the given queries, a label any other label.
    local: a number changes by up to 5 % (at least by 1), a label becomes one of its two neighbours in the
    circle of the task's labels: compass the next sector on either side, TRUE and FALSE each other.
    """
    hit = rng.random(len(values)) < share
    sign = rng.choice([-1, 1], size=len(values))
    if task.labels:
        n = len(task.labels)
        step = rng.integers(1, n, size=len(values)) if kind == "uniform" else sign
        wrong = (values + step) % n
    elif kind == "uniform":
        wrong = np.roll(values, int(rng.integers(1, len(values))))
    else:
        change = np.rint(rng.random(len(values)) * LOCAL_CHANGE * values).astype(np.int64)
        wrong = np.abs(values + sign * np.maximum(change, 1))
    return np.where(hit, wrong, values)


def encode(
    task: Task, city_ids: Int64[np.ndarray, "row k"], values: Int64[np.ndarray, " row"], id_digits: int
) -> tuple[Tokens, Places, Places]:
    """Token rows, their lengths and the position of their first answer token.

    Rows read `<bos>prefix(c_dddd,...)=answer<eos>` and are padded on the right to the task's longest row
    (`Task.max_tokens`), so that the width depends on the task and on `id_digits` only. `city_ids` may end in
    -1 for unused places; `values` are answer values as `Task.answer_value` gives them.
    """
    tokens = np.full((len(city_ids), task.max_tokens(id_digits)), Tokenizer.pad, dtype=np.uint8)
    start = np.zeros(len(city_ids), dtype=np.int32)
    sizes = (city_ids >= 0).sum(axis=1)
    for size in range(task.n_min, task.n_max + 1):
        rows = slice(None) if task.n_min == task.n_max else np.flatnonzero(sizes == size)
        prompts = _prompts(task, city_ids[rows, :size], id_digits)
        start[rows] = prompts.shape[1]
        tokens[rows, : prompts.shape[1]] = prompts
    return tokens, _write_answers(task, tokens, start, values), start


def _prompts(task: Task, city_ids: np.ndarray, id_digits: int) -> np.ndarray:
    """`<bos>` to '=' of questions that all use the k cities of `city_ids` [row k]: uint8 [row pos]."""
    size = city_ids.shape[1]
    template = task.prompt(np.zeros((1, size), dtype=np.int64), id_digits)[0]
    tokens = np.tile(np.array(Tokenizer().encode_prompt(template), dtype=np.uint8), (len(city_ids), 1))
    places = spans(task.name, size, id_digits)
    for city in range(size):
        digits = tokens[:, places[f"city{city + 1}_digits"]]
        left = city_ids[:, city].astype(np.int32)
        for place in reversed(range(id_digits)):
            left, digit = np.divmod(left, 10)
            digits[:, place] = _DIGITS[digit]
    return tokens


def _write_answers(
    task: Task, tokens: np.ndarray, start: np.ndarray, values: Int[np.ndarray, " row"]
) -> np.ndarray:
    """Write answers and `<eos>` from `start` on, in place; returns the lengths of the rows."""
    if task.labels:
        size = np.array([len(label) for label in task.labels])[values]
        table = np.zeros((len(task.labels), task.max_answer_tokens - 1), dtype=np.uint8)
        for label, row in zip(task.labels, table, strict=True):
            row[: len(label)] = [CHAR_ID[char] for char in label]
    else:
        size = 1 + sum((values >= 10**power).astype(np.int64) for power in range(1, task.max_digits + 1))
    flat, first = tokens.reshape(-1), np.arange(len(tokens)) * tokens.shape[1] + start
    left = values
    for i in range(task.max_answer_tokens - 1):
        used = size > i
        if task.labels:
            flat[(first + i)[used]] = table[values[used], i]
        else:  # the last digit first
            left, digit = np.divmod(left, 10)
            flat[(first + size - 1 - i)[used]] = _DIGITS[digit[used]]
    flat[first + size] = Tokenizer.eos
    return (start + size + 1).astype(np.int32)
