"""What models answer: learning curves and evaluation."""
