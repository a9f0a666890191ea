"""Numbers and layers as a reader sees them: the same in the terminal, in figures and in reports."""

import math
from collections.abc import Mapping

DIGITS = 3
"""Significant digits of a number that nothing else is said about."""
LAYERS = ("layer", "layer_a", "layer_b")
"""Columns that hold the number of a layer; readers see its name."""


def number(value: object, digits: int = DIGITS) -> str:
    """`value` to `digits` significant digits (decimals below 1); integers in full; None and NaN a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return "-" if math.isnan(value) else str(value)
    size = abs(value)
    if value and not 5e-4 <= size < 1e7:
        return f"{value:.{digits - 2}e}"
    whole = 0 if size < 1 else len(str(int(size)))
    text = f"{value:,.{max(0, digits - whole)}f}"
    return text.replace(",", "", 1) if size < 9_999.5 else text


def layer_name(layer: int, hook: str | None = None) -> str:
    """`embed` for -1, `final` after the last norm, else `L3` for blocks.3.hook_resid_post."""
    if layer < 0:
        return "embed"
    return "final" if hook and not hook.startswith("blocks.") else f"L{layer}"


def with_layer_name(row: Mapping[str, object], column: str) -> object:
    """The cell of a row, the name in the place of a layer's number."""
    value, hook = row.get(column), row.get(column.replace("layer", "hook"))
    if column not in LAYERS or not isinstance(value, int):
        return value
    return layer_name(value, None if hook is None else str(hook))
