"""Activation files as users like to read them: by three names, as a table, as an array with named axes.

A group of cities is always said, or is the training cities: held-out cities never slip into a mean or a fit.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from cwr_mech.activations.site import Site
from cwr_mech.errors import AnalysisError, one_of

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

CITY_GROUPS = ("old", "new", "all")


class Views:
    """What ActivationStore shows of itself."""

    path: Path
    city_ids: Int64[np.ndarray, " city"]
    xy: Float[np.ndarray, "city 2"]
    is_new: Bool[np.ndarray, " city"]
    region: np.ndarray
    names: np.ndarray
    hooks: tuple[str, ...]
    tasks: tuple[str, ...]
    sites: tuple[str, ...]
    if TYPE_CHECKING:

        def get(self, hook: str | int, task: str, site: str, ids: Any) -> Any: ...
        def rows(self, ids: Any) -> Any: ...
        def width(self, hook: str | int) -> int: ...
        def __enter__(self) -> object: ...
        def __exit__(self, *error: object) -> None: ...

    def __len__(self) -> int:
        return len(self.city_ids)

    def __repr__(self) -> str:
        new = f" ({int(self.is_new.sum())} new)" if self.is_new.any() else ""
        axes = f"{len(self.hooks)} hooks x {len(self.tasks)} prompts x {len(self.sites)} sites"
        return f"ActivationStore({str(self.path)!r}: {len(self)} cities{new}, {axes})"

    def __getitem__(self, place: tuple[str | int, ...]) -> Float[np.ndarray, "city width"]:
        """`store[hook, prompt, site]`: training cities; with a fourth word, "new",
        the new ones, "all" both. Rows are those of `store.select(...)`. Raises what `get` raises.
        """
        hook, task, site, *group = place
        ids = self.select(str(group[0]) if group else "old")
        return self.get(hook, str(task), str(site), ids)

    def select(self, cities: str = "old") -> Int64[np.ndarray, " picked"]:
        """Ids of the "old" (training) cities, the "new" ones or "all", in the file's order.

        Raises UnknownName, or AnalysisError where there is none.
        """
        one_of("group of cities", cities, CITY_GROUPS)
        kept = {"old": ~self.is_new, "new": self.is_new, "all": np.ones(len(self), dtype=bool)}[cities]
        if not kept.any():
            raise AnalysisError(f"{self.path} holds no {cities} city")
        return self.city_ids[kept]

    def to_pandas(self, hook: str | int, task: str, site: str, cities: str = "old") -> "pd.DataFrame":
        """A row a city of the group by id: name, x, y, region, is_new, then the activation 0, 1, ..."""
        import pandas as pd

        ids = self.select(cities)
        x = pd.DataFrame(self.get(hook, task, site, ids), index=pd.Index(ids, name="id"))
        return pd.concat([pd.DataFrame(self._about(ids), index=x.index), x], axis=1)

    def to_xarray(self, hooks: Sequence[str | int] | None = None, cities: str = "old") -> "xr.DataArray":
        """[hook prompt site city width] with names on all axes; hooks of one width, by default all.

        Needs the package xarray (`pip install cwr-mech[xarray]`). Raises AnalysisError for hooks of different
        widths, UnknownName.
        """
        import xarray as xr

        chosen = self.hooks if hooks is None else [Site.parse(hook).hook for hook in hooks]
        if len({self.width(hook) for hook in chosen}) > 1:
            raise AnalysisError("hooks of different widths do not fit one array", "name hooks of one width")
        ids = self.select(cities)
        with self:
            values = [[[self.get(h, t, s, ids) for s in self.sites] for t in self.tasks] for h in chosen]
        about = {name: ("city", column) for name, column in self._about(ids).items()}
        axes = {"hook": list(chosen), "prompt": list(self.tasks), "site": list(self.sites), "city": ids}
        return xr.DataArray(np.array(values), dims=(*axes, "width"), coords=axes | about, name="activation")

    def _about(self, ids: Int64[np.ndarray, " picked"]) -> dict[str, np.ndarray]:
        """What is known of some cities, as columns."""
        rows = self.rows(ids)
        places = {"x": self.xy[rows, 0], "y": self.xy[rows, 1]}
        return (
            {"name": self.names[rows]} | places | {"region": self.region[rows], "is_new": self.is_new[rows]}
        )
