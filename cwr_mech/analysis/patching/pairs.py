"""Pairs of questions that differ in one city, with the sources that serve as controls.

The clean question asks about real cities; the corrupt one has another real city in one place (never noise),
so both have the same tokens everywhere but in that city's digits. A pair is kept when the model answers both
well enough and differently; how many candidates were lost, and to what, is counted.

Beside the corrupt question a pair may hold three more sources:
third  yet another city in the same place: an unrelated source, the null of a patch;
equal  another city in the same place that gives the same answer: identity changes, the answer does not;
order  the clean question with its cities reordered where the task is symmetric: nothing should change.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int64, Shaped

from cwr_mech.data.entries import Entries
from cwr_mech.data.rows import generate
from cwr_mech.errors import AnalysisError, UnknownName
from cwr_mech.tasks.registry import Task, get_task
from cwr_mech.world.cities import World

Answerer = Callable[[list[str]], list[str]]
"""Gives a model's decoded answers to prompts, such as `partial(decode_text, model, max_new_tokens=8)`."""

TOLERANCE = 0.25
"""Default tolerance of a number's answer, as a share of the mean error of the best constant answer."""

BATCH, PATIENCE = 512, 8
"""Candidates decoded at once, and after how many times as many candidates as pairs the search ends."""

GROUPS = ("old", "new")


class NoPairs(AnalysisError):
    """A model answers too few questions of a task to patch them, or the task has no such city to swap."""


READING = "swapped_reading"
"""Span of the token, or tokens, at which the model reads the swapped city: `Pairs.reading` says which."""

REASONS = ("kept", "clean answer wrong", "corrupt answer wrong", "answers too close", "asked before")


@dataclass(frozen=True)
class Pairs(Entries):
    """Pairs of one task. City ids are padded at the end with -1, as in `Rows`.

    `slot`: which city differs, from 0. `n_differ`: how many digits of its id differ. Answers are the model's
    own words, truths are the task's answer values. `equal` has -1 in the first column where there is none.
    `order` is None where the task has no symmetry that keeps the answer. `tolerance` is in the task's unit
    (0 for labels), as is `constant_error`, the mean error of the constant-prediction baseline.
    `attrition` counts candidates by what became of them, REASONS in order. `reading`: the position at which
    the model reads a city, by cause (see `sites.CausalSites.reading`); several are joined by "+".
    """

    task: str
    group: str
    id_digits: int
    clean: Int64[np.ndarray, "pair k"]
    corrupt: Int64[np.ndarray, "pair k"]
    third: Int64[np.ndarray, "pair k"]
    equal: Int64[np.ndarray, "pair k"]
    order: Int64[np.ndarray, "pair k"] | None
    slot: Int64[np.ndarray, " pair"]
    n_differ: Int64[np.ndarray, " pair"]
    clean_answer: Shaped[np.ndarray, " pair"]
    corrupt_answer: Shaped[np.ndarray, " pair"]
    clean_truth: Int64[np.ndarray, " pair"]
    corrupt_truth: Int64[np.ndarray, " pair"]
    tolerance: float
    constant_error: float
    attrition: dict[str, int]
    reading: str = "last_digit"

    @property
    def cluster(self) -> Int64[np.ndarray, " pair"]:
        """Id of the clean question's swapped city: pairs that share it are resampled together."""
        return self.clean[np.arange(len(self)), self.slot]

    def by_size(self) -> Iterator[tuple[int, Int64[np.ndarray, " row"]]]:
        """(number of cities, rows) for every number of cities: questions of one size have one layout."""
        sizes = (self.clean >= 0).sum(axis=1)
        for size in np.unique(sizes).tolist():
            yield size, np.flatnonzero(sizes == size)


def find_pairs(
    answerer: Answerer,
    world: World,
    task: str,
    n: int,
    *,
    seed: int = 42,
    group: str = "old",
    slot: int | None = None,
    tolerance: float = TOLERANCE,
    least: int = 8,
) -> Pairs:
    """Up to `n` pairs from test questions, spread evenly over the numbers of digits that differ.

    `group` "old" swaps one training city for another; "new" asks about at least one new city and swaps a new
    city for an old one (new cities lie so close together that one for another changes hardly an answer).
    `slot` fixes the place that is swapped (from 0; by default any). `tolerance`: an answer in numbers is
    right within this share of the best constant answer's mean error, and the two true answers must be more
    than twice that apart; labels must be exact.
    Raises UnknownName, WorldError, or NoPairs when the task has no such place, or when fewer than `least`
    pairs survive, with the counts.
    """
    definition = get_task(task)
    if slot is not None and not 0 <= slot < definition.n_max:
        raise NoPairs(
            f"{task} questions have no city {slot + 1} to swap", f"they name {definition.n_max} at most"
        )
    if group not in GROUPS:
        raise UnknownName("group of cities", group, GROUPS)
    rng = np.random.default_rng(np.random.SeedSequence((seed, 5)))
    constant = _constant_error(definition, world, seed, group)
    unit = tolerance * constant
    found: list[Pairs] = []
    counts = dict.fromkeys(REASONS, 0)
    start, seen = 0, set[bytes]()
    while counts["kept"] < n and start < PATIENCE * max(n, BATCH):
        cities = generate(world, task, BATCH, split="test", seed=seed, start=start, group=group).cities
        start += BATCH
        candidates = _swap(definition, world, cities.astype(np.int64), rng, slot, group, unit)
        if not len(candidates):
            continue
        judged, reasons = _judge(candidates, definition, world, answerer)
        reasons[_repeated(judged, seen) & (reasons == "kept")] = "asked before"
        for reason, count in zip(*np.unique(reasons, return_counts=True), strict=True):
            counts[str(reason)] += int(count)
        found.append(judged.take(reasons == "kept"))
    pairs = _join(found).take(slice(0, n))
    if len(pairs) < least:
        lost = ", ".join(f"{count} {reason}" for reason, count in counts.items() if reason != "kept")
        raise NoPairs(
            f"the model gives only {len(pairs)} usable {task} pairs of {sum(counts.values())} tried: {lost}",
            "train it longer, or raise --tolerance; patching explains answers, and here are hardly any",
        )
    pairs = replace(pairs, attrition=counts, constant_error=constant)
    return replace(pairs, equal=_equal_sources(pairs, definition, world, answerer, rng))


def _constant_error(task: Task, world: World, seed: int, group: str) -> float:
    """Mean error of the best constant answer, the median; 0 for labels."""
    if task.labels:
        return 0.0
    values = generate(world, task.name, 1024, split="test", seed=seed, group=group).values
    return float(np.abs(values - np.median(values)).mean())


def digits_differ(
    a: Int[np.ndarray, "*shape"], b: Int[np.ndarray, "*shape"], digits: int
) -> Int64[np.ndarray, "*shape"]:
    """In how many of their decimal places two ids differ."""
    places = 10 ** np.arange(digits)
    return ((a[..., None] // places % 10) != (b[..., None] // places % 10)).sum(-1).astype(np.int64)


def _swap(
    task: Task,
    world: World,
    clean: Int64[np.ndarray, "pair k"],
    rng: np.random.Generator,
    slot: int | None,
    group: str,
    tolerance: float,
) -> Pairs:
    """Candidate pairs: one city replaced by an old one, the number of differing digits drawn evenly where
    cities allow. Questions without a city that may be swapped are left out."""
    digits = world.config.id_digits
    wanted = np.isin(clean, world.ids[world.is_new == (group == "new")])
    if slot is not None:
        wanted &= np.arange(clean.shape[1]) == slot
    clean, wanted = clean[wanted.any(1)], wanted[wanted.any(1)]
    n, sizes = len(clean), (clean >= 0).sum(axis=1)
    corrupt, third = clean.copy(), clean.copy()
    slots = np.empty(n, dtype=np.int64)
    for row in range(n):
        ids = clean[row, : sizes[row]]
        slots[row] = rng.choice(np.flatnonzero(wanted[row]))
        pool = world.ids[~world.is_new & ~np.isin(world.ids, ids)]
        differ = digits_differ(np.broadcast_to(ids[slots[row]], pool.shape), pool, digits)
        stratum = pool[differ == rng.choice(np.unique(differ))]
        corrupt[row, slots[row]] = rng.choice(stratum)
        third[row, slots[row]] = rng.choice(pool[pool != corrupt[row, slots[row]]])
    here = np.arange(n), slots
    empty = np.full(n, "", dtype="<U16")
    return Pairs(
        task=task.name,
        group=group,
        id_digits=digits,
        clean=clean,
        corrupt=corrupt,
        third=third,
        equal=np.full_like(clean, -1),
        order=_reordered(task, world, clean),
        slot=slots,
        n_differ=digits_differ(clean[here], corrupt[here], digits),
        clean_answer=empty,
        corrupt_answer=empty,
        clean_truth=true_answers(task, world, clean),
        corrupt_truth=true_answers(task, world, corrupt),
        tolerance=tolerance,
        constant_error=0.0,
        attrition={},
    )


def _repeated(pairs: Pairs, seen: set[bytes]) -> Bool[np.ndarray, " pair"]:
    """Whether a pair of the same two questions came before; small worlds have few questions to draw."""
    repeated = []
    for row in np.concatenate([pairs.clean, pairs.corrupt], axis=1):
        repeated.append(row.tobytes() in seen)
        seen.add(row.tobytes())
    return np.array(repeated)


def true_answers(task: Task, world: World, ids: Int64[np.ndarray, "pair k"]) -> Int64[np.ndarray, " pair"]:
    """The task's answer value to each question."""
    sizes = (ids >= 0).sum(axis=1)
    xy = world.xy_of(np.where(ids >= 0, ids, ids[:, :1]))[:, : task.n_max]
    return task.answer_value(xy, sizes).astype(np.int64)


def _reordered(
    task: Task, world: World, clean: Int64[np.ndarray, "pair k"]
) -> Int64[np.ndarray, "pair k"] | None:
    """The same questions in another order, by one permutation a number of cities; None without a symmetry."""
    sizes = (clean >= 0).sum(axis=1)
    result, truth = clean.copy(), true_answers(task, world, clean)
    for size in np.unique(sizes).tolist():
        rows = np.flatnonzero(sizes == size)
        for order in permutations(range(size)):
            moved = clean[rows].copy()
            moved[:, :size] = clean[rows][:, order]
            same = (task.canonical(moved[:, :size]) == task.canonical(clean[rows][:, :size])).all()
            changed = order != tuple(range(size))
            if changed and same and (true_answers(task, world, moved) == truth[rows]).all():
                result[rows] = moved
                break
        else:
            return None
    return result


def _judge(
    pairs: Pairs, task: Task, world: World, answerer: Answerer
) -> tuple[Pairs, Shaped[np.ndarray, " pair"]]:
    """The pairs with the model's answers, and what becomes of each: a word of REASONS."""
    n = len(pairs)
    prompts = task.prompt(pairs.clean, pairs.id_digits) + task.prompt(pairs.corrupt, pairs.id_digits)
    answers = np.array(answerer(prompts), dtype="<U16")
    clean, corrupt = answers[:n], answers[n:]
    right = correct(task, clean, pairs.clean_truth, pairs.tolerance)
    right_too = correct(task, corrupt, pairs.corrupt_truth, pairs.tolerance)
    apart = np.abs(pairs.clean_truth - pairs.corrupt_truth) > 2 * pairs.tolerance
    reasons = np.select([~right, ~right_too, ~apart | (clean == corrupt)], REASONS[1:4], REASONS[0])
    return replace(pairs, clean_answer=clean, corrupt_answer=corrupt), reasons


def correct(
    task: Task, answers: Shaped[np.ndarray, " n"], truth: Int64[np.ndarray, " n"], tolerance: float
) -> Bool[np.ndarray, " n"]:
    """Whether each answer is the truth: within `tolerance` for numbers, exactly for labels."""
    values = [task.parse(str(answer)) for answer in answers]
    given = np.array([value is not None for value in values], dtype=bool)
    read = np.array([-1 if value is None else value for value in values], dtype=np.int64)
    return given & (np.abs(read - truth) <= (0 if task.labels else tolerance))


def _equal_sources(
    pairs: Pairs, task: Task, world: World, answerer: Answerer, rng: np.random.Generator
) -> Int64[np.ndarray, "pair k"]:
    """For each pair another city in the slot with the same true answer, kept where the model agrees."""
    equal = pairs.clean.copy()
    has = np.zeros(len(pairs), dtype=bool)
    for row in range(len(pairs)):
        ids, slot = pairs.clean[row], pairs.slot[row]
        pool = world.ids[~world.is_new & ~np.isin(world.ids, ids)]
        trial = np.repeat(ids[None], len(pool), axis=0)
        trial[:, slot] = pool
        fitting = pool[true_answers(task, world, trial) == pairs.clean_truth[row]]
        if fitting.size:
            equal[row, slot] = rng.choice(fitting)
            has[row] = True
    rows = np.flatnonzero(has)
    if rows.size:
        answers = np.array(answerer(task.prompt(equal[rows], pairs.id_digits)), dtype="<U16")
        has[rows] = answers == pairs.clean_answer[rows]
    equal[~has] = -1
    return equal


def _join(parts: list[Pairs]) -> Pairs:
    names = parts[0].arrays()
    joined: dict[str, Any] = {name: np.concatenate([getattr(p, name) for p in parts]) for name in names}
    return replace(parts[0], **joined)
