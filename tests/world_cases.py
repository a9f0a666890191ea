"""What several tests of worlds ask and write."""

from pathlib import Path

import numpy as np

from cwr_mech.world.cities import World


def cities_of(world: World, rows: np.ndarray) -> set[tuple[int, str, int, int, str]]:
    """Everything a model or an analysis can know of the cities in `rows`."""
    return {
        (int(world.ids[row]), world.names[row], *world.xy[row].tolist(), str(world.region[row]))
        for row in rows
    }


def write(folder: Path, content: str | bytes) -> str:
    path = folder / "own.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)
