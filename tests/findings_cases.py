"""Results of made-up models in which what claims ask for is planted."""

from itertools import combinations, product
from typing import Any

from cwr_mech.analysis.locating.tables import LOCATED
from cwr_mech.experiments.finetuning import HALF_REHEARSED, PLAIN, REHEARSED
from cwr_mech.experiments.ripe import LATER_PAIRS, REHEARSED_PAIRS
from cwr_mech.findings.conditions import CUT_MATCHED, CUT_OFF, CUT_ON, CUT_REST, CUT_WHOLE, MATCHED, OFF, ON
from cwr_mech.findings.evidence import MATCHED as MATCHED_AT
from cwr_mech.findings.tables import MEASURES
from cwr_mech.results import Result, Row
from cwr_mech.tasks.registry import PAPER_TASKS

PAIRED = (
    ("distance", "trianglearea"),
    ("angle", "compass"),
    ("inside", "perimeter"),
    ("trianglearea", "angle"),
    ("compass", "inside"),
)
ROUTED = ("distance", "angle", "compass", "perimeter")


def result(kind: str, params: dict[str, Any] | None = None, **tables: list[Row]) -> Result:
    return Result(kind, "made for a test", {}, params or {}, tables=tables)


def planted(
    *,
    bases: int = 3,
    single: float = 0.9,
    outlier: float = 0.3,
    harm: float = 0.4,
    own: float = 0.95,
    off: float = 0.6,
    apart: float = 1.4,
    city: float = 0.5,
    share: float = -0.3,
    matched: float = 0.4,
    rehearsed: float = 0.0,
    forgotten: float = 0.0,
    through: float = 0.8,
    route: float = 0.3,
    without: float = 0.3,
    serves: float = 0.0,
    surfaced: float = 0.3,
    foretold: float = 1.0,
    together: float = 0.3,
    longer: float = 0.1,
    nearer: float = 0.15,
    half: float = 0.0,
    unplaced: float = 0.0,
    half_harm: float = 0.4,
    half_pairs_forget: float = 0.0,
) -> dict[str, Result]:
    """Results of seven-task models, three of each task alone, and fine-tunings of each base.

    single: share of the gap that single-task models close. CKA of different tasks is 0.8, `outlier` less with
    distance; distance teaches others 0.05, other tasks 0.5; pairs with distance miss the better teacher by
    `harm`. own, off: improvement in the trained task, unprojected and off-manifold. apart: log ratio of
    implied places after tuning on distance, half of it after other tasks. city: what the city side carries
    more than the answer side. share: how much less of distance's updates lies in the manifold. matched: how
    much less covariance-matched directions teach than the manifold's. rehearsed: how much more distance
    teaches others, and how much less places differ, with replay of all tasks. forgotten: what untrained tasks
    lose about training cities. through: improvement through new cities' activations alone, half of it on- or
    off-manifold; route: how much more of distance runs off-manifold. without: how much more tasks are learned
    without other directions than without the manifold's. serves: how much less of distance runs on-manifold.
    surfaced: R² of first components, all tasks' models' above single ones'. foretold: how far similarity
    of gradients is that of what tasks teach each other (1: in step, 0: not at all, -1: against it).
    together: CKA of models of two tasks, above that of their tasks alone; longer: that of models of one task
    that saw more rows; nearer: how much more alike distance and other tasks are where it saw more. With half
    of the rows replaying all tasks, distance teaches others `half` more, and after
    tasks that do not place a city others lose `unplaced` more about training cities; there pairs with
    distance miss the better teacher by `half_harm`; after pairs others lose `half_pairs_forget` more.
    """
    names = [f"all-{k}" for k in range(bases)]
    alone = {f"{task}-{copy}": task for task in PAPER_TASKS for copy in range(3)}
    seeds = {run: int(run.rpartition("-")[2]) for run in alone}
    every = "+".join(PAPER_TASKS)

    def model(run: str, tasks: str, family: str, base: str | None, seed: int) -> Row:
        head = {"run": f"zoo:{run}", "tasks": tasks, "base": base and f"zoo:{base}", "family": family}
        return head | {"route": "unprojected", "seed": seed, "rows": 100}

    models = [model(run, every, "all seven tasks", None, k) for k, run in enumerate(names)]
    models += [model(run, task, "1 task", None, seeds[run]) for run, task in alone.items()]
    two = {"+".join(pair): pair for pair in PAIRED}
    again = {f"{task}-longer": task for task in PAPER_TASKS} | {
        f"distance-longer-{k}": "distance" for k in (1, 2)
    }
    seeds |= dict.fromkeys([*two, *again], 0) | {f"distance-longer-{k}": k for k in (1, 2)}
    models += [model(run, task, "1 task", None, seeds[run]) | {"rows": 200} for run, task in again.items()]
    compared = [
        {
            "run": f"zoo:{run}",
            "tasks": tasks,
            "seed": seeds[run],
            "rows": rows,
            "failed": gain < 0.5,
            "label_noise": 0.0,
        }
        for runs, rows, gain in (
            (alone, 100, single),
            (dict(zip(two, two, strict=True)), 200, 0.9),
            (again, 200, 0.9),
        )
        for run, tasks in runs.items()
    ]
    models += [
        model(f"{b}-{t}", t, "fine-tuned on 1 task", b, k) for k, b in enumerate(names) for t in PAPER_TASKS
    ]
    gains = (
        {run: 0.9 + 0.01 * k for k, run in enumerate(names)}
        | dict.fromkeys(alone, single)
        | dict.fromkeys(again, 0.9)
    )
    scores = [
        {"run": f"zoo:{run}", "task": task, "group": "old", "gain": gain, "value": 1 - gain}
        for run, gain in gains.items()
        for task in PAPER_TASKS
    ]
    runs = [row["run"] for row in models]
    layers = [
        {"run": run, "task": "distance", "hook": hook, "layer": 0, "r2": r2 + 0.001 * (k % 3)}
        | {"control_r2_shuffled": 0.0}
        for k, run in enumerate(runs)
        for hook, r2 in (("a", 0.5), ("b", 0.97))
    ]
    new = [
        {
            "run": f"zoo:{b}-{t}",
            "task": "distance",
            "hook": "b",
            "error_mean": (400.0 if t == "distance" else 100.0) + k,
        }
        for k, b in enumerate(names)
        for t in PAPER_TASKS
    ]
    pairs = []
    for i, first in enumerate(alone):
        for j, second in enumerate(list(alone)[:i]):
            value = 0.8 + 0.001 * ((i * 5 + j * 3) % 7)
            value -= outlier if "distance" in (alone[first], alone[second]) else 0.0
            head = {"run_a": f"zoo:{first}", "run_b": f"zoo:{second}", "null_mean": 0.01}
            pairs += [head | {"measure": measure, "value": value} for measure in MEASURES]
    pairs += paired(two, again, outlier, together, longer, nearer)
    taught, deviation = [], []
    for k, base in enumerate(names):
        conditions = {PLAIN: own, OFF: off, ON: own, MATCHED[0]: own - matched, REHEARSED: own}
        conditions[HALF_REHEARSED] = own
        conditions |= {CUT_WHOLE: through, CUT_ON: through / 2, CUT_MATCHED: through / 2 - matched}
        conditions |= {CUT_OFF: through / 2, CUT_REST: through / 2 + without}
        for condition, some in conditions.items():
            for trained in PAPER_TASKS:
                mine = some + (route if (condition, trained) == (CUT_OFF, "distance") else 0.0)
                mine -= serves if (condition, trained) == (CUT_ON, "distance") else 0.0
                others = 0.0 if condition in (OFF, CUT_OFF) else 0.05 if trained == "distance" else 0.5
                others += rehearsed if condition == REHEARSED and trained == "distance" else 0.0
                others += half if condition == HALF_REHEARSED and trained == "distance" else 0.0
                lost = unplaced if condition == HALF_REHEARSED and trained not in LOCATED else 0.0
                taught += [
                    {"base": f"zoo:{base}", "set": trained, "task": task, "trained": trained == task}
                    | {"condition": condition, "base_gain": 0.9, "base_new": 0.0, "base_old": 1.0}
                    | {"old": 1.0 + 0.01 * k - forgotten - lost}
                    | {"ni": (mine if trained == task else others) + 0.01 * k}
                    for task in PAPER_TASKS
                ]
        taught += [
            {"base": f"zoo:{base}", "set": "+".join(pair), "task": task, "trained": task in pair}
            | {"condition": HALF_REHEARSED, "base_gain": 0.9, "base_new": 0.0, "base_old": 1.0}
            | {"old": 1.0 + 0.01 * k - half_pairs_forget, "ni": 0.5}
            for pair in dict.fromkeys((*REHEARSED_PAIRS, *LATER_PAIRS))
            for task in PAPER_TASKS
        ]
        for condition, less in ((PLAIN, harm), (HALF_REHEARSED, half_harm)):
            for tasks, value in (("distance+angle", -less), ("angle+perimeter", 0.0)):
                head = {"base": f"zoo:{base}", "set": tasks, "task": "compass", "condition": condition}
                deviation.append(head | {"trained": False, "learned": True, "deviation": value + 0.01 * k})
    return {
        "models": result("zoo", models=models, scores=scores),
        "maps": result("maps", layers=layers, new=new),
        "similarity": result("similarity", pairs=pairs, models=compared),
        "transfer": result("transfer", scores=taught, deviation=deviation),
        "course": result("course", matched=courses(names)),
        "surfacing": result("surfacing", components=components(names, alone, surfaced)),
        "prediction": result("prediction", pairs=gradients(names, foretold)),
        **mechanism(names, apart, city, share, rehearsed),
    }


def paired(
    two: dict[str, tuple[str, str]],
    again: dict[str, str],
    outlier: float,
    together: float,
    longer: float,
    nearer: float,
) -> list[Row]:
    """CKA of models of two tasks, and of models of one that saw more rows, each kind among itself;
    of distance, also with models of other tasks that did not.

    Models that share a task, or are of one task, are so alike that no mean could bear one of them.
    """

    def apart(a: str, b: str) -> float:
        return 0.8 - (outlier if "distance" in (a, b) else 0.0)

    rows = []
    for i, (a, b) in enumerate(combinations(two, 2)):
        value = sum(apart(x, y) for x in two[a] for y in two[b]) / 4 + together
        rows.append((a, b, 9.0 if set(two[a]) & set(two[b]) else value + 0.001 * (i % 3)))
    for a, b in combinations(again, 2):
        rows.append((a, b, 9.0 if again[a] == again[b] else apart(again[a], again[b]) + longer))
    for k, (run, other, copy) in enumerate(product(again, PAPER_TASKS, range(3))):
        near = again[run] == "distance" != other
        value = apart("distance", other) + nearer + 0.001 * (k % 5) if near else 9.0
        rows.append((f"{other}-{copy}", run, value))
    return [
        {"run_a": f"zoo:{a}", "run_b": f"zoo:{b}", "null_mean": 0.03, "measure": "cka", "value": value}
        for a, b, value in rows
    ]


def components(names: list[str], alone: dict[str, str], surfaced: float) -> list[Row]:
    """R² of first components: models of all tasks in every prompt, single ones in their own, and more of them
    with more components."""
    own = [(run, task, 0.5 + surfaced) for run in names for task in PAPER_TASKS]
    own += [(run, task, 0.5) for run, task in alone.items()]
    return [
        {"run": f"zoo:{run}", "task": task, "k": k, "r2": value + 0.01 * (i % 3) + (0.2 if k > 4 else 0.0)}
        for i, (run, task, value) in enumerate(own)
        for k in (4, 8)
    ]


def gradients(names: list[str], foretold: float) -> list[Row]:
    """Alignment of tasks' gradients, high where distance has no part in the pair, as in what they teach."""
    rows = []
    for k, base in enumerate(names):
        for i, (a, b) in enumerate(combinations(PAPER_TASKS, 2)):
            other = ((5 * i) % 7 - 3) / 30  # of no pair of tasks in particular
            value = foretold * (0.0 if "distance" in (a, b) else 0.3) + (1 - abs(foretold)) * other
            head = {"run": base, "a": a, "b": b, "predictor": "alignment"}
            rows += [head | {"from": "step 9", "value": value + 0.02 * ((i + k) % 3)}]
            rows += [head | {"from": moment, "value": -value} for moment in ("untrained", "step 3")]
    return rows


def courses(names: list[str]) -> list[Row]:
    """Others' improvement at matched competence. Triangle area gets there in all bases but the first, with
    numbers that would drown the rest."""
    return [
        {"base": f"zoo:{base}", "set": task, "condition": PLAIN, "level": MATCHED_AT}
        | {"others": other if k else None if task == "trianglearea" else other}
        for k, base in enumerate(names)
        for task in PAPER_TASKS
        for other in [{"distance": 0.1 + 0.01 * k, "trianglearea": -9.0}.get(task, 0.4)]
    ]


def mechanism(
    names: list[str], apart: float, city: float, share: float, rehearsed: float
) -> dict[str, Result]:
    """Implied places, grafts, reading sites, shares and displacements of the planted bases."""
    located, divergence, carried, moved, shares, sites = [], [], [], [], [], {}
    for k, base in enumerate(names):
        for task in ("distance", "compass", "perimeter"):
            run = f"{base}-{task}"
            located.append({"run": run, "models": f"fine-tuned on {task}", "base": f"zoo:{base}", "seed": k})
            index = (apart if task == "distance" else apart / 2) + 0.01 * k
            divergence += [
                {"run": run, "trained": task, "task": o, "excess": index}
                for o in ("distance", "compass")
                if o != task
            ]
        run = f"{base}-distance-replay-all"
        label = f"fine-tuned on distance; {REHEARSED}"
        located.append({"run": run, "models": label, "base": f"zoo:{base}", "seed": k})
        divergence.append(
            {"run": run, "trained": "distance", "task": "compass", "excess": apart - rehearsed + 0.01 * k}
        )
        for task in ROUTED:
            for side, value in (("city side", 0.3 + city), ("answer side", 0.3)):
                head = {"base": f"zoo:{base}", "set": task, "graft": side}
                carried.append(head | {"own": value + 0.01 * k, "others": value})
            inside = 0.8 + (share if task == "distance" else 0.0) + 0.01 * k
            head = {
                "run": f"{base}-{task}",
                "base": f"zoo:{base}",
                "set": task,
                "prompt": task,
                "condition": PLAIN,
            }
            for site, layer, value in (("digit3+last_digit", 1, inside), ("delimiter", 2, 0.1)):
                moved += [
                    head | {"step": s, "layer": layer, "site": site, "moved_new": value * s} for s in (0, 1)
                ]
                head_ = {"run": base, "task": task, "update": "adam", "group": "new", "basis": "manifold"}
                shares.append(head_ | {"layer": layer, "site": site, "share": value})
        reading = [
            {"task": task, "slot": 0, "layer": 1, "position": "digit3+last_digit", "weak": False}
            for task in ROUTED
        ]
        sites[f"sites-{base}"] = result("sites", {"run": f"zoo:{base}"}, reading=reading, sites=[])
    return {
        "locate": result("locate", models=located, divergence=divergence, errors=[]),
        "anatomy": result("anatomy", carried=carried),
        "subspace": result("subspace", shares=shares),
        "trajectory": result("trajectory", trajectory=moved),
        **sites,
    }
