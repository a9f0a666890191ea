"""`cwr-mech data`: rows of the training data, or what they look like in numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cwr_mech.analysis.registry import Opt
from cwr_mech.errors import one_of

from .common import say, show_table
from .options import WORLD, LabelNoise, LabelNoiseKind, taking

if TYPE_CHECKING:
    from cwr_mech.data.summary import TaskStats
    from cwr_mech.world.cities import World as Cities

MOST_SHARED = 0.01
"""Share of a file's places that may lie at the same coordinates before it is mentioned."""


@taking(world=WORLD)
def command(
    *,
    task: Annotated[str, Opt("A task, several as a,b, or all.", flags=("--tasks", "--task", "-t"))] = "all",
    n: Annotated[int | None, Opt("Rows a task; 5, or 10000 for --stats.", flags=("-n",))] = None,
    stats: Annotated[bool, Opt("Answers, baselines and overlap of splits.")] = False,
    split: Annotated[str, Opt("train, val or test.")] = "train",
    group: Annotated[
        str, Opt("old: no new city; new: at least one; all: any city.", flags=("--cities", "--group"))
    ] = "old",
    protocol: Annotated[
        str, Opt("strict, or paper: the reference's choices, its defects included.")
    ] = "strict",
    seed: Annotated[int, Opt("Seed of the rows.", min=0)] = 42,
    start: Annotated[int, Opt("The first row.", min=0)] = 0,
    label_noise: LabelNoise = None,
    label_noise_kind: LabelNoiseKind = "uniform",
    world: Mapping[str, Any],
) -> None:
    """Print rows of one or several tasks, or with --stats their answers, the scores of answers that never
    look at the cities, and how many questions the splits share.
    """
    from cwr_mech.config import PROTOCOLS
    from cwr_mech.data.rows import Stream, StreamOptions
    from cwr_mech.data.summary import task_stats
    from cwr_mech.tasks.registry import BLOCK_ROWS, TASKS, get_task
    from cwr_mech.world.cities import load_world

    one_of("protocol", protocol, PROTOCOLS)
    names = list(TASKS) if task == "all" else [get_task(name.strip()).name for name in task.split(",")]
    # The paper's ids may begin with 0; ours may not.
    given = {**world, "id_min": 0 if protocol == "paper" else None}
    cities = load_world(**{name: value for name, value in given.items() if value is not None})
    say_if_crowded(cities)
    kind: StreamOptions = {
        "split": split,
        "seed": seed,
        "start": start,
        "group": group,
        "protocol": PROTOCOLS[protocol],
        "label_noise": label_noise or 0.0,
        "label_noise_kind": label_noise_kind,
    }
    if stats:
        found = [task_stats(cities, name, 10_000 if n is None else n, **kind) for name in names]
        show_stats(
            found, f"{split} rows, group {group}, protocol {protocol}, {cities.n} cities", cities.config.unit
        )
        return
    wanted = 5 if n is None else n
    for name in names:
        rows = Stream(cities, name, **kind)
        for first in range(0, max(wanted, 1), BLOCK_ROWS):  # `| head` need not wait for all of them
            for text in rows.take(min(BLOCK_ROWS, wanted - first)).texts():
                say(text)


def say_if_crowded(world: "Cities") -> None:
    """Name the unit that tells a file's places apart where the present one does not."""
    from cwr_mech.world.cities import id_range
    from cwr_mech.world.csv_file import finer_unit
    from cwr_mech.world.sources import is_file

    if not is_file(world.config.source) or world.shared <= MOST_SHARED:
        return
    unit = finer_unit(Path(world.config.source), id_range(world.config), MOST_SHARED)
    cure = f"; --unit {unit:g} tells them apart" if unit else ""
    say(
        f"{world.shared:.0%} of the places in {world.config.source} share their coordinates with another "
        f"at {world.config.unit:g} degrees a unit{cure}"
    )


def show_stats(found: Sequence["TaskStats"], about: str, unit: float) -> None:
    """Print answers, baselines and overlap of each task as tables; `unit` in degrees."""
    from cwr_mech.render.units import in_unit

    answers = [[s.task.name, s.rows, s.distinct, s.mean_tokens, in_words(s, s.answers)] for s in found]
    show_table(f"Answers: {about}", ["task", "rows", "distinct", "tokens", "answers"], answers)
    by_size = [
        [s.task.name, size, in_words(s, part)]
        for s in found
        if len(s.by_size) > 1
        for size, part in s.by_size.items()
    ]
    show_table("\nAnswers by number of cities", ["task", "cities", "answers"], by_size)
    blind = [
        [
            s.task.name,
            s.baseline.answer,
            s.baseline.score,
            s.baseline.score_by_size,
            "accuracy" if s.task.labels else f"mean error, {in_unit(s.task.unit, unit)}",
        ]
        for s in found
    ]
    title = "\nScores of answers that never look at the cities"
    show_table(title, ["task", "best constant", "score", "knowing how many", "measure"], blind)
    shared = [[s.task.name, *s.overlap.values()] for s in found]
    pairs = [f"{first} in {second}" for second, first in found[0].overlap]
    show_table("\nQuestions of one split that occur in another", ["task", *pairs], shared)


def in_words(stats: "TaskStats", answers: Mapping[str, float]) -> str:
    """Shares of labels as percentages, or quantiles of numbers."""
    if stats.task.labels:
        return "  ".join(f"{label} {100 * share:.1f}%" for label, share in answers.items())
    return "  ".join(f"{name} {value:.0f}" for name, value in answers.items())
