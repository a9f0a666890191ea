"""Small activation files for several tests."""

from pathlib import Path

import numpy as np

from cwr_mech.activations.writer import write_store
from cwr_mech.world.cities import World, load_world

WORLD = load_world(source="uniform", n_cities=40, new="scattered", n_new=5)
HOOKS, TASKS, SITES = (
    ("hook_embed", "blocks.10.hook_resid_post"),
    ("distance", "angle"),
    ("last_digit", "delimiter"),
)
KEYS = [(hook, task, site) for hook in HOOKS for task in TASKS for site in SITES]
NAME = "demo-step12.h5"
REBUILD = "cwr-mech cache-acts demo --step 12"


def arrays(world: World = WORLD, seed: int = 0, width: int = 6) -> dict[tuple[str, str, str], np.ndarray]:
    rng = np.random.default_rng(seed)
    return {key: rng.normal(size=(world.n, width)).astype(np.float32) for key in KEYS}


def written(path: Path, world: World = WORLD, seed: int = 0) -> Path:
    write_store(path, world, arrays(world, seed), attrs={"run": "demo", "step": 12, "model_sha256": "abc"})
    return path


def part_of(world: World, rows: np.ndarray, shift: np.ndarray | int = 0) -> World:
    names = tuple(world.names[row] for row in rows)
    xy = world.xy[rows] + shift
    return World(world.ids[rows], names, xy, world.region[rows], world.is_new[rows], world.config)
