"""Where a model's own answers put a city."""
