"""Frozen tables of arrays: every array has one entry for each row of the table."""

from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Shaped

E = TypeVar("E", bound="Entries")


class Entries:
    """Base of frozen dataclasses whose arrays share their first axis; other fields hold for all of it."""

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by the names of their fields."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}

    def __len__(self) -> int:
        return len(next(iter(self.arrays().values())))

    def take(self: E, rows: Shaped[np.ndarray, " picked"] | slice) -> E:
        """The entries of an index array, a mask or a slice."""
        picked: dict[str, Any] = {name: array[rows] for name, array in self.arrays().items()}
        return replace(self, **picked)  # type: ignore[type-var]
