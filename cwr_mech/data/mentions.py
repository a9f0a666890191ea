"""Where cities stand in token rows: every mention of a city, and the position at which it is read."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int, Int64

from cwr_mech.data.entries import Entries
from cwr_mech.data.rows import Rows
from cwr_mech.errors import UnknownName
from cwr_mech.tasks.grammar import find_span
from cwr_mech.tasks.registry import TASKS

PLACES = {"last_digit": "city{}_last", "delimiter": "delimiter{}"}
"""Sites at which a mention can be read -> its span for the k-th city of a question."""


@dataclass(frozen=True)
class Mentions(Entries):
    """Mentions of cities: row of the question, slot among its cities (from 0), city id, token position."""

    row: Int64[np.ndarray, " mention"]
    slot: Int64[np.ndarray, " mention"]
    city: Int64[np.ndarray, " mention"]
    position: Int64[np.ndarray, " mention"]


def mentions(rows: Rows, site: str, id_digits: int = 4) -> Mentions:
    """All mentions of cities in `rows`, row by row, at `site` ("last_digit", "delimiter", "digit1", ...).

    Raises UnknownName for another site.
    """
    digits = {f"digit{n}": n - 1 for n in range(1, id_digits + 1)}
    if site not in PLACES and site not in digits:
        raise UnknownName("site", site, [*PLACES, *digits])
    template, ahead = (PLACES[site], 0) if site in PLACES else ("city{}_digits", digits[site])
    used = rows.cities >= 0
    sizes = used.sum(axis=1)
    positions = np.full(rows.cities.shape, -1, dtype=np.int64)
    kinds = np.unique(np.stack([rows.task, sizes]), axis=1).T
    for task, size in kinds.tolist():
        name, chosen = TASKS.at(task).name, (rows.task == task) & (sizes == size)
        for slot in range(size):
            span = find_span(name, template.format(slot + 1), size, id_digits)
            positions[chosen, slot] = span.start + ahead
    row, place = np.nonzero(used)
    return Mentions(row, place, rows.cities[row, place].astype(np.int64), positions[row, place])


def mentions_of(
    rows: Rows, site: str, ids: Int[np.ndarray, " city"] | None = None, id_digits: int = 4
) -> Mentions:
    """The mentions of some cities only; of all when `ids` is None."""
    found = mentions(rows, site, id_digits)
    return found if ids is None else found.take(np.isin(found.city, ids))


def means_by_city(
    city: Int[np.ndarray, " mention"], values: Float[np.ndarray, "mention d"]
) -> tuple[Int64[np.ndarray, " city"], Float64[np.ndarray, "city d"]]:
    """The cities mentioned, ascending, and each one's mean over its mentions."""
    ids, row, counts = np.unique(city, return_inverse=True, return_counts=True)
    total = np.zeros((len(ids), values.shape[1]))
    np.add.at(total, row, values.astype(np.float64))
    return ids, total / counts[:, None]
