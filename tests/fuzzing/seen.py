"""What became of each input, kept in a file from which a later run goes on."""

import json
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

FAULTS = ("traceback", "hang", "memory", "crash", "outside", "half-written", "unclear")


class Seen(NamedTuple):
    """What became of an input: `outcome` is "same" (unchanged), "accepted", "refused" or one of FAULTS."""

    outcome: str
    mutation: str
    said: str


class Log:
    """Outcomes of one seed, each a line of a file as soon as it is known; without a file, in memory alone."""

    def __init__(self, seed: int, path: Path | None) -> None:
        self.seed, self.path = seed, path
        self.found: dict[str, dict[int, Seen]] = {}
        for line in path.read_text().split("\n") if path and path.exists() else ():
            with suppress(ValueError):  # the last line may be cut
                seed, kind, number, *seen = json.loads(line)
                if seed == self.seed:
                    self.found.setdefault(kind, {})[number] = Seen(*seen)

    def add(self, kind: str, number: int, seen: Seen) -> None:
        """Keep an outcome."""
        self.found.setdefault(kind, {})[number] = seen
        if self.path:
            with self.path.open("a") as file:  # a line of its own, though the one before may be cut
                file.write("\n" + json.dumps([self.seed, kind, number, *seen]) + "\n")
