"""Rows of training data: splits, sampling, batches, statistics."""
