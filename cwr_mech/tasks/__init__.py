"""The tasks: their registry, geometry, prompt grammar and tokenizer."""
