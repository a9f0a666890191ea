"""A world with new cities, a small random model and questions that name new cities."""

from functools import lru_cache

from cwr_mech.config import ModelConfig, WorldConfig
from cwr_mech.data.rows import Rows, concat, generate
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.world.cities import World, load_world

TASKS = ("distance", "inside")
D = 16


@lru_cache
def world() -> World:
    return load_world(WorldConfig(n_cities=60, new="atlantis", n_new=6))


@lru_cache
def model(n_layers: int = 2) -> HookedQwen2:
    config = ModelConfig(n_layers=n_layers, d_model=D, n_heads=2, d_mlp=24, init_std=0.3)
    return HookedQwen2(config, seed=3).eval()


@lru_cache
def rows() -> Rows:
    return concat([generate(world(), task, 8, group="new", seed=1) for task in TASKS])
