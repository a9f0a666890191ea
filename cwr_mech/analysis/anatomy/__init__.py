"""Which parts of a model hold an update, and what each of them carries."""
