"""HookedQwen2: layers, hooks, checkpoints, decoding and evaluation."""
