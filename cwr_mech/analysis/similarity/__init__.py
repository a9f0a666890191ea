"""Representational similarity: CKA and other measures, between layers and models."""
