"""Modules of a model, and its two sides: the city side up to where a city is read, the answer side above it.

The city side is the embedding and the blocks up to and including the layer of the reading site
(`analysis/patching/sites.py`); the answer side is the rest, with the final norm and the unembedding.
"""

from collections.abc import Callable, Mapping, Sequence

from cwr_mech.analysis.patching.sites import known_sites
from cwr_mech.config import ModelConfig
from cwr_mech.errors import AnalysisError, UnknownName
from cwr_mech.model.qwen2 import HookedQwen2
from cwr_mech.world.cities import World

SIDES = ("city", "answer")


def reading_layer(model: HookedQwen2, world: World, tasks: Sequence[str]) -> int:
    """After which block the first of `tasks` that reads the city at one site reads it (-1: the embedding).

    Raises AnalysisError when interchanging no site moves half of the answers of any of them.
    """
    for task in tasks:
        sites = known_sites(model, world, task)
        if not sites.flag(sites.primary):
            return sites.primary.number()
    raise AnalysisError(
        f"no site of this model moves half of its answers about {', '.join(tasks)}: it has no city side",
        "name modules, such as E,L0",
    )


def sides(cfg: ModelConfig, layer: int) -> Mapping[str, tuple[str, ...]]:
    """The modules of either side when a city is read after block `layer`."""
    return {"city": cfg.modules[: layer + 2], "answer": cfg.modules[layer + 2 :]}


def named_modules(text: str, cfg: ModelConfig, layer: Callable[[], int]) -> tuple[str, ...]:
    """The modules that `text` names: city, answer, embed, or modules with commas between them.

    `layer` gives the reading layer and is called for a side only. Raises UnknownName.
    """
    if text in SIDES:
        return sides(cfg, layer())[text]
    names = ["E" if name.strip() == "embed" else name.strip() for name in text.split(",")]
    for name in names:
        if name not in cfg.modules:
            raise UnknownName("module", name, (*SIDES, "embed", *cfg.modules))
    return tuple(module for module in cfg.modules if module in names)
