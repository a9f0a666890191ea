"""Experiments by name: functions that return settings."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from cwr_mech.config import TASK_NAMES, DataConfig, ModelConfig, RunConfig, TrainConfig, WorldConfig
from cwr_mech.errors import UnknownName


def tiny() -> RunConfig:
    """Seconds: 24 cities and a toy model, to try every command. It learns no map."""
    return RunConfig(
        name="tiny",
        world=WorldConfig(n_cities=24, new="atlantis", n_new=4),
        model=ModelConfig(n_layers=2, d_model=32, n_heads=2, d_mlp=64),
        train=TrainConfig(
            steps=60,
            batch_size=28,
            lr=1e-3,
            warmup=10,
            checkpoints=2,
            save_every=20,
            eval_every=30,
            eval_rows=8,
        ),
    )


def quick() -> RunConfig:
    """Minutes on one core: 256 real cities, a small model that ends with a map."""
    return RunConfig(
        name="quick",
        world=WorldConfig(n_cities=256, new="atlantis", n_new=16),
        model=ModelConfig(n_layers=4, d_model=64, n_heads=4, d_mlp=256),
        train=TrainConfig(
            steps=8000,
            batch_size=56,
            lr=2e-3,
            schedule="hold",
            warmup=100,
            checkpoints=6,
            save_every=500,
            eval_every=1000,
            eval_rows=64,
        ),
    )


def paper() -> RunConfig:
    """The paper's 7-task run: 5,075 cities, 1.6 million parameters, 42 million rows."""
    return RunConfig(
        name="paper",
        world=WorldConfig(n_cities=5075, new="atlantis", n_new=100),
        data=DataConfig(rows_per_task=1_000_000),
        train=TrainConfig(
            steps=328_128,
            batch_size=128,
            lr=3e-4,
            warmup=50,
            checkpoints=12,
            save_every=2000,
            eval_every=8204,
        ),
    )


PRESETS: Mapping[str, Callable[[], RunConfig]] = MappingProxyType(
    {"tiny": tiny, "quick": quick, "paper": paper}
)


def preset(name: str) -> RunConfig:
    """The settings of a preset. Raises UnknownName."""
    if name not in PRESETS:
        raise UnknownName("preset", name, PRESETS)
    return PRESETS[name]()


def for_tasks(config: RunConfig, tasks: tuple[str, ...]) -> RunConfig:
    """`config` trained on these tasks only (in the usual order), with a name that says so."""
    unknown = [task for task in tasks if task not in TASK_NAMES]
    ordered = (*(task for task in TASK_NAMES if task in tasks), *unknown)
    data = DataConfig.model_validate({**config.data.model_dump(), "tasks": ordered, "weights": None})
    name = config.name if ordered == TASK_NAMES else f"{config.name}-{'+'.join(ordered)}"
    return config.model_copy(update={"data": data, "name": name})
