"""cwr-mech: how small transformers represent a world, and off-manifold training updates.

Axes are named alike everywhere: `city layer head pos d_model d_head d_mlp row`, `run seed task`, `n p` for
the samples and features of an analysis. Coordinates and distances are in tenths of a degree on a plane.
Names below are imported when first used, so that `import cwr_mech` costs nothing.
"""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from cwr_mech.analysis.registry import ANALYSES

_MODULE_OF = {
    "TASKS": "cwr_mech.tasks.registry",
    "Task": "cwr_mech.tasks.registry",
    "Stratum": "cwr_mech.tasks.registry",
    "register_world": "cwr_mech.world.patterns",
    "register_task": "cwr_mech.tasks.registry",
    "Tokenizer": "cwr_mech.tasks.tokenizer",
    "World": "cwr_mech.world.cities",
    "load_world": "cwr_mech.world.cities",
    "Rows": "cwr_mech.data.rows",
    "generate": "cwr_mech.data.rows",
    "HookedQwen2": "cwr_mech.model.qwen2",
    "Run": "cwr_mech.training.runs",
    "load_run": "cwr_mech.training.runs",
    "train": "cwr_mech.training.loop",
    "evaluate": "cwr_mech.model.evaluation",
    "ActivationStore": "cwr_mech.activations.reader",
    "RunConfig": "cwr_mech.config",
    "PRESETS": "cwr_mech.experiments.presets",
    "CwrError": "cwr_mech.errors",
    "UserError": "cwr_mech.errors",
}

# Every analysis is a function here, too: cwr_mech.probe("zoo:small").
_MODULE_OF |= {row.function_name: row.module for row in ANALYSES}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'cwr_mech' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]


_MOVED = {"cwr_mech.tokenizer": "cwr_mech.tasks.tokenizer", "cwr_mech.sampling": "cwr_mech.data.sampling"}
"""Modules that scripts outside import by the names they had before there were packages."""


class _Moved(MetaPathFinder, Loader):
    """Finds the modules of _MOVED where they are now."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in _MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(_MOVED[spec.name])
        self.spec = module.__spec__  # importing puts the old name's in its place
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


sys.meta_path.append(_Moved())
