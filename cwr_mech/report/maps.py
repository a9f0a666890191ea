"""The map in motion: what a page needs to show cities where they are, decoded, and implied by answers.

Two kinds of results are joined on city ids: "places" (decoded by layer, prompt and checkpoint) and "locate"
(implied by a model's own answers, task by task, and decoded at its best layer).
"""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from cwr_mech.render.numbers import layer_name, number
from cwr_mech.render.style import Look, region_looks, task_look
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
    parts = []
    for result in (decoded, implied):
        if result is not None:
            a = result.arrays
            new, x, y = a["is_new"].astype(bool), *a["true"].T
            about = {
                "name": [f"city {city}" for city in a["ids"]],
                "region": np.where(new, "new", "training"),
            }
            if result is decoded:
                about = {"name": a["names"], "region": shown_regions(a["region"], a["true"])}
            parts.append(pd.DataFrame({"id": a["ids"], "x": x, "y": y, "is_new": new} | about))
    cities = pd.concat(parts).drop_duplicates("id")
    looks = {name: _look(look) for name, look in region_looks(cities["region"]).items()}
    return {**cities.to_dict("list"), "looks": looks}


def _look(look: Look) -> dict[str, str]:
    """Colour and marker as plotly takes them."""
    return {"color": look.colour, "symbol": SYMBOLS.get(look.marker, "circle")}


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
        "looks": [_look(task_look(task)) for task in tasks],
        "cities": [ids.index(city) for city in result.arrays["ids"].tolist()],
        "places": _packed(result.arrays["implied"], middle, unit),
        "probe": _packed(result.arrays["probe"], middle, unit),
    }


def _packed(places: np.ndarray, middle: np.ndarray, unit: float) -> str:
    """Places [... 2] on the page's grid; those beyond its edge are moved there."""
    steps = np.clip(np.round((places - middle) / unit), -32_000, 32_000)
    steps = np.where(np.isfinite(places).all(axis=-1, keepdims=True), steps, MISSING)
    return base64.b64encode(steps.astype("<i2").tobytes()).decode()
