"""Queries and answers as token arrays, by integer arithmetic; no Python string is made per row."""

import numpy as np
from jaxtyping import Int, Int32, Int64, UInt8

from cwr_mech.tasks.grammar import spans
from cwr_mech.tasks.registry import Task
from cwr_mech.tasks.tokenizer import CHAR_ID, Tokenizer

Tokens = UInt8[np.ndarray, "row pos"]
Places = Int32[np.ndarray, " row"]

_DIGITS = np.array([CHAR_ID[digit] for digit in "0123456789"], dtype=np.uint8)


def encode(
    task: Task,
    city_ids: Int64[np.ndarray, "row k"],
    values: Int64[np.ndarray, " row"],
    id_digits: int,
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
