"""Settings of the training data: the mixture of tasks and how its rows are drawn."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from cwr_mech.config.base import Config, Words
from cwr_mech.errors import ConfigError


def _paper_tasks() -> tuple[str, ...]:
    from cwr_mech.tasks.registry import PAPER_TASKS  # numpy, which settings alone do not need

    return PAPER_TASKS


def _known_task(name: str) -> str:
    from cwr_mech.tasks.registry import get_task

    return get_task(name).name


TaskName = Annotated[str, AfterValidator(_known_task)]
"""The name of a task in the table, which knows the user's own as well."""


class Protocol(Config):
    """Choices that differ between our data and the reference's, each its own switch.

    Where they are off: each split is drawn by itself; TRUE and FALSE are balanced overall only; all four
    cities of a crossing are permuted and its label is computed anew; triples with a repeated city are
    dropped, which shortens the set.
    """

    split_by_hash: bool = Field(True, description="training and test questions never overlap")
    inside_balance_within_n: bool = Field(True, description="inside: labels balanced for each number")
    crossing_keeps_label: bool = Field(True, description="crossing: shuffling rows keeps the label")
    refill_repeats: bool = Field(True, description="triples with a repeated city are drawn anew, not dropped")


STRICT = Protocol()
PAPER = Protocol(
    split_by_hash=False, inside_balance_within_n=False, crossing_keeps_label=False, refill_repeats=False
)
PROTOCOLS = {"strict": STRICT, "paper": PAPER}


class Part(Config):
    """One ingredient of a mixture: rows of `task`, from row `start` on.

    `group` says which queries: "old" name no new city, "new" at least one, "all" any. `rows` None is
    endless; `weight` is the share among endless parts.
    """

    task: TaskName
    group: Literal["old", "new", "all"] = "old"
    rows: int | None = Field(None, ge=1)
    start: int = Field(0, ge=0)
    weight: float = Field(1.0, gt=0)


class DataConfig(Config):
    """What a model is trained on. A fixed set (`rows_per_task`) is reshuffled every epoch.

    In the first `first_steps` steps only rows of `first_tasks` are seen. Tasks whose answer already leans on
    each city by itself, such as compass, teach the map soonest; the others then start from it.
    """

    tasks: tuple[TaskName, ...] = Field(default_factory=_paper_tasks, description="tasks of the mixture")
    protocol: Protocol = STRICT
    parts: tuple[Part, ...] = Field((), description="the mixture, part by part; fine-tuning fills it in")
    rows_per_task: int | None = Field(
        None, ge=1, description="size of the training set for each task; none: fresh rows for ever"
    )
    weights: tuple[float, ...] | None = Field(None, description="shares of tasks in the rows; none: equal")
    first_tasks: Words = Field(
        (), description="tasks seen alone at the beginning (curriculum); none: all from the first step"
    )
    first_steps: int = Field(0, ge=0, description="steps in which only those are seen (curriculum)")
    label_noise: float = Field(0.0, ge=0.0, le=1.0, description="share of wrong answers (label noise)")
    label_noise_kind: Literal["uniform", "local"] = Field(
        "uniform", description="uniform: another query's answer; local: 5 % off, a neighbouring label"
    )
    seed: int = Field(42, ge=0, description="seed of the rows")

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ConfigError(f"tasks must be given once each, got {', '.join(self.tasks) or 'none'}")
        if not set(self.first_tasks) <= set(self.tasks) or bool(self.first_tasks) != bool(self.first_steps):
            raise ConfigError("first_tasks and first_steps go together, and name tasks of the mixture")
        if self.weights is not None and (len(self.weights) != len(self.tasks) or min(self.weights) <= 0):
            raise ConfigError(f"weights must be {len(self.tasks)} positive numbers, one a task")
        return self
