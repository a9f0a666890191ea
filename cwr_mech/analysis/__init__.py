"""Analyses: one formula, one module, one citation. All are float64 numpy on the CPU."""
