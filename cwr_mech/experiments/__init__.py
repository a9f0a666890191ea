"""Which models to train: presets, fine-tuning recipes, plans, their execution, the zoo."""
