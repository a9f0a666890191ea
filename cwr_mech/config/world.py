"""Settings of a world: which cities there are and which ids they carry."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cwr_mech.config.base import Config

EARTH_UNIT = 0.1
"""Degrees: coordinates of the shipped world are tenths of a degree."""


def is_path(source: str) -> bool:
    """Whether the name of a world's source is a file's: no other has a slash or a dot."""
    return "/" in source or "." in source


class WorldConfig(Config):
    """Which cities there are and which ids they carry.

    `source` is "cities" (the shipped GeoNames table), a synthetic world ("uniform", "grid", "clusters",
    "ring", or one of your own) or the path of a CSV file (`cwr_mech.world.csv_file.read_csv`).
    Coordinates are integers; a file's degrees are read in units of `unit` degrees, by default tenths, and at
    any other unit they are counted from the middle of the file's places. `new` names the entities held back
    for fine-tuning: "none", "atlantis", "scattered", "holdout:REGION", or several joined by "+", each with
    its number: "scattered:32+atlantis:100". Kinds without a number have `n_new` (for a hold-out the region
    decides).
    """

    source: str = Field(
        "cities", description="cities, uniform, grid, clusters, ring, a world of your own, or a CSV file"
    )
    unit: float = Field(EARTH_UNIT, gt=0, le=1, description="degrees a unit of a file's coordinates")
    n_cities: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        5075, description="number of cities that pretraining may show, or all (the default for a file)"
    )
    id_digits: int = Field(4, ge=1, le=6, description="digits of a city's id")
    id_min: int | None = Field(None, ge=0, description="smallest id; none: the smallest of that many digits")
    new: str = Field(
        "none",
        description="cities held back: none, atlantis, scattered, holdout:REGION, or several joined by +",
    )
    n_new: int = Field(100, ge=1, description="number of cities held back, where the kind does not say it")
    seed: int = Field(42, ge=0, description="seed of ids and of the choice of cities")

    @model_validator(mode="before")
    @classmethod
    def _whole_file(cls, content: Any) -> Any:
        if isinstance(content, dict) and is_path(str(content.get("source", ""))):
            return {"n_cities": "all"} | content
        return content

    def changed(self, others: Mapping[str, Any]) -> dict[str, Any]:
        """These settings as plain data with others in their place.

        Another file is taken whole and gets no new cities, unless `others` say how many and which: numbers
        and kinds chosen for one source mean nothing for a user's.
        """
        content = self.model_dump() | dict(others)
        if content["source"] != self.source and is_path(str(content["source"])):
            content |= {"n_cities": "all", "new": "none"} | dict(others)
        return content
