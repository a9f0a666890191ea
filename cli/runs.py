"""`cwr-mech runs`: what has been trained here."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cwr_mech.errors import UserError
from cwr_mech.training.folders import RUNS, newest_first

from .common import console, say, show_table

if TYPE_CHECKING:
    from cwr_mech.training.runs import Run

COLUMNS = ("run", "tasks", "preset", "step", "scores", "state")
WIDE = 100
"""Narrower terminals do without the preset."""


def command() -> None:
    """List the models in runs/, newest first: what they were trained on, how far, how well, in which state.

    The scores are the last on validation questions, a number a task in the usual order: mean errors, and
    accuracies (which begin with a point); of fine-tuned runs as old/new cities.
    """
    found = newest_first(RUNS)
    if not found:
        say(f"no runs in {RUNS}/ yet; train one with: cwr-mech train")
        return
    lines = [row(folder) for folder in found]
    rows = [line for line in lines if len(line) == len(COLUMNS)]
    kept = [name for name in COLUMNS if name != "preset" or console.width >= WIDE]
    show_table("", kept, [[line[COLUMNS.index(name)] for name in kept] for line in rows])
    for folder, why in (line for line in lines if len(line) < len(COLUMNS)):
        say(f"{folder}: {why}")


def row(folder: Path) -> list[object]:
    """One line of the list; of a run that cannot be read its name and why."""
    from cwr_mech.training.runs import load_run

    try:
        return _row(load_run(folder))
    except UserError as error:
        return [folder.name, error.message.replace(f"{folder}/", "")]
    except OSError as error:
        return [folder.name, error.strerror]


def _row(run: "Run") -> list[object]:
    from cwr_mech.experiments.presets import nearest
    from cwr_mech.tasks.registry import PAPER_TASKS, TASKS, ordered

    config = run.config
    others = [task for task in config.data.tasks if task not in PAPER_TASKS]
    every = len(config.data.tasks) == len(PAPER_TASKS) + len(others)
    tasks = ", ".join(["all", *others] if every else config.data.tasks)
    done, steps = max(run.steps, default=0), config.train.steps
    last: Mapping[str, Any] = {}
    for line in run.latest_metrics():
        done = max(done, line["step"])
        if "scores" in line:
            last = line
            break
    old, new = last.get("scores", {}), last.get("scores_new", {})
    words = [
        "/".join(in_short(task, scores[task]) for scores in (old, new) if task in scores)
        for task in ordered(old)
        if task in TASKS  # another program's task may have been scored, or the name be damaged
    ]
    far = f"{done:,}" if done == steps else f"{done:,}/{steps:,}"
    return [run.name, tasks, nearest(config), far, " ".join(words) or None, run.state]


def in_short(task: str, score: float) -> str:
    """A task's score in few characters: .95 for an accuracy, 48k or 18 for an error."""
    from cwr_mech.tasks.registry import TASKS

    if TASKS[task].labels:
        return f"{score:.2f}".removeprefix("0")
    if score >= 9_950:
        return f"{score / 1000:,.0f}k"
    return f"{score:.0f}" if score >= 10 else f"{score:.1f}"
