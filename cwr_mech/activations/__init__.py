"""Activations in HDF5: writing, reading, extracting from a model."""
