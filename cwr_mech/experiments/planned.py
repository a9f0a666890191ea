"""Planned runs, and the builders that plans (`cwr_mech.experiments.plans`) are made of."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from cwr_mech.config import Part, RouteConfig, RunConfig, parse
from cwr_mech.experiments.finetuning import REPLAY_ROWS, Elicitation, Replay, finetuning_config
from cwr_mech.experiments.presets import for_tasks


@dataclass(frozen=True)
class Planned:
    """One model to train; `base` is the name of the run it starts from, None for fresh weights."""

    config: RunConfig
    base: str | None = None

    @property
    def name(self) -> str:
        """The run's name, which is also its folder's."""
        return self.config.name


def pretraining(preset: RunConfig, sets: Iterable[Sequence[str]], seeds: Iterable[int]) -> list[Planned]:
    """A model for each set of tasks and each seed. The preset's own seed is left out of the names."""
    planned = []
    for tasks in sets:
        config = for_tasks(preset, tuple(tasks))
        for seed in seeds:
            name = config.name if seed == preset.train.seed else f"{config.name}-seed{seed}"
            planned.append(Planned(config.with_settings([f"train.seed={seed}", f"name={name}"])))
    return planned


def finetunings(
    bases: Iterable[Planned],
    sets: Iterable[Sequence[str]],
    replay: Replay = "trained",
    elicitation: Elicitation = "none",
    lr: float | None = None,
    replay_rows: int = REPLAY_ROWS,
) -> list[Planned]:
    """A fine-tuning of each base for each set of tasks."""
    wanted = [tuple(tasks) for tasks in sets]
    make = partial(finetuning_config, replay=replay, elicitation=elicitation, lr=lr, replay_rows=replay_rows)
    return [Planned(make(base.config, tasks), base.name) for base in bases for tasks in wanted]


def seeds_only(preset: RunConfig, seeds: Sequence[int]) -> list[Planned]:
    """The model of all tasks."""
    return pretraining(preset, [preset.data.tasks], seeds)


def in_pretraining(preset: RunConfig, seeds: Iterable[int]) -> list[Planned]:
    """Models of all tasks that see the new cities from the start: what full integration looks like."""
    planned = []
    for base in seeds_only(preset, list(seeds)):
        rows = preset.data.rows_per_task
        weights = preset.data.weights or (1.0,) * len(preset.data.tasks)
        parts = tuple(
            Part(task=task, group="all", rows=rows, weight=weight)
            for task, weight in zip(preset.data.tasks, weights, strict=True)
        )
        data = base.config.data.model_copy(update={"parts": parts})
        name = base.name.replace(preset.name, f"{preset.name}-all-cities", 1)
        planned.append(Planned(base.config.model_copy(update={"data": data, "name": name})))
    return planned


def routed(tuned: Iterable[Planned], routes: Iterable[Mapping[str, object]]) -> list[Planned]:
    """Each fine-tuning once more under each condition (settings of RouteConfig); where it names no layers, at
    every layer whose output at a city is read.
    """
    planned = []
    for run in tuned:
        for settings in routes:
            layers = tuple(range(run.config.model.n_layers - 1))
            route = parse(RouteConfig, {"layers": layers, **settings})
            changes = {"route": route, "name": run.name + route.suffix}
            planned.append(Planned(run.config.model_copy(update=changes), run.base))
    return planned


def frozen(tuned: Iterable[Planned], sides: Mapping[str, Sequence[str]]) -> list[Planned]:
    """Each fine-tuning once more with only some modules trained: name of the side -> its modules."""
    return [
        Planned(
            run.config.with_settings(
                [f"train.train_only={','.join(modules)}", f"name={run.name}-only-{side}"]
            ),
            run.base,
        )
        for run in tuned
        for side, modules in sides.items()
    ]


def conditions(tuned: Sequence[Planned], wanted: Mapping[str, Sequence[str]]) -> list[Planned]:
    """The conditions of single-task fine-tunings: task -> names of its conditions."""
    by_task = {task: [run for run in tuned if run.config.data.tasks == (task,)] for task in wanted}
    routes = {task: [{"condition": name} for name in names] for task, names in wanted.items()}
    return [run for task in wanted for run in routed(by_task[task], routes[task])]
