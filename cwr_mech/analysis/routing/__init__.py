"""Through which directions and modules a fine-tuning runs."""
