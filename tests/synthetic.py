"""Results of every kind as a small trained model might give them, made up from seeded noise."""

import numpy as np

from cwr_mech.config import WorldConfig
from cwr_mech.results import Result
from cwr_mech.tasks.registry import PAPER_TASKS
from cwr_mech.world.cities import load_world

UNITS = {"distance": "tenths of a degree", "trianglearea": "square tenths of a degree", "angle": "degrees"}
UNITS["perimeter"] = UNITS["distance"]
CONSTANT = {"distance": 449, "trianglearea": 60_000, "angle": 41, "compass": 0.2, "inside": 0.5}
CONSTANT |= {"perimeter": 1561, "crossing": 0.5}
LABELS = ("compass", "inside", "crossing")
SPANS = ("swapped_digits", "swapped_last", "swapped_delimiter", "later_digits", "later_last", "equals")


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def _task(name: str) -> dict[str, object]:
    label = name in LABELS
    return {"task": name, "metric": "accuracy" if label else "error", "unit": UNITS.get(name, "")}


def train(run: str = "quick", tasks: tuple[str, ...] = PAPER_TASKS) -> Result:
    rows = np.linspace(0, 450_000, 160)[1:]
    fall = 1 / (1 + np.exp((rows[:, None] / 1000 - 200 - 10 * np.arange(len(tasks))) / 25))
    by_task = 0.4 + 0.5 * fall + rng().normal(0, 0.01, (len(rows), len(tasks)))
    scores = [
        {"run": run, "step": int(r / 56), "rows": int(r), **_task(name)}
        | {"value": value, "baseline": float(CONSTANT[name])}
        for index, name in enumerate(tasks)
        for r in rows[9::10]
        for f in [1 / (1 + np.exp((r / 1000 - 200 - 10 * index) / 25))]
        for value in [0.85 - (0.85 - CONSTANT[name]) * f if name in LABELS else CONSTANT[name] * (0.3 + f)]
    ]
    return Result(
        kind="train",
        command=f"cwr-mech report {run}",
        inputs={f"runs/{run}/metrics.jsonl": "0" * 64},
        params={"runs": [run], "seed": 42, "eval_rows": 64},
        values={"n_parameters": 266_816, "steps": 8000, "rows": 448_000, "seconds": 612.0, "state": "done"}
        | {"rows_per_second": 735.0, "loss": 0.41},
        tables={"tasks": scores},
        arrays={
            "rows": rows,
            "step": rows / 56,
            "loss": by_task.mean(axis=1),
            "loss_by_task": by_task,
            "tasks": np.array(tasks),
        },
    )


def evaluation(runs: tuple[str, ...] = ("quick", "quick-distance", "quick-angle")) -> Result:
    noise = rng()
    table = []
    for run in runs:
        for group in ("old", "new", "all"):
            for name in PAPER_TASKS if run == "quick" else (run.split("-")[1],):
                skill = {"old": 0.8, "new": 0.1, "all": 0.6}[group] + noise.normal(0, 0.05)
                base = CONSTANT[name]
                label = name in LABELS
                value = base + (1 - base) * skill if label else base * (1 - skill)
                table.append(
                    {"run": run, "group": group, **_task(name), "n": 1000, "parse_rate": 0.998}
                    | {"value_mean": value, "value_median": None if label else value * 0.7}
                    | {"value_mean_parsed": None if label else value * 0.99, "baseline": base}
                )
    return Result(
        kind="eval",
        command="cwr-mech eval " + " ".join(runs),
        inputs={f"runs/{run}": "1" * 64 for run in runs},
        params={"runs": list(runs), "seed": 0, "split": "test"},
        tables={"tasks": table},
    )


def probe(n: int = 256, n_new: int = 16) -> Result:
    world = load_world(WorldConfig(n_cities=n, new="atlantis" if n_new else "none", n_new=n_new or 1))
    noise = rng()
    decoded = world.xy + noise.normal(0, 90, world.xy.shape)
    decoded[world.is_new] += [500, -300]
    layers = []
    for layer in range(-1, 5):
        for task in PAPER_TASKS:
            r2 = float(np.clip(0.25 * (layer + 1) + noise.normal(0, 0.03) - 0.1, -0.2, 0.97))
            hook = "hook_embed" if layer < 0 else f"blocks.{layer}.hook_resid_post"
            layers.append(
                {"run": "quick", "layer": layer, "hook": "unembed.hook_in" if layer == 4 else hook}
                | {"task": task, "site": "last_digit+delimiter", "r2": r2, "r2_x": r2, "r2_y": r2 - 0.02}
                | {"lo": r2 - 0.04, "hi": r2 + 0.03, "error_mean": 700 * (1.02 - r2)}
                | {"error_median": 600 * (1.02 - r2), "control_r2_shuffled": -0.09}
                | {"control_r2_untrained": -0.2, "control_r2_digits": -0.05, "n_train": 205, "n_test": n}
            )
    new = [
        {key: row[key] for key in ("run", "layer", "task", "site")}
        | {"n_new": n_new, "error_mean": 650.0, "error_median": 640.0, "error_old": row["error_mean"]}
        for row in layers
    ]
    place = {"run": "quick", "layer": 3, "task": "perimeter", "site": "last_digit+delimiter"}
    centred = (world.xy - world.xy.mean(axis=0)) / 400
    components = np.c_[centred @ [[0.8, 0.5], [-0.6, 0.9]], noise.normal(0, 1, world.n)]
    return Result(
        kind="probe",
        command="cwr-mech probe quick",
        inputs={"activations/quick-step0008000.h5": "2" * 64},
        params={"runs": ["quick"], "method": "ridge", "folds": 5, "draws": 10, "seed": 0, "map": place},
        values={"r2_best": 0.97, "error_test": 112.0, "error_new": 640.0},
        tables={"layers": layers, **({"new": new} if n_new else {})},
        arrays={
            "decoded": decoded,
            "true": world.xy,
            "is_new": world.is_new,
            "is_test": np.ones(world.n, dtype=bool),
            "region": np.asarray(world.region, dtype=str),
            "components": components + noise.normal(0, 0.3, components.shape),
            "explained": np.array([0.41, 0.33, 0.06]),
        },
        notes=["Controls on the same folds: 10 shuffles of the places."],
    )


def cka(runs: tuple[str, ...] = ("quick", "quick-distance", "quick-angle"), n_layers: int = 4) -> Result:
    layers = np.tile(np.arange(-1, n_layers + 1), len(runs))
    names = np.repeat(np.array(runs), n_layers + 2)
    alike = np.exp(-np.abs(layers[:, None] - layers) / 2) * np.where(names[:, None] == names, 1, 0.7)
    np.fill_diagonal(alike, 1.0)
    hooks = np.array(
        [
            "hook_embed" if k < 0 else "unembed.hook_in" if k == n_layers else f"blocks.{k}.hook_resid_post"
            for k in layers
        ]
    )
    return Result(
        kind="cka",
        command="cwr-mech cka " + " ".join(runs),
        inputs={f"activations/{run}.h5": "3" * 64 for run in runs},
        params={"runs": list(runs), "debiased": True, "site": "last_digit+delimiter", "prompt": "distance"},
        values={
            "n": 256,
            "p": 128,
            "measure": "linear CKA, debiased",
            "mean_off_diagonal": float(alike.mean()),
        },
        tables={
            "control": [
                {"control": "shuffled cities", "mean": 0.0003, "max": 0.021, "n": 256},
                {"control": "bag of id digits", "mean": 0.11, "max": 0.32, "n": 256},
            ]
        },
        arrays={
            "matrix": alike,
            "lo": alike - 0.03,
            "hi": alike + 0.03,
            "runs": names,
            "layers": layers,
            "hooks": hooks,
            "tasks": np.full(len(layers), "distance"),
        },
        notes=["256 old cities."],
    )


def patch(task: str = "distance") -> Result:
    noise = rng()
    cells = []
    for direction in ("denoise", "noise"):
        for component in ("resid_post", "attn_out", "mlp_out"):
            for layer in range(4):
                for place, span in enumerate(SPANS):
                    early = span.startswith("swapped") and layer < 2
                    late = span == "equals" and layer >= 2
                    mean = 0.85 if early or late else 0.03
                    recovered = mean * (1 if component == "resid_post" else 0.4) + noise.normal(0, 0.02)
                    recovered = 0.9 if not place and component == "resid_post" and layer < 3 else recovered
                    sure = 0.001 if recovered > 0.1 else 0.6
                    cells.append(
                        {"direction": direction, "component": component, "layer": layer, "head": None}
                        | {"span": span, "metric": "logit_diff", "n": 180, "clean": 4.1, "corrupt": -3.8}
                        | {"patched": -3.8 + 7.9 * recovered, "effect": 7.9 * recovered}
                        | {"recovered": recovered, "lo": recovered - 0.05}
                        | {"hi": recovered + 0.05, "p": sure / 2, "p_adj": sure}
                    )
    return Result(
        kind="patch",
        command=f"cwr-mech patch quick --task {task}",
        inputs={"runs/quick": "4" * 64},
        params={"runs": ["quick"], "task": task, "seed": 0, "metric": "logit_diff"},
        values={"n_pairs": 256, "n_kept": 180, "self_patch_max": 2.4e-7, "null_recovered": 0.012},
        tables={"cells": cells, "attrition": [{"reason": "clean answer wrong", "n": 50}]},
        arrays={"spans": np.array(SPANS)},
    )


def places(runs: tuple[str, ...] = ("quick", "other"), steps: tuple[int, ...] = (0, 100, 8000)) -> Result:
    """Cities that move from the middle of the world to their places, layer by layer and step by step."""
    world = load_world(WorldConfig(n_cities=40, new="atlantis", n_new=6))
    rows, tasks = np.concatenate([world.old(), world.new()]), ("distance", "compass")
    ids = world.ids[rows]
    hooks = [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
    states = [(run, step) for run in runs for step in steps]
    true = world.xy_of(ids).astype(float)
    shape = len(states), len(tasks), len(hooks)
    share = np.arange(1, 1 + np.prod(shape)).reshape(*shape, 1, 1) / np.prod(shape)
    decoded = true * share + rng().normal(0, 20, (*shape, len(ids), 2))
    scores = [
        {
            "run": run,
            "step": step,
            "task": task,
            "layer": layer,
            "hook": hook,
            "r2": float(share[s, t, layer, 0, 0]),
        }
        | {
            "r2_shuffled": -0.02,
            "error_mean": 400.0 * (1 - float(share[s, t, layer, 0, 0])),
            "error_new": 500.0,
        }
        for s, (run, step) in enumerate(states)
        for t, task in enumerate(tasks)
        for layer, hook in enumerate(hooks)
    ]
    return Result(
        kind="places",
        command="cwr-mech places quick other --steps all",
        params={"runs": list(runs), "site": "last_digit", "folds": 5, "draws": 5, "seed": 0},
        values={"n": len(world.old()), "n_new": len(world.new()), "r2_best": 1.0},
        tables={"scores": scores, "states": [{"run": run, "step": step} for run, step in states]},
        arrays={
            "decoded": decoded.astype(np.float32),
            "true": true,
            "is_new": world.is_new[rows],
            "ids": ids,
            "tasks": np.array(tasks),
            "hooks": np.array(hooks),
            "region": world.region[rows].astype(str),
            "names": np.array([world.names[row] for row in rows]),
        },
    )


ALL = {
    "places": places,
    "train-quick": train,
    "eval": evaluation,
    "probe": probe,
    "cka": cka,
    "patch-distance": patch,
}
