"""Representational similarity: CKA and other measures, between layers and models.

The functions below are imported when they are asked for: a command needs the signature of its study only.
"""

from importlib import import_module
from typing import Any

__all__ = ["MinibatchCka", "linear_cka", "linear_cka_interval", "linear_cka_matrix", "undefined_reason"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module("cwr_mech.analysis.similarity.cka"), name)
