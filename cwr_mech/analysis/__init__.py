"""Analyses: one package a question. All arithmetic is float64 numpy on the CPU."""
