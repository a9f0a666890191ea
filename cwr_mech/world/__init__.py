"""The world: places with ids, real, from a user's file, or synthetic; which of them are new."""

from cwr_mech.world.cities import World, load_world

__all__ = ["World", "load_world"]
