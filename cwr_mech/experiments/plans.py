"""Plans: which models to train, and which of them start from others. Tables derived in code, never files.

A plan is a list of Planned runs in which every base stands before the runs that need it. `cwr-mech sweep`
trains them; a run is known by its name and its settings alone, so a plan may be changed between two sweeps
and what is there already is not trained again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from types import MappingProxyType

from cwr_mech.config import PAPER, RunConfig
from cwr_mech.errors import ConfigError, one_of
from cwr_mech.experiments.finetuning import DISTANCE_PAIRS, OTHER_PAIRS, PAIRS, TRIPLES, paper_config
from cwr_mech.experiments.planned import (
    Planned,
    conditions,
    finetunings,
    in_pretraining,
    pretraining,
    seeds_only,
)
from cwr_mech.experiments.ripe import ripe
from cwr_mech.tasks.registry import PAPER_TASKS

PROJECTIONS = ("on-manifold", "off-manifold", "random", "random-complement")
ROUTED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "distance": ("on-manifold", "random", "penalty"),
        "angle": ("on-manifold", "off-manifold", "random-complement", "penalty"),
        "compass": ("on-manifold", "off-manifold", "random-complement"),
        "perimeter": ("on-manifold", "off-manifold", "random-complement"),
    }
)
"""Task -> conditions that predictions are about; the other PROJECTIONS are for the record."""
EVERY_CONDITION = {
    task: (*PROJECTIONS, *(["penalty"] if task in ("distance", "angle") else [])) for task in ROUTED
}


def _singles(preset: RunConfig) -> list[tuple[str, ...]]:
    return [(task,) for task in preset.data.tasks]


def _pairs(preset: RunConfig) -> list[tuple[str, ...]]:
    """Pairs of the preset's tasks: the paper's in its numbering, then those with tasks that it has not."""
    every = [pair for pair in combinations(preset.data.tasks, 2) if not {*pair} <= {*PAPER_TASKS}]
    return [*(pair for pair in PAIRS if {*pair} <= {*preset.data.tasks}), *every]


def _without(*left_out: str) -> tuple[str, ...]:
    return tuple(task for task in PAPER_TASKS if task not in left_out)


def singles(preset: RunConfig, seeds: Sequence[int]) -> list[Planned]:
    """A model of each task of the preset alone."""
    return pretraining(preset, _singles(preset), seeds)


def pairs(preset: RunConfig, seeds: Sequence[int]) -> list[Planned]:
    """All two-task models; 21 of seven tasks."""
    return pretraining(preset, _pairs(preset), seeds)


def tune(preset: RunConfig, seeds: Sequence[int]) -> list[Planned]:
    """The model of all tasks, and its fine-tuning on each task and on each pair."""
    bases = seeds_only(preset, seeds)
    return bases + finetunings(bases, [*_singles(preset), *_pairs(preset)])


def trial(preset: RunConfig, seeds: Sequence[int]) -> list[Planned]:
    """Seven runs with one dependency, to try the machinery: a base, three tasks alone, three fine-tunings."""
    bases = seeds_only(preset, seeds)
    sets = _singles(preset)[:3]
    return bases + pretraining(preset, sets, seeds) + finetunings(bases, sets)


def routing(preset: RunConfig, seeds: Sequence[int]) -> list[Planned]:
    """What the test of off-map routing needs: models of all tasks, their fine-tunings on the tasks of ROUTED,
    unprojected and under the conditions that a prediction is about.
    """
    bases = seeds_only(preset, seeds)
    studied = finetunings(bases, [(task,) for task in ROUTED])
    return [*bases, *studied, *conditions(studied, ROUTED)]


def zoo(preset: RunConfig, seeds: Sequence[int]) -> list[Planned]:
    """The family that ships with the repository, what matters most first.

    Every seed: the plan `routing`, the fine-tunings of each base on the other single tasks, each task alone,
    fine-tunings on the six pairs with distance and six without, all tasks with the new cities in pretraining.
    First seed only: two to six tasks, and fine-tunings with the paper's elicitation rows. The other
    conditions come last. Models of one task train half as many steps, all others the whole number: each task
    still gets more rows alone than beside others.
    """
    routed, first = routing(preset, seeds), seeds[:1]
    names = {run.name for run in routed}
    bases = [run for run in routed if run.base is None]
    half = preset.with_settings([f"steps={preset.train.steps // 2}"])
    pairs = [DISTANCE_PAIRS[:3] + OTHER_PAIRS[:3], DISTANCE_PAIRS[3:] + OTHER_PAIRS[3:6]]
    tuned = finetunings(bases, _singles(preset))
    return [
        *routed,
        *(run for run in tuned if run.name not in names),
        *(run for seed in seeds for run in pretraining(half, _singles(preset), [seed])),
        *finetunings(bases[:1], _singles(preset), elicitation="new"),
        *finetunings(bases, pairs[0]),
        *pretraining(preset, chain.from_iterable(zip(PAIRS[:7], TRIPLES[:7], strict=True)), first),
        *pretraining(preset, [_without("inside", "perimeter", "crossing")], first),
        *pretraining(preset, [_without("distance", "crossing"), _without("distance")], first),
        *finetunings(bases, pairs[1]),
        *in_pretraining(preset, seeds),
        *finetunings(bases[:1], _singles(preset), elicitation="world"),
        *(run for run in conditions(tuned, EVERY_CONDITION) if run.name not in names),
    ]


def paper(preset: RunConfig, seeds: Sequence[int]) -> list[Planned]:
    """The paper's 179 models under its own protocol. Its seven sets of one, two and three tasks have one seed
    fewer than the models of all tasks and their fine-tunings.
    """
    data = preset.data.model_copy(update={"protocol": PAPER})
    world = preset.world.model_copy(update={"id_min": 0})
    preset = preset.model_copy(update={"data": data, "world": world})
    bases = seeds_only(preset, seeds)
    fewer = seeds[:-1] or seeds
    tuned = [
        Planned(paper_config(base.config, recipe, tasks), base.name)
        for recipe, sets in (("ftwb1", _singles(preset)), ("ftwb2", PAIRS))
        for tasks in sets
        for base in bases
    ]
    return [
        *bases,
        *singles(preset, fewer),
        *pretraining(preset, PAIRS[:7], fewer),
        *pretraining(preset, TRIPLES[:7], fewer),
        *tuned,
    ]


@dataclass(frozen=True)
class Plan:
    """A plan's function with the preset and the number of seeds it is usually made of."""

    make: Callable[[RunConfig, Sequence[int]], list[Planned]]
    preset: str
    n_seeds: int

    def runs(self, preset: RunConfig, seeds: Sequence[int] | None = None) -> tuple[Planned, ...]:
        """The plan's runs, bases first; by default of the preset's own seed, then 1, 2, ... without it.

        Raises ConfigError when two runs have one name or a base is missing.
        """
        own = preset.train.seed
        others = [seed for seed in range(1, self.n_seeds + 1) if seed != own]
        return checked(self.make(preset, seeds or [own, *others][: self.n_seeds]))


PLANS: Mapping[str, Plan] = MappingProxyType(
    {
        "singles": Plan(singles, "small", 1),
        "pairs": Plan(pairs, "small", 1),
        "seeds": Plan(seeds_only, "small", 3),
        "tune": Plan(tune, "small", 1),
        "trial": Plan(trial, "tiny", 1),
        "routing": Plan(routing, "small", 6),
        "zoo": Plan(zoo, "small", 3),
        "ripe": Plan(ripe, "ripe", 7),
        "paper": Plan(paper, "paper", 4),
    }
)


def find_plan(name: str) -> Plan:
    """Raises UnknownName."""
    return PLANS[one_of("plan", name, PLANS)]


def checked(planned: Sequence[Planned]) -> tuple[Planned, ...]:
    """The plan, if its names differ and every base comes first. Raises ConfigError."""
    seen: set[str] = set()
    for run in planned:
        if run.name in seen:
            raise ConfigError(f"two runs of the plan are called {run.name}")
        if run.base is not None and run.base not in seen:
            raise ConfigError(f"run {run.name} starts from {run.base}, which the plan does not train before")
        seen.add(run.name)
    return tuple(planned)
