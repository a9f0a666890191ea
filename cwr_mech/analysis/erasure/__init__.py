"""Concept erasure: remove the coordinate subspace and measure what each task loses."""
