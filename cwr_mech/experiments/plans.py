"""Plans: which models to train, and which of them start from others. Tables derived in code, never files.

A plan is a list of Planned runs in which every base stands before the runs that need it. `cwr-mech sweep`
trains them; a run is known by its name and its settings alone, so a plan may be changed between two sweeps
and what is there already is not trained again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, combinations
from types import MappingProxyType

from cwr_mech.config import PAPER, RunConfig
from cwr_mech.errors import ConfigError, one_of
from cwr_mech.experiments.finetuning import NEW_ROWS, PAIRS, TRIPLES, paper_config
from cwr_mech.experiments.planned import (
    Planned,
    conditions,
    finetunings,
    frozen,
    in_pretraining,
    pretraining,
    routed,
    seeds_only,
)
from cwr_mech.experiments.presets import with_label_noise
from cwr_mech.tasks.registry import PAPER_TASKS

DISTANCE_PAIRS = tuple(pair for pair in PAIRS if "distance" in pair)
OTHER_PAIRS = tuple(pair for pair in PAIRS if "distance" not in pair)
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
ALONE_STEPS: Mapping[str, int] = MappingProxyType(
    {
        "distance": 16_000,
        "compass": 16_000,
        "perimeter": 24_000,
        "trianglearea": 32_000,
        "angle": 32_000,
        "inside": 40_000,
        "crossing": 128_000,
    }
)
"""Task -> steps of a model of it alone in the plan `ripe`: caps, stated before the first was trained.
Crossing gets four times what angle does, as nothing here or in the paper says that it is learned alone."""
NOISY = (0.05, 0.2)
"""Shares of wrong answers in pretraining and fine-tuning, in the plan `ripe`."""
SHAPES: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "width32": ("d_model=32", "d_mlp=128"),
        "width128": ("d_model=128", "d_mlp=512"),
        "depth2": ("n_layers=2",),
        "depth8": ("n_layers=8",),
    }
)
"""Models of other sizes in the plan `ripe`: end of the name -> settings that differ. Heads stay four."""
PRIMARY = 6
"""Bases of the plan `ripe` that are fine-tuned in every way, exploratory and sealed."""
RIPE_RATE = 1e-3
"""Peak rate of fine-tunings in the plan `ripe`. At a thirtieth of the base's, distance still answered 192 off
about new cities at the end where old ones are 71 off; at this rate 43 and 41 (base of seed 1)."""
PLACED = (("distance",), ("compass",), ("perimeter",))
"""Tasks whose answers about a city say where it is."""
ALONGSIDE = (("trianglearea",), ("angle",), ("inside",))
"""The other tasks that are learned alone, for what tasks teach each other beside how similar models are."""
REHEARSED_PAIRS = tuple(pair for pair in (*DISTANCE_PAIRS, *OTHER_PAIRS[:6]) if "crossing" not in pair)
"""Pairs of tasks of which each is also trained by itself with replay in half of the rows."""
LATER_PAIRS = tuple(combinations(("distance", "angle", "compass", "perimeter"), 2))
"""Pairs of the four tasks that fine-tuning teaches well, half with distance, for later bases."""
AT_READING_SITE = {"positions": ("digit3", "last_digit"), "rescale": False}
RIPE_ROUTES: tuple[Mapping[str, object], ...] = (
    {"condition": "on-manifold", **AT_READING_SITE},
    {"condition": "off-manifold", **AT_READING_SITE},
    *({"condition": "covariance-matched", "draw": draw, **AT_READING_SITE} for draw in range(3)),
)
"""Projections of the plan `ripe`: where answers read a city, with the gradient's length left as it comes."""
CUT_ROUTES: tuple[Mapping[str, object], ...] = tuple(
    {"condition": condition, "elsewhere": "cut", **AT_READING_SITE}
    for condition in (
        "unprojected",
        "on-manifold",
        "off-manifold",
        "covariance-matched",
        "matched-complement",
    )
)
"""The same with the gradient cut at all other tokens. With the city side alone trained, what a question about
new cities teaches has no other way than these directions."""


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


def ripe(preset: RunConfig, seeds: Sequence[int]) -> list[Planned]:
    """Models trained until they have learned, exploratory bases before sealed ones; what is asked of them
    stands in reports/PREREGISTRATION.md.

    Half of the first six seeds are exploratory. Their bases and the fine-tunings of these on every task come
    first, then the same of the sealed seeds; models of one task; fine-tunings of four bases on the six pairs
    with distance and six without, and on distance, angle and compass under every condition; models of two
    tasks, each with the steps of its tasks alone together, and of one task with as many. Fine-tunings on
    tasks whose answers place a city are made twice more with replay of all seven tasks, so that the others
    are not forgotten: in a sixth and in half of the rows; with half the first bases are fine-tuned on every
    task that is learned alone, and on pairs of these (REHEARSED_PAIRS), later bases on angle, too, and on
    pairs of the four tasks that fine-tuning teaches well (LATER_PAIRS). With replay in half, the city side
    alone is also trained on distance and on compass through the new cities' activations alone (CUT_ROUTES).
    A base without
    a map where gradients are projected (seed 5) can't be trained so; those of further seeds stand in for it,
    with replay in half of the rows only. The paper's few elicitation rows come with new cities, as its
    settings have them, and on two bases with training cities. What follows label noise and size is asked of
    one seed.
    """
    half = (len(seeds[:PRIMARY]) + 1) // 2
    explored, sealed, further = (
        seeds_only(preset, few) for few in (seeds[:half], seeds[half:PRIMARY], seeds[PRIMARY:])
    )
    four = [*explored, *sealed][:4]
    tuned = partial(finetunings, lr=RIPE_RATE)
    studied = tuned(four, [(task,) for task in ("distance", "angle", "compass")])
    reading = preset.model.n_layers // 2  # modules up to the block after which a city is read
    city = ("E", *(f"L{layer}" for layer in range(reading)))
    sides = {"city": city, "answer": [name for name in preset.model.modules if name not in city]}
    routes, cut = (
        [{"layers": (reading - 1,), **route} for route in some] for some in (RIPE_ROUTES, CUT_ROUTES)
    )

    def through_cities(bases: Sequence[Planned]) -> list[Planned]:
        both = tuned(bases, [("distance",), ("compass",)], replay="all", replay_rows=NEW_ROWS)
        return routed(frozen(both, {"city": city}), cut)

    return [
        *explored,
        *tuned(explored, _singles(preset)),
        *tuned(explored, PLACED, replay="all"),
        *tuned(explored, PLACED, replay="all", replay_rows=NEW_ROWS),
        *tuned(explored, [*ALONGSIDE, *REHEARSED_PAIRS], replay="all", replay_rows=NEW_ROWS),
        *tuned(explored, PLACED, elicitation="new"),
        *tuned(explored[:2], PLACED, elicitation="world"),
        *alone(preset, seeds[:half]),
        *through_cities(explored),
        *routed(studied[:9], routes),
        *frozen(studied[:9], sides),
        *tuned(explored, [*DISTANCE_PAIRS, *OTHER_PAIRS[:6]]),
        *sealed,
        *tuned(sealed, _singles(preset)),
        *tuned(sealed, PLACED, replay="all"),
        *tuned(sealed, PLACED, replay="all", replay_rows=NEW_ROWS),
        *through_cities(sealed),
        *further,
        *tuned(further, PLACED, replay="all", replay_rows=NEW_ROWS),
        *through_cities(further),
        *tuned([*sealed, *further], [("angle",), *LATER_PAIRS], replay="all", replay_rows=NEW_ROWS),
        *routed(studied[9:], routes),
        *frozen(studied[9:], sides),
        *tuned(four[3:], [*DISTANCE_PAIRS, *OTHER_PAIRS[:6]]),
        *two_together(preset, seeds[:2]),
        *noisy(preset, seeds[:1]),
        *resized(preset, seeds[:1]),
    ]


def noisy(preset: RunConfig, seeds: Sequence[int]) -> list[Planned]:
    """With each share of wrong answers: a base, distance, angle and compass alone, and fine-tunings of the
    base on tasks that place a city, with replay in half of the rows. Fine-tunings have wrong answers, too.
    """
    planned = []
    for share in NOISY:
        wrong = with_label_noise(preset, share, "uniform")
        singles = alone(wrong, seeds, ("distance", "angle", "compass"))
        planned += [*_base_and_half_replay(wrong, seeds), *singles]
    return planned


def resized(preset: RunConfig, seeds: Sequence[int]) -> list[Planned]:
    """Bases of the sizes of SHAPES, and their fine-tunings with replay in half of the rows."""
    return [
        run
        for end, settings in SHAPES.items()
        for run in _base_and_half_replay(
            preset.with_settings([*settings, f"name={preset.name}-{end}"]), seeds
        )
    ]


def _base_and_half_replay(preset: RunConfig, seeds: Sequence[int]) -> list[Planned]:
    bases = seeds_only(preset, seeds)
    return [*bases, *finetunings(bases, PLACED, replay="all", lr=RIPE_RATE, replay_rows=NEW_ROWS)]


def alone(preset: RunConfig, seeds: Sequence[int], tasks: Sequence[str] | None = None) -> list[Planned]:
    """A model of each task (default: all) alone with the steps of ALONE_STEPS; of crossing, one seed only."""
    return [
        run
        for task in tasks or preset.data.tasks
        for run in pretraining(
            preset.with_settings([f"steps={ALONE_STEPS.get(task, preset.train.steps)}"]),
            [(task,)],
            seeds[:1] if task == "crossing" else seeds,
        )
    ]


def two_together(preset: RunConfig, seeds: Sequence[int]) -> list[Planned]:
    """The paper's seven models of two tasks, each with the steps of its tasks alone together (crossing: as
    many as angle), so that a task is seen, on average, as often as alone. Then models of one task with twice
    the steps of `alone`, which see, on average, as many rows in all as models of two: the control for rows.
    """
    steps = {**ALONE_STEPS, "crossing": ALONE_STEPS["angle"]}
    longer = {task: [f"steps={2 * steps[task]}"] for task in preset.data.tasks if task != "crossing"}
    pairs = {pair: [f"steps={sum(steps[task] for task in pair)}"] for pair in PAIRS[:7]}
    return [
        *(
            run
            for pair, more in pairs.items()
            for run in pretraining(preset.with_settings(more), [pair], seeds)
        ),
        *(
            Planned(run.config.with_settings([f"name={run.name}-longer"]))
            for task, more in longer.items()
            for run in pretraining(preset.with_settings(more), [(task,)], seeds)
        ),
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
