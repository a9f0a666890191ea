"""Activation patching: which components and token positions mediate the answer."""
