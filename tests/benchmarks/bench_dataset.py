"""A million rows of each task, tokens included, and the same row by row as the paper's reference makes them.

The reference is not here; `reference_tokens` follows its description: cities in a pandas table, one `.iloc` a
city, one Python function call a row, hulls by Delaunay triangulation, quotas filled one attempt at a time,
text with spaces between the characters, a loss mask as a string, and a Hugging Face tokenizer. The time of
its one-off index arrays of all pairs is left out, in its favour.

    python tests/benchmarks/bench_dataset.py [--rows N] [--reference-rows N] [--tasks a,b]
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.spatial import ConvexHull, Delaunay, QhullError

from cwr_mech.data.rows import Stream
from cwr_mech.tasks.registry import BOOLEANS, COMPASS, TASKS
from cwr_mech.tasks.tokenizer import Tokenizer
from cwr_mech.world.cities import World, load_world

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CHUNK = 100_000


def main(argv: Sequence[str] = ()) -> list[dict[str, object]]:
    """One row a task: seconds for the rows asked for, and how many times faster than row by row."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--reference-rows", type=int, default=2_000)
    options.add_argument("--tasks", default=",".join(TASKS))
    given = options.parse_args(list(argv))
    world = load_world()
    cities = pd.DataFrame({"city_id": world.ids, "x": world.xy[:, 0], "y": world.xy[:, 1]})
    tokenizer = Tokenizer().to_hf()
    rows: list[dict[str, object]] = []
    for task in given.tasks.split(","):
        seconds = ours(world, task, given.rows)
        start = time.perf_counter()
        made = reference_tokens(task, cities, given.reference_rows, tokenizer, np.random.default_rng(0))
        each = (time.perf_counter() - start) / len(made)
        rows.append(
            {
                "case": f"{task}, {given.rows:,} rows",
                "seconds": seconds,
                "ratio": each * given.rows / seconds,
                "note": f"row by row {1e6 * each:,.0f} us a row, over {len(made):,} rows",
            }
        )
    return rows


def ours(world: World, task: str, n: int) -> float:
    """Seconds for `n` rows of training tokens, read from a stream as training reads them."""
    Stream(world, task, seed=1).take(1)
    stream = Stream(world, task)
    start = time.perf_counter()
    for first in range(0, n, CHUNK):
        stream.take(min(CHUNK, n - first))
    return time.perf_counter() - start


def reference_tokens(
    task: str, cities: pd.DataFrame, n: int, tokenizer: "PreTrainedTokenizerFast", rng: np.random.Generator
) -> list[list[int]]:
    """Token ids of `n` rows, one row at a time."""
    texts = []
    masks = []
    for chosen, answer in reference_rows(task, cities, n, rng):
        question = TASKS[task].prompt(np.array([[int(city["city_id"]) for city in chosen]]))[0]
        texts.append("<bos> " + " ".join(question + answer) + " <eos>")
        masks.append("0" * (len(question) + 1) + "1" * (len(answer) + 1))
    tokens: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    if [len(row) for row in tokens] != [len(mask) for mask in masks]:
        raise RuntimeError("the reference's tokens and masks differ in length")
    return tokens


def reference_rows(
    task: str, cities: pd.DataFrame, n: int, rng: np.random.Generator
) -> Iterator[tuple[list[pd.Series], str]]:
    """Cities and answers; inside and crossing are drawn until both quotas are full."""
    sizes = range(TASKS[task].n_min, TASKS[task].n_max + 1)
    quota = {"FALSE": n - n // 2, "TRUE": n // 2}
    made = 0
    while made < n:
        rows = rng.choice(len(cities), size=int(rng.choice(sizes)), replace=False)
        chosen = [cities.iloc[row] for row in rows]
        answer = REFERENCE[task]([(city["x"], city["y"]) for city in chosen])
        if task in ("inside", "crossing"):
            if not quota[answer]:
                continue
            quota[answer] -= 1
        made += 1
        yield chosen, answer


Points = list[tuple[int, int]]


def _distance(points: Points) -> str:
    (ax, ay), (bx, by) = points
    return str(int(np.rint(np.sqrt((ax - bx) ** 2 + (ay - by) ** 2))))


def _triangle_area(points: Points) -> str:
    (ax, ay), (bx, by), (cx, cy) = points
    return str(int(np.rint(0.5 * abs(ax * (by - cy) + bx * (cy - ay) + cx * (ay - by)))))


def _angle(points: Points) -> str:
    a, b, c = (np.array(point, dtype=float) for point in points)
    size = np.linalg.norm(a - b) * np.linalg.norm(c - b)
    cosine = np.clip(np.dot(a - b, c - b) / size, -1, 1) if size else 1.0
    return str(int(np.rint(np.degrees(np.arccos(cosine)))))


def _compass(points: Points) -> str:
    (ax, ay), (bx, by) = points
    if (ax, ay) == (bx, by):
        return "N"
    degrees = np.degrees(np.arctan2(by - ay, bx - ax)) % 360
    return COMPASS[(2 - int((degrees + 22.5) // 45)) % 8]


def _inside(points: Points) -> str:
    corners = np.array(points[1:], dtype=float)
    try:
        hull = ConvexHull(corners)
    except QhullError:
        return "FALSE"
    return BOOLEANS[int(Delaunay(corners[hull.vertices]).find_simplex(np.array(points[0], dtype=float)) >= 0)]


def _perimeter(points: Points) -> str:
    ends = points[1:] + (points[:1] if len(points) > 2 else [])
    pairs = zip(points, ends, strict=False)
    return str(round(sum(np.sqrt((ax - bx) ** 2 + (ay - by) ** 2) for (ax, ay), (bx, by) in pairs)))


def _crossing(points: Points) -> str:
    def turns_left(p: tuple[int, int], q: tuple[int, int], r: tuple[int, int]) -> bool:
        return bool((r[1] - p[1]) * (q[0] - p[0]) > (q[1] - p[1]) * (r[0] - p[0]))

    a, b, c, d = points
    crosses = turns_left(a, c, d) != turns_left(b, c, d) and turns_left(a, b, c) != turns_left(a, b, d)
    return BOOLEANS[int(crosses)]


REFERENCE: dict[str, Callable[[Points], str]] = {
    "distance": _distance,
    "trianglearea": _triangle_area,
    "angle": _angle,
    "compass": _compass,
    "inside": _inside,
    "perimeter": _perimeter,
    "crossing": _crossing,
}


if __name__ == "__main__":
    for row in main(sys.argv[1:]):
        print(f"{row['case']:32} {row['seconds']:7.2f} s   {row['ratio']:8,.0f} times faster   {row['note']}")
