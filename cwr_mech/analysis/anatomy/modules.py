"""Modules of a model, and its two sides: the city side up to where a city is read, the answer side above it.

The city side is the embedding and the blocks up to and including the layer of the reading site
(`analysis/patching/sites.py`); the answer side is the rest, with the final norm and the unembedding.
"""

from collections.abc import Callable, Mapping, Sequence

from cwr_mech.analysis.patching.sites import first_read
from cwr_mech.config import ModelConfig
from cwr_mech.errors import UnknownName
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.world.cities import World

SIDES = ("city", "answer")


def reading_layer(model: HookedQwen2, world: World, tasks: Sequence[str]) -> int:
    """After which block the first of `tasks` that reads the city at one site reads it (-1: the embedding).

    Raises AnalysisError when there is none.
    """
    return first_read(model, world, tasks).primary.number()


def sides(modules: tuple[str, ...], layer: int) -> Mapping[str, tuple[str, ...]]:
    """Those of a model's modules that are on either side when a city is read after block `layer`."""
    return {"city": modules[: layer + 2], "answer": modules[layer + 2 :]}


def named_modules(text: str, cfg: ModelConfig, layer: Callable[[], int]) -> tuple[str, ...]:
    """The modules that `text` names: city, answer, embed, or modules with commas between them.

    `layer` gives the reading layer and is called for a side only. Raises UnknownName.
    """
    if text in SIDES:
        return sides(cfg.modules, layer())[text]
    names = ["E" if name.strip() == "embed" else name.strip() for name in text.split(",")]
    for name in names:
        if name not in cfg.modules:
            raise UnknownName("module", name, (*SIDES, "embed", *cfg.modules))
    return tuple(module for module in cfg.modules if module in names)
