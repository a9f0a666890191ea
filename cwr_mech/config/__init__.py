"""Frozen settings that refuse unknown keys; what a run folder stores and `--set` changes.

A setting is declared once, with its type, default, limits and meaning.
"""

from typing import Any

from cwr_mech.config.base import Config, parse
from cwr_mech.config.data import PAPER, PROTOCOLS, STRICT, DataConfig, Part, Protocol
from cwr_mech.config.model import ModelConfig
from cwr_mech.config.run import RunConfig, setting_rows
from cwr_mech.config.train import CONDITIONS, RENAMED_CONDITIONS, ROUTED_CITIES, RouteConfig, TrainConfig
from cwr_mech.config.world import EARTH_UNIT, WorldConfig, is_path

__all__ = [
    "CONDITIONS", "EARTH_UNIT", "PAPER", "PROTOCOLS", "RENAMED_CONDITIONS", "ROUTED_CITIES", "STRICT",
    "Config", "DataConfig", "ModelConfig", "Part", "Protocol", "RouteConfig", "RunConfig", "TrainConfig",
    "WorldConfig", "is_path", "parse", "setting_rows",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """TASK_NAMES, which scripts outside import from here: the paper's tasks in their order."""
    if name == "TASK_NAMES":
        from cwr_mech.tasks.registry import PAPER_TASKS

        return PAPER_TASKS
    raise AttributeError(f"module 'cwr_mech.config' has no attribute {name!r}")
