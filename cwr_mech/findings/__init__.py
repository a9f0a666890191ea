"""What trained models show together: claims, their evidence and verdicts."""
