"""Representational similarity: CKA and other measures, between layers and models."""

from cwr_mech.analysis.similarity.cka import linear_cka

__all__ = ["linear_cka"]
