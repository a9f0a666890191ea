"""Mistakes that the words of a command line show by themselves, found before anything heavy is imported."""

import itertools
from collections.abc import Sequence
from pathlib import Path

NO_RUNS = ("data", "train", "sweep", "runs", "zoo", "report", "demo")
"""Commands whose words are not runs; those of all others are."""
TASK_OPTIONS = ("--task", "--tasks", "--prompt", "--prompts")
OTHER_WORDS = ("all", "own", "trained", "")


def check_words(args: Sequence[str]) -> None:
    """Look at the runs named right after the command, and at the tasks named anywhere.

    What is not understood here is left to the command. Raises MissingArtifact or UnknownName.
    """
    if list(args[:2]) == ["zoo", "check"]:  # what follows are models of the zoo, with or without its prefix
        args = [
            "check",
            *(word if word[:1] == "-" else f"zoo:{word.removeprefix('zoo:')}" for word in args[2:]),
        ]
    if not args or args[0].startswith("-") or args[0] in NO_RUNS or {"-h", "--help"} & set(args):
        return
    for word in args[1:]:
        if word.startswith("-"):
            break
        if not _exists(word):
            from cwr_mech.training.folders import find_run

            find_run(word)
    for option, value in itertools.pairwise(args):
        if option in TASK_OPTIONS and "{" not in value:
            _check_tasks(value)


def _exists(word: str) -> bool:
    try:
        return Path(word).exists()
    except (OSError, ValueError):
        return False


def _check_tasks(value: str) -> None:
    from cwr_mech.tasks.registry import get_task

    for name in value.split(","):
        if name.strip() not in OTHER_WORDS and not _exists(name):
            get_task(name.strip())
