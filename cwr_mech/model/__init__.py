"""HookedQwen2: layers, hooks, checkpoints, decoding and evaluation."""

from cwr_mech.model.qwen2 import HookedQwen2

__all__ = ["HookedQwen2"]
