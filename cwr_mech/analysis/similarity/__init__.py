"""Representational similarity: CKA and other measures, between layers and models."""

from cwr_mech.analysis.similarity.cka import (
    MinibatchCka,
    linear_cka,
    linear_cka_interval,
    linear_cka_matrix,
    undefined_reason,
)

__all__ = ["MinibatchCka", "linear_cka", "linear_cka_interval", "linear_cka_matrix", "undefined_reason"]
