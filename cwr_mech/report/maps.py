"""The map in motion: what a page needs to show cities where they are, decoded, and implied by answers.

Two kinds of results are joined on city ids: "places" (decoded by layer, prompt and checkpoint) and "locate"
(implied by a model's own answers, task by task, and decoded at its best layer).
"""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from cwr_mech.render.numbers import layer_name, number
from cwr_mech.render.style import region_looks, task_look
from cwr_mech.render.traces import SYMBOLS
from cwr_mech.results import Result
from cwr_mech.world.new_cities import shown_regions

STEPS = 20_000
"""Steps of the grid on which places are passed on, over three times the extent of the world."""
MISSING = -32_768
"""No place: the model was not asked about this city."""


def map_data(results: Mapping[str, Result]) -> dict[str, Any] | None:
    """Cities, decoded and implied places as plain data for the page; None when no result has places.

    Places are int16 in base64, little-endian: `origin` + `unit` * value.
    """
    by_kind = {result.kind: result for result in results.values()}
    decoded, implied = by_kind.get("places"), by_kind.get("locate")
    if decoded is None and implied is None:
        return None
    cities = _cities(decoded, implied)
    true = np.stack([cities["x"], cities["y"]], axis=1).astype(float)
    middle, reach = (true.max(axis=0) + true.min(axis=0)) / 2, float(np.ptp(true, axis=0).max()) or 1.0
    unit = 3 * reach / STEPS
    frame = {"origin": middle.tolist(), "unit": unit}
    found: dict[str, Any] = {"cities": cities, **frame, "decoded": None, "implied": None}
    if decoded is not None:
        found["decoded"] = _decoded(decoded, middle, unit)
    if implied is not None:
        found["implied"] = _implied(implied, cities["id"], middle, unit)
    return found


def _cities(decoded: Result | None, implied: Result | None) -> dict[str, Any]:
    """All cities of either result: id, place, name, region, whether new, and the look of their region."""
    ids: dict[int, tuple[list[float], bool, str, str]] = {}
    if decoded is not None:
        a = decoded.arrays
        regions = shown_regions(a["region"], a["true"])
        for row, city in enumerate(a["ids"].tolist()):
            about = str(a["names"][row]), str(regions[row])
            ids[city] = (a["true"][row].tolist(), bool(a["is_new"][row]), *about)
    if implied is not None:
        a = implied.arrays
        for row, city in enumerate(a["ids"].tolist()):
            new = bool(a["is_new"][row])
            ids.setdefault(city, (a["true"][row].tolist(), new, f"city {city}", "new" if new else "training"))
    rows = list(ids.values())
    looks = region_looks(region for *_, region in rows)
    return {
        "id": list(ids),
        "x": [place[0] for place, *_ in rows],
        "y": [place[1] for place, *_ in rows],
        "is_new": [new for _, new, *_ in rows],
        "name": [name for *_, name, _ in rows],
        "region": [region for *_, region in rows],
        "looks": {
            name: {"color": look.colour, "symbol": SYMBOLS.get(look.marker, "circle")}
            for name, look in looks.items()
        },
    }


def _decoded(result: Result, middle: np.ndarray, unit: float) -> dict[str, Any]:
    scores = result.tables["scores"]
    hooks = list(dict.fromkeys((row["layer"], row["hook"]) for row in scores))
    return {
        "states": result.tables["states"],
        "prompts": [str(task) for task in result.arrays["tasks"]],
        "layers": [layer_name(*hook) for hook in hooks],
        "places": _packed(result.arrays["decoded"], middle, unit),
        "scores": [
            f"R² {number(row['r2'])} (shuffled places {number(row['r2_shuffled'])}), mean error "
            f"{number(row['error_mean'])} over held-out training cities"
            + (f", {number(row['error_new'])} over new cities" if row["error_new"] is not None else "")
            for row in scores
        ],
    }


def _implied(result: Result, ids: list[int], middle: np.ndarray, unit: float) -> dict[str, Any]:
    tasks = [str(task) for task in result.arrays["tasks"]]
    return {
        "runs": [str(run) for run in result.arrays["runs"]],
        "tasks": tasks,
        "looks": [
            {"color": task_look(task).colour, "symbol": SYMBOLS.get(task_look(task).marker, "circle")}
            for task in tasks
        ],
        "cities": [ids.index(city) for city in result.arrays["ids"].tolist()],
        "places": _packed(result.arrays["implied"], middle, unit),
        "probe": _packed(result.arrays["probe"], middle, unit),
    }


def _packed(places: np.ndarray, middle: np.ndarray, unit: float) -> str:
    """Places [... 2] on the page's grid; those beyond its edge are moved there."""
    steps = np.clip(np.round((places - middle) / unit), -32_000, 32_000)
    steps = np.where(np.isfinite(places).all(axis=-1, keepdims=True), steps, MISSING)
    return base64.b64encode(steps.astype("<i2").tobytes()).decode()
