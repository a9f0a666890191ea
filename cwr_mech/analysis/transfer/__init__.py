"""What a fine-tuning does to every task."""
