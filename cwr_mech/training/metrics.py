"""The lines of a run's metrics.jsonl as they are read again."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cwr_mech.artifacts import require_file

MOST_BYTES = 500_000_000
METRICS = (
    *("step", "steps", "rows", "loss", "lr", "grad_norm"),
    *("rows_per_second", "tokens_per_second", "seconds"),
)
"""Numbers of a metrics line that are read again."""


def latest_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file of metrics, the last one first, each parsed when it is asked for; none without it.

    Lines that a crash cut short or filled with zeros are left out.
    """
    if not path.exists():
        return
    require_file(path, most_bytes=MOST_BYTES)
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    yield from (record for record in map(_record, reversed(lines)) if record is not None)


def _record(line: str) -> dict[str, Any] | None:
    """A line of metrics, None where it is none: an object with a step, numbers, and tables of numbers."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        return None
    values = [value for name, value in record.items() if name in METRICS]
    for table in (record.get(name, {}) for name in ("losses", "scores", "scores_new")):
        if not isinstance(table, dict):
            return None
        values += [value for value in table.values() if value is not None]
    whole = all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    return record if whole else None
