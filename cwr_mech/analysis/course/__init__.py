"""How what a fine-tuning teaches develops, and what it has taught others when its own task is learned."""
