"""Experiments by name: what their settings are, and variants of them."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from operator import ne
from types import MappingProxyType
from typing import NamedTuple

from cwr_mech.config import PROTOCOLS, DataConfig, ModelConfig, RunConfig, parse
from cwr_mech.errors import one_of
from cwr_mech.tasks.registry import PAPER_TASKS, ordered


class Preset(NamedTuple):
    """Settings as after --set, on top of those of preset `base` (of the defaults where it is None)."""

    base: str | None
    settings: str


AREA_TWICE = "weights=" + ",".join("2.0" if task == "trianglearea" else "1.0" for task in PAPER_TASKS)
"""Triangle area, the last task to be learned, is asked twice as often as the others."""

SETTINGS: Mapping[str, Preset] = MappingProxyType(
    {
        # Seconds: 24 cities and a toy model, to try every command. It learns no map.
        "tiny": Preset(
            None,
            "n_cities=24 new=atlantis n_new=4 n_layers=2 d_model=32 n_heads=2 d_mlp=64 steps=60 "
            "batch_size=28 lr=1e-3 warmup=10 checkpoints=2 save_every=20 eval_every=30 eval_rows=8",
        ),
        # About five minutes on one core: 256 real cities, a small model that ends with a map.
        "quick": Preset(
            None,
            "n_cities=256 id_digits=3 new=atlantis n_new=16 n_layers=4 d_model=64 n_heads=4 d_mlp=128 "
            f"{AREA_TWICE} first_tasks=compass first_steps=1000 steps=5000 batch_size=56 lr=3e-3 "
            "optimizer=muon schedule=hold decay=0.7 warmup=100 checkpoints=8 save_every=500 eval_every=1000 "
            "eval_rows=64 train.seed=1",
        ),
        # As quick, trained for longer and kept in float16: the zoo's example models.
        "small": Preset("quick", "steps=8000 save_every=1000 eval_every=2000 final_dtype=float16"),
        # Trained until the tasks are learned: 512 real cities, ids of 4 digits, all tasks from step 0 (recipe
        # fixed in reports/PREREGISTRATION.md).
        "ripe": Preset(
            "quick",
            "n_cities=512 id_digits=4 new=scattered n_new=32 first_tasks=none d_mlp=256 steps=50000 "
            "batch_size=64 decay=0.5 checkpoints=10",
        ),
        # The paper's 7-task run: 5,075 cities, 1.6 million parameters, 42 million rows.
        "paper": Preset(
            None,
            "n_cities=5075 new=atlantis n_new=100 rows_per_task=1000000 steps=328128 batch_size=128 lr=3e-4 "
            "warmup=50 checkpoints=12 save_every=2000 eval_every=8204",
        ),
        # A size for GPUs: 24 layers of width 1,024 (403 million parameters) on the paper's world and rows.
        # Weights are drawn with Qwen2's own 0.02: the paper's 0.1 was chosen at width 128. The rate is not
        # tuned.
        "large": Preset(
            "paper",
            "n_layers=24 d_model=1024 n_heads=16 d_mlp=4096 init_std=0.02 lr=1e-4 warmup=2000 checkpoints=3",
        ),
    }
)


def preset(name: str) -> RunConfig:
    """The settings of a preset. Raises UnknownName."""
    base, settings = SETTINGS[one_of("preset", name, SETTINGS)]
    return (preset(base) if base else RunConfig()).with_settings([*settings.split(), f"name={name}"])


PRESETS: Mapping[str, Callable[[], RunConfig]] = MappingProxyType(
    {name: partial(preset, name) for name in SETTINGS}
)


def nearest(config: RunConfig) -> str | None:
    """The preset from which the fewest settings differ; None when none has a model of this shape."""
    mine = _settings(config)
    alike = [name for name, (model, _) in _presets().items() if model == config.model]
    return min(alike, key=lambda name: sum(map(ne, mine, _presets()[name][1])), default=None)


def _settings(config: RunConfig) -> list[object]:
    parts = (config.world, config.data, config.train)
    return [getattr(part, key) for part in parts for key in type(part).__pydantic_fields__]


@cache
def _presets() -> dict[str, tuple[ModelConfig, list[object]]]:
    """Every preset's model and other settings, made once: a list of runs compares each with all of them."""
    made = {name: make() for name, make in PRESETS.items()}
    return {name: (config.model, _settings(config)) for name, config in made.items()}


def for_tasks(config: RunConfig, tasks: tuple[str, ...]) -> RunConfig:
    """`config` trained on these tasks only (in the usual order), with a name that says so.

    A mixture begins with its `first_tasks` only where it has them and others too. Raises UnknownName.
    """
    chosen = ordered(tasks)
    first = tuple(task for task in config.data.first_tasks if task in chosen)
    if set(first) == set(chosen):
        first = ()
    weights = config.data.weights if chosen == config.data.tasks else None
    changes: dict[str, object] = {"tasks": chosen, "weights": weights, "first_tasks": first}
    changes["first_steps"] = config.data.first_steps if first else 0
    data = parse(DataConfig, config.data.model_dump() | changes)
    name = config.name if chosen == config.data.tasks else f"{config.name}-{'+'.join(chosen)}"
    return config.model_copy(update={"data": data, "name": name})


def with_label_noise(config: RunConfig, share: float, kind: str) -> RunConfig:
    """`config` with this share of wrong answers, and a name that says so. Raises ConfigError."""
    suffix = f"-noise{share:g}" + ("" if kind == "uniform" else f"-{kind}")
    return config.with_settings(
        [f"label_noise={share}", f"label_noise_kind={kind}", f"name={config.name}{suffix}"]
    )


def under_protocol(config: RunConfig, name: str) -> RunConfig:
    """`config` with the data of protocol "strict" or "paper" (ids from 0 on). Raises UnknownName."""
    one_of("protocol", name, PROTOCOLS)
    world = config.world.model_copy(update={"id_min": 0 if name == "paper" else None})
    data = config.data.model_copy(update={"protocol": PROTOCOLS[name]})
    changed = config.model_copy(update={"world": world, "data": data})
    return changed if name == "strict" else changed.model_copy(update={"name": f"{config.name}-{name}"})
