"""The tasks: their registry, geometry, prompt grammar and tokenizer."""

from cwr_mech.tasks.registry import TASKS, Task
from cwr_mech.tasks.tokenizer import Tokenizer

__all__ = ["TASKS", "Task", "Tokenizer"]
