"""Training: the loop, the engine behind it, optimisers, state for exact resume, run folders."""
