"""HookedQwen2: layers, hooks, checkpoints, decoding and evaluation.

The model comes when it is asked for: reading a tokenizer's files or activations needs no torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cwr_mech.model.qwen2 import HookedQwen2

__all__ = ["HookedQwen2"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cwr_mech.model.qwen2 import HookedQwen2

    return HookedQwen2
