"""The plan `ripe`: models trained until they have learned. reports/PREREGISTRATION.md says what is asked of
them, and when that was written down.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from types import MappingProxyType

from cwr_mech.config import RunConfig
from cwr_mech.experiments.finetuning import DISTANCE_PAIRS, NEW_ROWS, OTHER_PAIRS, PAIRS
from cwr_mech.experiments.planned import Planned, finetunings, frozen, pretraining, routed, seeds_only
from cwr_mech.experiments.presets import with_label_noise

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
LONGER = 5
"""Seeds of distance alone with twice the steps, and with the usual ones."""
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


def ripe(preset: RunConfig, seeds: Sequence[int]) -> list[Planned]:
    """Half of the first six seeds are exploratory; their bases and what starts from them come before the same
    of the sealed ones.

    Every base is fine-tuned on each task, and once more with replay of all seven tasks on those whose answers
    place a city, so that the others are not forgotten: in a sixth of the rows and in half. With half, the
    first bases are fine-tuned on every task that is learned alone and on pairs of these (REHEARSED_PAIRS),
    later bases on pairs of the four tasks that fine-tuning teaches well (LATER_PAIRS). The city side alone is
    then trained on distance and on compass, in the first bases on angle, too, through the new cities'
    activations alone (CUT_ROUTES). A base without a map where gradients are projected (seed 5) can't be
    trained so; those of further seeds stand in for it, with replay in half of the rows only. The paper's few
    elicitation rows come with new cities, as in its settings, and on two bases with training cities. Four
    bases are fine-tuned on the six pairs with distance and six without, and on distance, angle and compass
    under every condition. Fresh models are of one task, of two, each with the steps of its tasks alone
    together, and of one task with as many; of distance with as many there are more. What follows label noise
    and size is asked of one seed.
    """
    singles = [(task,) for task in preset.data.tasks]
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

    def through_cities(bases: Sequence[Planned], *tasks: str) -> list[Planned]:
        each = tuned(bases, [(task,) for task in tasks], replay="all", replay_rows=NEW_ROWS)
        return routed(frozen(each, {"city": city}), cut)

    return [
        *explored,
        *tuned(explored, singles),
        *tuned(explored, PLACED, replay="all"),
        *tuned(explored, PLACED, replay="all", replay_rows=NEW_ROWS),
        *tuned(explored, [*ALONGSIDE, *REHEARSED_PAIRS], replay="all", replay_rows=NEW_ROWS),
        *tuned(explored, PLACED, elicitation="new"),
        *tuned(explored[:2], PLACED, elicitation="world"),
        *alone(preset, seeds[:half]),
        *through_cities(explored, "distance", "compass", "angle"),
        *routed(studied[:9], routes),
        *frozen(studied[:9], sides),
        *tuned(explored, [*DISTANCE_PAIRS, *OTHER_PAIRS[:6]]),
        *sealed,
        *tuned(sealed, singles),
        *tuned(sealed, PLACED, replay="all"),
        *tuned(sealed, PLACED, replay="all", replay_rows=NEW_ROWS),
        *through_cities(sealed, "distance", "compass"),
        *further,
        *tuned(further, PLACED, replay="all", replay_rows=NEW_ROWS),
        *through_cities(further, "distance", "compass"),
        *tuned([*sealed, *further], [("angle",), *LATER_PAIRS], replay="all", replay_rows=NEW_ROWS),
        *routed(studied[9:], routes),
        *frozen(studied[9:], sides),
        *tuned(four[3:], [*DISTANCE_PAIRS, *OTHER_PAIRS[:6]]),
        *two_together(preset, seeds[:2]),
        *longer(preset, seeds[:2]),
        *alone(preset, seeds[half:LONGER], ("distance",)),
        *longer(preset, seeds[2:LONGER], ("distance",)),
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
    many as angle), so that a task is seen, on average, as often as alone.
    """
    steps = {**ALONE_STEPS, "crossing": ALONE_STEPS["angle"]}
    return [
        run
        for pair in PAIRS[:7]
        for run in pretraining(
            preset.with_settings([f"steps={sum(steps[task] for task in pair)}"]), [pair], seeds
        )
    ]


def longer(preset: RunConfig, seeds: Sequence[int], tasks: Sequence[str] | None = None) -> list[Planned]:
    """Models of one task (default: all but crossing) with twice the steps of `alone`: as many rows, on
    average, as models of two tasks see in all. Of distance there are more seeds: is it unlike the others
    because it has not been learned as well?
    """
    return [
        Planned(run.config.with_settings([f"name={run.name}-longer"]))
        for task in tasks or [task for task in preset.data.tasks if task != "crossing"]
        for run in pretraining(preset.with_settings([f"steps={2 * ALONE_STEPS[task]}"]), [(task,)], seeds)
    ]
